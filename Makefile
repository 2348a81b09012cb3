# Needs nothing but Python 3.11+ and make: each target makes the environment it runs in.

PYTHON ?= python3
VENV ?= .venv
CHAOS_ARGS ?=
PYTEST_ARGS ?= -n auto --maxprocesses 4 --dist worksteal
BENCH_ARGS ?=

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
# An environment that could not be made (Debian without python3-venv) must not look like one the next time.
.DELETE_ON_ERROR:
.PHONY: help demo test chaos lint docs audit ci bench bench-peers clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## Run the example shop on localhost: web server, worker, one order
	$(BIN)/python -m example_project.demo

test: $(VENV)/.test ## Run all tests on SQLite and on PostgreSQL (DATABASE_URL, or one that is started for them)
	$(BIN)/python -m pytest $(PYTEST_ARGS)
	DUROXIDE_TEST_DEFAULT=postgres $(BIN)/python -m pytest $(PYTEST_ARGS) -m default_database tests/example tests/testing

chaos: $(VENV)/.test ## Run 2,000 instances on each database while workers are killed and the database is hurt
	$(BIN)/python -m tests.chaos sqlite --faults 8 $(CHAOS_ARGS)
	$(BIN)/python -m tests.chaos postgres --faults 4 $(CHAOS_ARGS)
	command -v pgbouncer >/dev/null || [ -x /usr/sbin/pgbouncer ] || { echo "Install PgBouncer for the next runs."; exit 1; }
	$(BIN)/python -m tests.chaos postgres --pooler session --instances 500 $(CHAOS_ARGS)
	$(BIN)/python -m tests.chaos postgres --pooler transaction --instances 500 $(CHAOS_ARGS)
	$(BIN)/python -m tests.chaos.crowd sqlite
	$(BIN)/python -m tests.chaos.crowd postgres

lint: $(VENV)/.dev ## Check format, style, types, the import contract and the migrations
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	DATABASE_URL=sqlite://:memory: $(BIN)/python manage.py makemigrations --check --dry-run

docs: $(VENV)/.dev ## Build the documentation as a website in site/
	$(BIN)/mkdocs build

audit: $(VENV)/.dev ## Look for known vulnerabilities of the dependencies (asks pypi.org)
	$(INSTALL) pip-audit
	$(BIN)/python -m pip freeze --exclude-editable > $(VENV)/audited.txt
	$(BIN)/pip-audit --strict --disable-pip --no-deps --requirement $(VENV)/audited.txt

ci: ## Run what the CI runs
	bash .ci/run

bench: ## Measure this project (options: BENCH_ARGS='--only hello'; see benchmarks/README.md)
	$(PYTHON) -m benchmarks $(BENCH_ARGS)

bench-peers: ## Measure this project and its peers from PyPI, by turns
	$(PYTHON) -m benchmarks --peers $(BENCH_ARGS)

clean: ## Remove the environment and all caches
	rm -rf $(VENV) benchmarks/.venvs build dist site *.egg-info .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis .demo
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.13 …"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# A stamp for each extra: the second run installs nothing.
$(VENV)/.demo: pyproject.toml $(BIN)/python
	$(INSTALL) --editable '.[example,postgres]'
	@touch $@

$(VENV)/.test: pyproject.toml $(BIN)/python
	$(INSTALL) --editable '.[test]'
	@touch $@

$(VENV)/.dev: pyproject.toml $(BIN)/python
	$(INSTALL) --editable '.[dev]'
	@touch $@
