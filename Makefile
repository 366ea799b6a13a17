# Everything that a developer or CI does, by name. `make help` lists it.
# What is built or downloaded goes to the cache outside the checkout; a second run builds nothing.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
NAME ?= demo
ACCEL ?= auto
PROVIDER ?= libvirt
VERSION ?= v1.37.2
FORMER_VERSION := v1.36.3
PYTEST_ARGS ?=
STORIES ?= libvirt_cluster high_availability life operations failure_domains

CACHE := $(or $(CAPN_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/capn)
VENV := $(CACHE)/venv-$(shell sha256sum requirements/dev.txt | cut -c1-12)
PY := $(VENV)/bin/python

# The hypervisor, the node image and the tests that boot machines need root. A user's own files stay the user's: Go runs
# without sudo, and what Python writes beside the sources goes to the cache.
AS_ROOT := env
ifneq ($(shell id -u),0)
AS_ROOT := sudo -E env "PATH=$$PATH" "HOME=$$HOME" "CAPN_CACHE=$(CACHE)" "PYTHONPYCACHEPREFIX=$(CACHE)/root/pycache" \
  "HYPOTHESIS_STORAGE_DIRECTORY=$(CACHE)/root/hypothesis"
PYTEST_ARGS += -p no:cacheprovider
endif

SOURCES := capn tests bench

# What needs real servers or machines has the host for itself, one test at a time; the rest uses all CPUs before it.
MACHINE_TESTS := integration or e2e or libvirt or kubevirt
# pytest ends with 5 when the arguments (such as -k) leave nothing of one half.
HALF = $(PYTEST_ARGS) $(if $(PYTEST_ARGS),|| [ $$? -eq 5 ])
UNIT_TESTS = $(PY) -m pytest -n auto -m 'not ($(MACHINE_TESTS))' $(HALF)

.PHONY: help
help: ## List every target
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: host
host: ## Install the Debian packages that are missing (apt, sudo)
	@command -v go >/dev/null || { echo 'error: go is not on PATH; install Go 1.26 or newer' >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo 'error: $(PYTHON) is older than 3.11; set PYTHON=' >&2; exit 1; }
	@$(PYTHON) -m capn.parts.host install

.PHONY: sync
sync: $(VENV)/.complete ## Make the Python environment in the cache (pinned, with hashes)

# Its name holds the hash of the requirements, so what is there is right, whatever a fresh clone's times say.
$(VENV)/.complete: | host
	@mkdir -p $(CACHE)
	@rm -rf $(VENV)
	@echo "making the Python environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@# --no-deps: the file names all of them, and Debian 12's pip takes an extra for another, unpinned package.
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/dev.txt
	@touch $@

.PHONY: fmt
fmt: sync ## Format and fix what can be fixed
	@$(PY) -m ruff format $(SOURCES)
	@$(PY) -m ruff check --fix $(SOURCES)

.PHONY: lint
lint: sync ## Check format, lint rules and layers
	@$(PY) -m ruff format --check $(SOURCES)
	@$(PY) -m ruff check $(SOURCES)
	@$(VENV)/bin/lint-imports

.PHONY: type
type: sync ## Check types (mypy --strict)
	@$(PY) -m mypy

.PHONY: generate
generate: sync ## Write crds/ and docs/api.md from the models
	@$(PY) -m capn.api.crd
	@$(PY) -m capn.api.docs

.PHONY: generate-check
generate-check: sync ## Fail when crds/ or docs/api.md differ from the models
	@$(PY) -m capn.api.crd --check
	@$(PY) -m capn.api.docs --check

.PHONY: golden
golden: sync ## Rewrite the golden files
	@$(PY) -m pytest tests/golden --snapshot-update $(PYTEST_ARGS)

.PHONY: parts
parts: sync ## Build the third-party programs that are missing in the cache (VERSION=v1.37.2)
	@$(PY) -m capn parts build --version $(VERSION)

.PHONY: image
image: parts ## Build the node image (VERSION=v1.37.2) if it is missing in the cache
	@$(AS_ROOT) $(PY) -m capn image build --version $(VERSION)

.PHONY: test
test: image kubevirt ## Run all of the tests, set-up included (minutes: real machines boot)
	@$(UNIT_TESTS)
	@$(AS_ROOT) $(PY) -m pytest --durations=15 -m '$(MACHINE_TESTS)' $(HALF)

.PHONY: test-unit
test-unit: sync ## Run the tests that need nothing but Python, on all CPUs
	@$(UNIT_TESTS)

.PHONY: test-integration
test-integration: parts ## Run the tests against real etcd, kube-apiserver and controller manager
	@$(AS_ROOT) $(PY) -m pytest -m integration $(PYTEST_ARGS)

.PHONY: test-e2e
test-e2e: image kubevirt ## Run the tests that boot real machines
	@$(AS_ROOT) $(PY) -m pytest -m 'e2e or libvirt or kubevirt' $(PYTEST_ARGS)

.PHONY: kubevirt
kubevirt: parts ## Build KubeVirt and its images if they are missing in the cache (minutes)
	@$(AS_ROOT) $(PY) -m capn parts build --kubevirt

.PHONY: test-kubevirt
test-kubevirt: kubevirt ## Run the provider's whole contract on real KubeVirt, with tiny guests
	@CAPN_KUBEVIRT_CONTRACT=1 $(AS_ROOT) $(PY) -m pytest -m 'kubevirt and not e2e' $(PYTEST_ARGS)

.PHONY: e2e-kubevirt
e2e-kubevirt: kubevirt image ## Tell the whole story of a child cluster on real KubeVirt (a quarter of an hour when emulated)
	@CAPN_E2E_KUBEVIRT=1 $(AS_ROOT) $(PY) -m pytest -s tests/e2e/test_kubevirt_cluster.py $(PYTEST_ARGS)

.PHONY: e2e-recursive
e2e-recursive: image ## Tell the story of a cluster in a cluster in a cluster, with real machines (a quarter of an hour when emulated)
	@CAPN_E2E_RECURSIVE=1 $(AS_ROOT) $(PY) -m pytest -s tests/e2e/test_recursion.py $(PYTEST_ARGS)

.PHONY: e2e-full
e2e-full: image ## Scale, change, upgrade, heal, back up and restore real clusters, with clients that count errors (STORIES=life; all: an hour and a half when emulated)
	@$(MAKE) image VERSION=$(FORMER_VERSION)
	@CAPN_E2E_FULL=1 $(AS_ROOT) $(PY) -m pytest -s $(STORIES:%=tests/e2e/test_%.py) $(PYTEST_ARGS)

.PHONY: verify
verify: lint type generate-check test ## All that CI checks

.PHONY: demo
demo: parts ## From nothing to a child cluster in real machines (NAME=demo, ACCEL=auto|kvm|emulate, PROVIDER=libvirt|kubevirt)
	@$(AS_ROOT) $(PY) -m capn demo --name $(NAME) --accel $(ACCEL) --provider $(PROVIDER)

.PHONY: demo-recursive
demo-recursive: parts ## Root, child, grandchild: a cluster in a cluster in a cluster, each in real machines
	@$(AS_ROOT) $(PY) -m capn demo --recursive --name $(NAME) --accel $(ACCEL)

.PHONY: demo-clean
demo-clean: ## Remove everything of the demo; fine at any half state and twice
	@if ! compgen -G '$(CACHE)/venv-*' >/dev/null; then echo 'nothing to clean: no demo ever ran here'; \
	  else $(MAKE) sync && $(AS_ROOT) $(PY) -m capn demo --clean --name $(NAME); fi

.PHONY: bench-levels
bench-levels: sync ## B12: depth 8 and a thousand clusters over 4 levels, simulated; table and plot go to docs/
	@$(PY) -m bench levels --publish $(BENCH_ARGS)

.PHONY: bench
bench: parts ## Run the benchmarks; a table and a plot go to docs/
	@$(PY) -m bench $(BENCH_ARGS)
