# The commands a developer needs; `make help` lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -qq

.DEFAULT_GOAL := help
.PHONY: help demo install test faults bench docs lint format typecheck clean

help: ## List these commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/.installed ## Train on the bundled images, from scratch, in runs/demo (about a minute)
	@rm -rf runs/demo
	@$(BIN)/python train.py --config configs/fashion_mnist_demo.py --workdir runs/demo

install: $(VENV)/.installed ## Make .venv and install the package in it

test: $(VENV)/.installed-test ## Run all tests
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder --durations 15

faults: $(VENV)/.installed-test ## Kill, damage, fill and confuse training runs (some minutes)
	@RESNET_JAX_FAULTS=full $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --durations 15 tests/faults

bench: $(VENV)/.installed-test ## Measure against the peers; results in benchmarks/results
	@$(BIN)/python benchmarks/run.py

docs: $(VENV)/.installed-docs ## Build the documentation's pages in build/docs; warnings are errors
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

lint: $(VENV)/.installed-dev ## Check style with ruff
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

format: $(VENV)/.installed-dev ## Format the code and fix what ruff can
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

typecheck: $(VENV)/.installed-dev ## Check types with mypy
	@$(BIN)/mypy

clean: ## Remove .venv, caches and build output; runs/ stays
	@rm -rf $(VENV) .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache build dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is made when its installation has succeeded, and is stale once pyproject.toml changes.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	    echo "resnet_jax needs Python 3.11 or newer: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; \
	    exit 1; }
	@echo "Making $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	@echo "Installing resnet_jax (a few minutes the first time)"
	@$(PIP) install --editable '.[train]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(VENV)/bin/python
	@echo "Installing resnet_jax and what its tests need (a few minutes the first time)"
	@$(PIP) install --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	@echo "Installing resnet_jax and its development tools (a few minutes the first time)"
	@$(PIP) install --editable '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/bin/python
	@echo "Installing what the documentation is built with"
	@$(PIP) install --editable '.[docs]'
	@touch $@
