# A Kubernetes to try and test Sluice on; hack/cluster/README.md says what it is and what it needs.
# YES=1 asks nothing; CONTEXT=name uses that kube context; IMAGE_LOAD and IMAGE_PREFIX say how images get there.
export YES CONTEXT IMAGE_LOAD IMAGE_PREFIX

.PHONY: cluster cluster-down postgres postgres-down binaries

cluster: ## Bring a Kubernetes of two nodes up on this machine
	$(CLUSTER) up

cluster-down: ## Remove it without a trace
	$(CLUSTER) down

postgres: ## Start a PostgreSQL that pods reach as postgres.default.svc
	$(CLUSTER) postgres

postgres-down: ## Remove it and its data
	$(CLUSTER) postgres-down

binaries: ## Build what the cluster is made of into the user's cache
	$(CLUSTER) binaries
