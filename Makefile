# What a developer types. `make` alone lists it.
#
# Everything runs in .venv, which is made on the first use and again when pyproject.toml or constraints.txt
# change. Another Python: make PYTHON=python3.12. Arguments for a command: make testnet ARGS="--nodes 8".

PYTHON ?= python3
ARGS ?=
SEEDS ?= 1000
MINUTES ?= 30
PEERS ?= 100,300,1000,3000,10000
TORCH ?= $(shell sed -n '/^torch==/p' constraints.txt)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# One thread each: several node processes share the cores.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install hivemind frameworks integrations testnet simulate scale soak test test-all test-rest test-fast test-core check check-gpu lowest no-compiler versions static format clean distclean

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z%-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo '  Arguments: make testnet ARGS="--nodes 8 --method diloco", make test ARGS="-k config"'

install: $(STAMP) ## Make .venv with all that is needed (others do this by themselves)

$(STAMP): pyproject.toml constraints.txt
	@sh scripts/doctor.sh $(PYTHON)
	@echo "== making $(VENV) with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@# First and by name: the newest build, which a range would take, may bring gigabytes of GPU libraries.
	@echo "== installing $(TORCH), the largest part (minutes on a slow line)"
	@$(BIN)/python -m pip install $(TORCH)
	@echo "== installing shoal and what it needs (one package is compiled: a minute or two)"
	@$(BIN)/python -m pip install -c constraints.txt -e '.[dev,testnet]'
	@touch $@
	@echo "== ready: $(BIN)/shoal --help"

hivemind: $(STAMP) ## Add the optional engine hivemind, and with it the tests that need it
	@$(BIN)/python -m pip install -c constraints.txt -e '.[hivemind]'

frameworks: $(STAMP) ## Add transformers, TRL, PEFT, Lightning and accelerate, for `make integrations`
	@$(BIN)/python -m pip install -c constraints.txt -e '.[integrations]'

integrations: $(STAMP) ## Train two real nodes beside each framework that is installed
	@$(BIN)/python -m pytest -rs tests/integrations $(ARGS)

testnet: $(STAMP) ## Train digits on five node processes and judge the outcome
	@$(BIN)/shoal testnet up --nodes 5 $(ARGS)

simulate: $(STAMP) ## Run whole swarms in virtual time, SEEDS of them, and check every invariant
	@$(BIN)/python scripts/simulate.py --seeds $(SEEDS) $(ARGS)

scale: $(STAMP) ## Measure how a swarm grows to 10,000 peers, in virtual time: PEERS=100,1000
	@$(BIN)/python scripts/scale.py --peers $(PEERS) $(ARGS)

soak: $(STAMP) ## Run a swarm for MINUTES, and see that memory, descriptors, threads and disk stay flat
	@$(BIN)/python scripts/soak.py --minutes $(MINUTES) $(ARGS)

test: $(STAMP) ## Run the fast tests and one swarm of processes: under 5 minutes on 2 cores
	@$(BIN)/python scripts/run_tests.py test $(ARGS)

test-all: $(STAMP) ## Run every test: test, then the slow ones
	@$(BIN)/python scripts/run_tests.py all $(ARGS)

test-rest: $(STAMP) ## Run the slow tests that test leaves out
	@$(BIN)/python scripts/run_tests.py rest $(ARGS)

test-fast: $(STAMP) ## Run every test that is not slow: under 2 minutes on 2 cores
	@$(BIN)/python scripts/run_tests.py fast $(ARGS)

test-core: $(STAMP) ## Test cores, crypto and methods by hand, without torch and trio: under 20 s
	@$(BIN)/python scripts/run_tests.py core $(ARGS)

reproduce-%: $(STAMP) ## Measure a method beside its paper's baselines: make reproduce-fedstar
	@$(BIN)/python scripts/reproduce.py $* $(ARGS)

static: $(STAMP) ## Check format, lint, types, imports and prose
	@echo "== format" && $(BIN)/ruff format --check .
	@echo "== lint" && $(BIN)/ruff check .
	@echo "== types" && $(BIN)/mypy
	@echo "== imports" && $(BIN)/lint-imports
	@echo "== prose" && $(BIN)/python scripts/prose.py

check: static test-all ## Run the whole gate: format, lint, types, imports, prose, every test

check-gpu: $(STAMP) ## Train on this machine's GPU and kill a trainer there, in 5 minutes; without a GPU, say so
	@if $(BIN)/python -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; \
	then $(BIN)/python -m pytest -q tests/processes/test_gpu.py; \
	else echo "no GPU that torch can use here: nothing was checked"; fi

no-compiler: $(STAMP) ## Install a helper without a C compiler, as the README says, and look at its size and start
	@bash scripts/check_no_compiler.sh

lowest: $(STAMP) ## Install the lowest versions that are allowed, and link two nodes with them
	@bash scripts/check_lowest.sh

versions: $(STAMP) ## Link and average a node of this commit with one of the last release, or of COMMIT=...
	@bash scripts/check_versions.sh $(COMMIT)

format: $(STAMP) ## Format the code and put right what can be put right without thought
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## Remove caches and the output of testnets; .venv stays
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* build out testnet
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv too
	rm -rf $(VENV) .lowest src/*.egg-info
