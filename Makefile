# `make` alone prints what there is. Everything runs in .venv, which the first target makes.
# PYTHON=/path/to/python chooses the interpreter; without it the first python3 or python3.x that is 3.11 or
# newer and can make an environment. To change it later: make clean.

.DEFAULT_GOAL := help
.PHONY: help demo tour test conformance soak bench lint format docs clean system-packages node-packages
.DELETE_ON_ERROR:
# What one target needs is installed side by side; of several targets each waits for the one before it.
ifeq ($(words $(MAKECMDGOALS)),1)
MAKEFLAGS += --jobs=3
endif
# The suite starts a thousand interpreters: none of them shall compile again what another has compiled.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= $(shell sh scripts/find_python.sh)
VENV   := .venv
BIN    := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Tests of processes and timers wait a good deal: four workers keep the two cores of a small machine busy.
JOBS   ?= 4

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo scripts/system_packages.sh  ## two nodes under traffic, while workers and a node are paused, killed and replaced
	@sh scripts/system_packages.sh demo
	@$(BIN)/python examples/demo/demo.py $(ARGS)

tour: $(VENV)/.demo scripts/system_packages.sh  ## start a real server and send it everything, through the public API
	@sh scripts/system_packages.sh tour
	@$(BIN)/python examples/tour/tour.py $(ARGS)

test: $(VENV)/.test node-packages  ## the whole suite; ARGS="-k name" passes options to pytest
	@# What bounds time and memory runs first and by itself; exit code 5 says that nothing was selected.
	$(BIN)/python -m pytest -n 2 --dist loadfile -m perf $(ARGS) || [ $$? -eq 5 ]
	@# In the order of the folders: files of few tests that take long would else come last, one after the other.
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not perf" $(ARGS)

conformance: $(VENV)/.test system-packages  ## which layer keeps which promises; writes docs/conformance.md
	CONFORMANCE_WRITE=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile -p no:cacheprovider \
	  $$(grep -rl "import.*DispatcherConformance" tests --include='test_*.py' | grep -v tests/unit/) $(ARGS)

soak: $(VENV)/.test  ## ten minutes of a collective under load and trouble; ARGS="--seconds 60" for less
	$(BIN)/python tests/soak/collective.py $(ARGS)

bench: $(VENV)/.bench  ## measure against other clients; writes docs/benchmarks.md and its JSON
	@sh scripts/system_packages.sh bench
	$(BIN)/python benchmarks/run.py $(ARGS)

lint: $(VENV)/.lint  ## style, types and the arrows between packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell

format: $(VENV)/.lint  ## rewrite what ruff can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.docs  ## build the site into site/
	$(BIN)/mkdocs build --strict

clean:  ## remove what was built, .venv included
	rm -rf $(VENV) site dist build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

system-packages:
	@sh scripts/system_packages.sh test

node-packages: system-packages  # which bring npm
	@sh scripts/node_packages.sh

# One stamp per set of extras: `make demo` does not wait for the linters. pyproject.toml is all they depend on.
$(VENV)/.python: scripts/find_python.sh
	@sh scripts/make_venv.sh "$(PYTHON)" $(VENV)
	@touch $@

$(VENV)/.%: $(VENV)/.python pyproject.toml
	@echo "installing dodici[$*] into $(VENV)"
	@$(INSTALL) -e '.[$*]'
	@touch $@
