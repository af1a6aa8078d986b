# Every command a person needs. Each sets itself up in $(VENV) first, which takes a minute or two
# the first time and nothing afterwards.
#   make test PYTHON=/path/to/python3.12 VENV=/tmp/env312   another interpreter, elsewhere
#   make fast ARGS="-k layout -x"                           arguments for pytest (or for the demo)
#   make test JOBS=8                                        processes of pytest

VENV ?= .venv
PYTHON ?=
ARGS ?=
JOBS ?= 2
export VENV PYTHON

BIN := $(VENV)/bin
CODE := $(wildcard zipvoice_jax tests tools configs data launch)
SCRIPTS := .ci/run $(shell find .ci launch -name '*.sh' 2>/dev/null)

.DEFAULT_GOAL := help
.PHONY: help setup environment demo test fast beam lint format constraints clean

help: ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/  make \1	\2/p' Makefile | expand -t 22

setup: ## the virtual environment with every pinned version
	@bash .ci/setup.sh

environment: setup ## one line on where this runs
	@$(BIN)/python -c 'import os, platform, jax; print("environment:", f"Python {platform.python_version()}, jax {jax.__version__} on {jax.default_backend()}, {os.cpu_count()} cores, {platform.platform()}")'

demo: setup ## a spoken dialogue as a WAV, and its picture
	@$(BIN)/python -m zipvoice_jax.cli.main demo $(ARGS)

PYTEST = $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

# Arrays are held to their annotations in the fast tests, which call every function; in the slow ones
# that would take a fifth of the time.
test: fast lint ## the fast tests, lint, then the slow tests
	@ZIPVOICE_JAX_TYPECHECK=0 $(PYTEST) -m slow $(ARGS)

fast: setup ## the tests that take seconds
	@$(PYTEST) -m 'not slow' $(ARGS)

BEAM := .beam
beam: ## the test of Apache Beam's direct runner, in an environment of its own
	@[ -x $(BEAM)/bin/pytest ] || { $(or $(PYTHON),python3) -m venv $(BEAM) && \
	  $(BEAM)/bin/python -m pip install -q --upgrade pip && \
	  $(BEAM)/bin/python -m pip install -q --group beam -e . beartype pytest hypothesis; }
	@$(BEAM)/bin/python -m pytest -p no:cacheprovider tests/test_prepare_runs.py -k beam_with

lint: setup ## style, types, shell scripts
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/basedpyright --pythonpath $(BIN)/python
	@$(BIN)/shellcheck $(SCRIPTS)

format: setup ## rewrite the code in the project's style
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

constraints: ## pin anew what pyproject.toml allows (needs uv: pip install uv)
	uv pip compile --universal --python-version 3.11 --all-extras --no-annotate --upgrade --output-file constraints.txt pyproject.toml

clean: ## caches and build outputs; the environment stays
	@rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
	@find . -name __pycache__ -type d -not -path './.git/*' -not -path './.venv/*' -prune -exec rm -rf {} +
