# EarnORM events. `make` lists what there is to run; every target sets up what it needs.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?=
JOBS ?= 2
PYTEST_ARGS ?=
BENCH_ARGS ?=
CHAOS ?= full
COMPAT ?= full
SERVICES ?=

INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check
TYPED = $(wildcard src tests/typing examples)

export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check format lint types layers fix services bench chaos compat docs

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.run  ## see events survive a rollback and a crash, in a minute
	$(BIN)/python -m examples.demo

test: $(VENV)/.dev  ## run the whole suite (PYTEST_ARGS='-k lease', JOBS=0 for one process)
	$(BIN)/python -m pytest -n $(JOBS) $(PYTEST_ARGS)

check: format lint types layers test  ## all that a change must pass: format, lint, types, imports, tests

format: $(VENV)/.dev
	$(BIN)/ruff format --check .

lint: $(VENV)/.dev
	$(BIN)/ruff check .

types: $(VENV)/.dev
	$(BIN)/mypy $(TYPED)
	$(BIN)/pyright

layers: $(VENV)/.dev
	$(BIN)/lint-imports

fix: $(VENV)/.dev  ## format, and mend what the linter can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

services:  ## install and start the servers that tests speak to (SERVICES='postgresql redis' for some)
	tools/services.sh $(SERVICES)

bench: $(VENV)/.bench  ## measure, beside the peers (BENCH_ARGS=--short for a quick look)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

chaos: $(VENV)/.dev  ## kill workers and count what is left, simulate thousands of stories (CHAOS=short for a quick look)
	EARNORM_CHAOS=$(CHAOS) $(BIN)/python -m pytest tests/chaos tests/simulation -q -o faulthandler_timeout=0 $(PYTEST_ARGS)

compat: $(VENV)/.dev  ## run SQLAlchemy's own tests without our hooks and with them (COMPAT=short for a quick look)
	COMPAT=$(COMPAT) JOBS=$(JOBS) $(BIN)/python -m tests.compat

docs: $(VENV)/.docs  ## build the site into site/
	$(BIN)/zensical build --clean --strict

# One environment, filled as needed: .run is the package alone, the others add an extra of pyproject.toml.
$(VENV)/.run: pyproject.toml | $(BIN)/pip
	$(INSTALL) -e .
	@touch $@

$(VENV)/.dev $(VENV)/.bench $(VENV)/.docs: $(VENV)/.%: pyproject.toml | $(BIN)/pip
	$(INSTALL) -e '.[$*]'
	@touch $@

$(BIN)/pip:
	@for python in $(PYTHON) python3 python3.11 python3.12 python3.13 python3.14; do \
		if $$python -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
			echo "making $(VENV) with $$($$python --version)"; \
			exec $$python -m venv $(VENV); \
		fi; \
	done; \
	echo "EarnORM needs Python 3.11 or newer with its venv module; here python3 is: $$(python3 --version 2>&1)" >&2; \
	echo "install it (on Debian: apt-get install python3-venv) or name one: make PYTHON=/path/to/python3.11" >&2; \
	exit 1
