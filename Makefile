# One verb per floor; `make help` lists them. `make demo` and `make test` need nothing but this file on a bare Debian 12.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VENV   := .venv
PY     := $(VENV)/bin/python
PYTEST := $(PY) -m pytest
STAMPS := build/.stamps
CASES  ?=
VM     := build/vm
# BPF, namespaces and cgroups need root; everything else runs as whoever calls make.
ROOT   := $(if $(filter 0,$(shell id -u)),,sudo --preserve-env=MESH_REQUIRE_KERNEL,MESH_SOAK_ROUNDS,MESH_SOAK_STALL_SECONDS,MESH_SOAK_OUTPUT,CI)

.PHONY: help setup ready setup-bench bpf compiled lint format rooms types unit property contract kernel netns fuzz vm vm-matrix setup-vm bench bench-soak bench-keep soak-splice test ci demo up down clean root lock

help: ## what can be made
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

VM_OPTIONS = $(if $(TESTS),--tests "$(TESTS)") $(if $(MINUTES),--minutes $(MINUTES)) $(if $(ACCEL),--accel $(ACCEL))

# --- what everything needs -------------------------------------------------------------------------------------------
setup: ready compiled ## install what is missing (apt, .venv), build the BPF object and the compiled modules
ready: $(STAMPS)/packages $(VENV)/.installed bpf
setup-bench: setup $(STAMPS)/packages-bench

$(STAMPS)/packages: .ci/packages
	@.ci/packages base
	@mkdir -p $(@D) && touch $@

$(STAMPS)/packages-bench: .ci/packages
	@.ci/packages bench
	@mkdir -p $(@D) && touch $@

$(STAMPS)/packages-vm: .ci/packages
	@.ci/packages vm
	@mkdir -p $(@D) && touch $@

setup-vm: setup $(STAMPS)/packages-vm $(VM)/venv/.installed

$(VM)/venv/.installed: vm-lab/requirements.lock
	@test -x $(VM)/venv/bin/python || python3 -m venv $(VM)/venv
	@echo "setup: installing virtme-ng into $(VM)/venv"
	@$(VM)/venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

$(VENV)/.installed: requirements.lock pyproject.toml | $(STAMPS)/packages
	@test -x $(PY) || python3 -m venv $(VENV)
	@echo "setup: installing the locked Python packages into $(VENV)"
	@$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

bpf: $(STAMPS)/packages ## build the BPF object
	@$(MAKE) --no-print-directory --silent -C bpf

compiled: $(VENV)/.installed ## compile what carries connections (nodeagent/compiled); nothing if it is current
	@CC=$${CC:-clang} $(PY) -m nodeagent.compiled.build

lock: ## resolve the dependencies anew into requirements.lock (needs uv)
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev --no-header pyproject.toml -o requirements.lock
	uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header vm-lab/requirements.in -o vm-lab/requirements.lock

root:
	@test -z "$(ROOT)" || command -v sudo >/dev/null || { \
	  echo "this needs root (BPF programs, network namespaces, cgroups) and there is no sudo: run make as root" >&2; exit 1; }

# --- checks without running anything -------------------------------------------------------------------------------
lint: ready ## ruff, formatting, who may import whom, size budgets
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports
	$(PYTEST) -q tests/test_architecture.py

format: ready ## let ruff format and fix what it can
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

rooms: ready ## write the rooms of the agent into ARCHITECTURE.md, as the contracts and docstrings have them
	$(PY) -m tests.support.rooms

types: ready ## mypy --strict
	$(VENV)/bin/mypy

# --- floors of tests -------------------------------------------------------------------------------------------------
unit: ready ## pure code: no root, no network
	$(PYTEST) -q -n auto tests/unit tests/test_architecture.py

property: ready ## hypothesis: codecs, wire model, policy
	$(PYTEST) -q -n auto tests/property

contract: ready ## one suite per interface
	$(PYTEST) -q -n auto tests/contract

kernel: setup root ## BPF programs in the running kernel
	$(ROOT) $(PYTEST) -q tests/kernel

netns: setup root ## whole stories over two nodes made of network namespaces
	$(ROOT) $(PYTEST) -q tests/netns

fuzz: ready ## bounded fuzzing of everything that reads bytes from others
	$(PYTEST) -q tests/fuzz

vm: setup-vm ## the kernel and netns tests on other kernels of Debian: KERNEL="6.1 7.x"; TESTS=all, MINUTES, ACCEL=kvm|tcg
	@test -n "$(KERNEL)" || { echo 'which one? for example: make vm KERNEL=6.1, or KERNEL="6.12 7.x"' >&2; exit 2; }
	@PYTHONPATH=vm-lab $(PY) -m vmlab $(VM_OPTIONS) $(KERNEL)

vm-matrix: setup-vm ## ... on 6.1, 6.12, 6.18 and the newest 7, one after another; writes the table in vm-lab/README.md
	@PYTHONPATH=vm-lab $(PY) -m vmlab $(VM_OPTIONS) --keep $(KERNEL)

test: setup root ## unit, property, contract, kernel and netns; a skipped kernel test is a failure
	@MESH_REQUIRE_KERNEL=1 $(ROOT) .ci/floors

ci: ## what CI runs: lint, types, test
	@.ci/run

# --- to look at and to play with --------------------------------------------------------------------------------------
demo: setup root ## a mesh of two nodes with real programs, checked step by step; removed at the end
	@$(ROOT) $(PY) -m tests.demo run

up: setup root ## start the demo's mesh and leave it running
	@$(ROOT) $(PY) -m tests.demo up

down: root ## remove the mesh that `make up` left
	@test -x $(PY) || { echo "nothing to remove: there is no $(VENV)"; exit 0; }; $(ROOT) $(PY) -m tests.demo down

soak-splice: setup root ## receivers that stop for up to a minute, 100 rounds (ROUNDS, STALL_SECONDS): memory, order and ends of spliced flows; three to five minutes
	@MESH_REQUIRE_KERNEL=1 MESH_SOAK_ROUNDS="$(or $(ROUNDS),100)" MESH_SOAK_STALL_SECONDS="$(or $(STALL_SECONDS),60)" \
	  MESH_SOAK_OUTPUT=build/soak-splice.json $(ROOT) $(PYTEST) -q tests/kernel/test_splice_soak.py

bench: setup-bench root ## measure against no mesh, Envoy, HAProxy (half an hour; CASES="bulk echo-rtt", SYSTEMS, TOPOLOGIES, RUNS, SECONDS choose less)
	@$(ROOT) $(PY) -m tests.bench $(if $(CASES),--cases "$(CASES)") $(if $(SYSTEMS),--systems "$(SYSTEMS)") \
	  $(if $(TOPOLOGIES),--topologies "$(TOPOLOGIES)") $(if $(RUNS),--runs "$(RUNS)") $(if $(SECONDS),--seconds "$(SECONDS)") \
	  $(if $(IDLE_CONNECTIONS),--idle-connections "$(IDLE_CONNECTIONS)") $(if $(SOAK_SECONDS),--soak-seconds "$(SOAK_SECONDS)")

bench-soak: setup-bench root ## mixed traffic through every system, SOAK_SECONDS (default 600) at a time; any error fails
	@$(ROOT) $(PY) -m tests.bench --cases soak --runs 1 --soak-seconds "$(or $(SOAK_SECONDS),600)" --output build/soak \
	  $(if $(SYSTEMS),--systems "$(SYSTEMS)") $(if $(TOPOLOGIES),--topologies "$(TOPOLOGIES)")

bench-keep: ## put build/bench.* beside the benchmark as the figures that README shows; only of a whole run
	@$(PY) -m tests.bench.keep build tests/bench/results

clean: ## remove what was built (not .venv)
	$(MAKE) -C bpf clean
	rm -rf build nodeagent/compiled/built .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
