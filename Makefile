# Everything that people and CI call. `make help` lists it.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo

.PHONY: help
help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: tools
tools: ## Build what tests and demo run against (Kubernetes, kwok, containerd …), cached by version
	hack/tools.sh all

# One build of everything, tests included: two builds with other sets of packages would compile most crates twice,
# because features are unified per build.
.PHONY: build
build: ## Build everything, tests included
	$(CARGO) build --workspace --all-targets

.PHONY: generate
generate: build ## Write generated files: CRDs, references, protocol code
	target/debug/atoll-wire-codegen
	target/debug/crdgen
	target/debug/xidgen

.PHONY: fmt
fmt: ## Format the code
	$(CARGO) fmt --all
	gofmt -w tests/controlplane

.PHONY: lint
lint: ## Formatting of Rust and Go, clippy
	$(CARGO) fmt --all --check
	test -z "$$(gofmt -l tests/controlplane)"
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings

.PHONY: verify
verify: lint ## Lint, and check that generated files are up to date
	hack/verify-generated.sh

.PHONY: test-unit
test-unit: ## Tests that need no control plane
	$(CARGO) test --workspace --lib --bins

.PHONY: test
test: tools build ## All tests, those on real API servers included; ends with a count
	hack/test.sh

.PHONY: test-gpu
test-gpu: ## The device plugin's NVIDIA backend on this machine's GPU, beside nvidia-smi; fails where there is none
	nvidia-smi -L
	ATOLL_TEST_GPU=1 $(CARGO) test -p atoll-device-plugin --test gpu -- --nocapture --test-threads=1

.PHONY: fuzz-scheduler
fuzz-scheduler: tools ## Compare 1,000,000 pairs of pod and node with kube-scheduler's filters; PAIRS=, ATOLL_SEED=
	ATOLL_FUZZ_PAIRS=$(or $(PAIRS),1000000) ATOLL_SEED=$${ATOLL_SEED:-$$SRANDOM} \
		$(CARGO) test -p atoll-scheduler --test differential -- --nocapture

.PHONY: fuzz-wire
fuzz-wire: ## 5,000,000 messages that chance made, to the gateway's checks and to the agent's manager; MESSAGES=, ATOLL_SEED=
	ATOLL_FUZZ_MESSAGES=$(or $(MESSAGES),5000000) ATOLL_SEED=$${ATOLL_SEED:-$$SRANDOM} \
		$(CARGO) test --release -p atoll-operator -p atoll-agent --lib fuzz -- --nocapture

.PHONY: hostile
hostile: tools ## 1,000,000 hostile requests to a gateway on a real API server; REQUESTS=, ATOLL_SEED=
	ATOLL_HOSTILE_REQUESTS=$(or $(REQUESTS),1000000) ATOLL_SEED=$${ATOLL_SEED:-$$SRANDOM} \
		$(CARGO) test --release -p atoll-operator --test hostile -- --nocapture

.PHONY: demo
demo: tools ## A network on this machine, step by step; CHECK=1: verify, time and clean up
	$(CARGO) build --release --workspace --bins
	$(CARGO) build --release -p atoll-fake-nvml
	target/release/atoll-demo $(if $(CHECK),--check)

.PHONY: bench-apply
bench-apply: tools ## Time from kubectl apply to all members Running; writes target/bench/apply.json
	$(CARGO) build --release --workspace --bins
	target/release/bench-apply

.PHONY: bench-scheduler
bench-scheduler: tools ## The scheduler beside kube-scheduler and none; writes target/bench/scheduler.json
	$(CARGO) build --release --workspace --bins
	target/release/bench-scheduler

.PHONY: simulate
simulate: ## Simulated faults against the real decisions of hub, gateways, agents and watchdogs; SEEDS=, FIRST=
	$(CARGO) build --release -p atoll-simulation
	target/release/simulate --seeds $(or $(SEEDS),10000) --first $(or $(FIRST),0)

.PHONY: fault-scheduler
fault-scheduler: tools ## Kill the scheduler 1,000 times while gangs come and go
	ATOLL_FAULT_KILLS=1000 $(CARGO) test -p atoll-scheduler --test faults -- --nocapture

# TRIALS, SEED and FULL=1 (Atoll's default times) change it; ARGS adds flags, see `target/release/fault-real --help`.
.PHONY: fault-real
fault-real: tools ## Cut links, kill and freeze processes of a real network; as root; TRIALS=, FULL=1; writes target/faults/real.json
	$(CARGO) build --release --workspace --bins
	$(CARGO) build --release -p atoll-fake-nvml
	target/release/fault-real --trials=$(or $(TRIALS),200) $(if $(FULL),--full) $(if $(SEED),--seed=$(SEED)) $(ARGS)

.PHONY: bench-packing
bench-packing: ## GPUs left over on a full cluster; needs the openb trace (ATOLL_OPENB); writes target/bench/packing.json
	$(CARGO) build --release --workspace --bins
	target/release/bench-packing

.PHONY: bench-devices
bench-devices: ## The device plugin on GPUs that a library plays; writes target/bench/devices.json
	$(CARGO) build --release --workspace --bins
	$(CARGO) build --release -p atoll-fake-nvml
	target/release/bench-devices

.PHONY: bench-gateway
bench-gateway: tools ## A gateway with 10,000 sessions over TLS; writes target/bench/gateway.json
	$(CARGO) build --release --workspace --bins
	target/release/bench-gateway

.PHONY: bench
bench: bench-apply bench-scheduler bench-packing bench-devices bench-gateway ## All benchmarks
