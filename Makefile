# The one door. `make help` lists what is behind it.

CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
PROOF ?= reload
N ?= 100

.DEFAULT_GOAL := help
.PHONY: help run build test test-workspace test-loom test-shuttle test-miri setup check generate image e2e bench prove coverage clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## Watch this machine's own processors, live: windows of five seconds (Ctrl-C ends it)
	$(TARGET)/release/sidestream run manifests/examples/this-machine.yaml

build: ## Build the command line for release
	$(CARGO) build --release --locked --package sidestream

test: setup test-workspace test-loom test-shuttle test-miri ## Set up and run every test, with a small sample of each long proof

setup:
	@e2e/setup.sh

test-workspace:
	$(CARGO) test --workspace --locked

# Models run optimised, or they take minutes, but with what the code asserts of itself. Each of these builds into a
# folder of its own, or the other flags would have everything built anew.
MODEL := CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=true $(CARGO) test --locked --release

test-loom: export RUSTFLAGS = --cfg loom
test-loom: export CARGO_TARGET_DIR := $(TARGET)/loom
test-loom:
	$(MODEL) --package sidestream-ring --package sidestream-scheduler --lib --test loom

test-shuttle: export RUSTFLAGS = --cfg=shuttle
test-shuttle: export CARGO_TARGET_DIR := $(TARGET)/shuttle
test-shuttle:
	$(MODEL) --package sidestream-scheduler --test shuttle_pool

# Miri writes down the folder of the checkout that it built: of ours it builds anew, wherever this one is now. By name, for
# where cargo keeps what is its own to change.
test-miri:
	@[ ! -d $(TARGET)/miri ] || find $(TARGET)/miri -mindepth 1 -name 'sidestream*' -prune -exec rm -r {} +
	@if $(CARGO) +nightly miri --version >/dev/null 2>&1; then \
		CARGO_TARGET_DIR=$(TARGET)/miri MIRIFLAGS=-Zmiri-disable-isolation $(CARGO) +nightly miri test --locked --package sidestream-ring --lib; \
	else echo "not run: miri; rustup toolchain install nightly --component miri"; fi

check: ## Formatting, lints, generated files, and the other platforms' types
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	@e2e/check-generated.sh
	@e2e/check-platforms.sh

generate: ## Write the files that are generated from the types
	$(CARGO) run --locked --quiet --package sidestream-crds --bin crdgen
	SIDESTREAM_GENERATE=1 $(CARGO) test --locked --quiet --package sidestream-sidecar --package sidestream --lib --bins the_reference_page
	@e2e/install-manifest.sh

image: ## Build the images of operator, sidecar and command line, as OCI tars in target/images, without a daemon
	@e2e/image/build.sh

e2e: ## Raise a cluster from packages, install the chart, test it with kubectl, take everything down (E2E_CONTEXT=NAME: on yours)
	@e2e/run.sh

bench: ## Measure, and write docs/reference/benchmarks.md
	@e2e/bench.py

prove: ## Run a long proof: make prove PROOF=reload N=1000
	@e2e/prove.sh $(PROOF) $(N)

coverage: ## Line coverage of the rooms that carry the promises (needs cargo-llvm-cov)
	$(CARGO) llvm-cov --locked --package sidestream-event --package sidestream-ring --package sidestream-scheduler \
		--package sidestream-graph --package sidestream-expr --package sidestream-crds --package sidestream-sidecar \
		--ignore-filename-regex '(connector|host|plan|sidecar/src|bin)/' --summary-only

clean: ## Remove what was built
	$(CARGO) clean
