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
.PHONY: help install hivemind testnet simulate scale soak test test-fast check format clean distclean

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
	@$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@
	@echo "== ready: $(BIN)/shoal --help"

hivemind: $(STAMP) ## Add the optional engine hivemind, and with it the tests that need it
	@$(BIN)/python -m pip install -c constraints.txt -e '.[hivemind]'

testnet: $(STAMP) ## Train digits on five node processes and judge the outcome
	@$(BIN)/shoal testnet up --nodes 5 $(ARGS)

simulate: $(STAMP) ## Run whole swarms in virtual time, SEEDS of them, and check every invariant
	@$(BIN)/python scripts/simulate.py --seeds $(SEEDS) $(ARGS)

scale: $(STAMP) ## Measure how a swarm grows to 10,000 peers, in virtual time: PEERS=100,1000
	@$(BIN)/python scripts/scale.py --peers $(PEERS) $(ARGS)

soak: $(STAMP) ## Run a swarm for MINUTES, and see that memory, descriptors, threads and disk stay flat
	@$(BIN)/python scripts/soak.py --minutes $(MINUTES) $(ARGS)

test: $(STAMP) ## Run all tests
	@$(BIN)/python -m pytest $(ARGS)

test-fast: $(STAMP) ## Run the tests that take less than some seconds each
	@$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile $(ARGS)

reproduce-%: $(STAMP) ## Measure a method beside its paper's baselines: make reproduce-fedstar
	@$(BIN)/python scripts/reproduce.py $* $(ARGS)

# Without processes and clocks: they may share the machine.
COMPUTING := tests/methods tests/sim

check: $(STAMP) ## Run the whole gate: format, lint, types, imports, tests
	@echo "== format" && $(BIN)/ruff format --check .
	@echo "== lint" && $(BIN)/ruff check .
	@echo "== types" && $(BIN)/mypy
	@echo "== imports" && $(BIN)/lint-imports
	@echo "== fast tests" && $(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile $(ARGS)
	@echo "== slow tests that only compute" && $(BIN)/python -m pytest -m slow -n auto --dist worksteal $(COMPUTING) $(ARGS)
	@echo "== slow tests, one at a time" && $(BIN)/python -m pytest -m slow $(COMPUTING:%=--ignore=%) $(ARGS)

format: $(STAMP) ## Format the code and put right what can be put right without thought
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean: ## Remove caches and the output of testnets; .venv stays
	rm -rf .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage* build out testnet
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## Remove .venv too
	rm -rf $(VENV) src/*.egg-info
