# The whole of Sluice from a fresh clone; hack/demo says what it shows.
.PHONY: demo demo-down

demo: ## From a fresh clone to a running system: cluster, charts, payments, crashes, scaling
	go run ./hack/demo

demo-down: ## Remove what the demo made
	go run ./hack/demo down
