# Needs Python 3.11 or newer, pip, make and git. Everything else is installed into .venv, by hash.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --require-hashes --only-binary :all: --requirement

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

.PHONY: help
help:  ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 20

.PHONY: demo
demo: $(VENV)/.demo  ## Serve a model, ask it for predictions and show what was kept of them
	$(BIN)/python examples/demo

# pytest exits with 5 when it finds no test. Those with servers run one by one: each has several processes of its own.
.PHONY: test
test: $(VENV)/.test  ## Unit, contract and end-to-end tests, with coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest tests/unit tests/contract --numprocesses auto --dist worksteal $(PYTEST_ARGS) || test $$? -eq 5
	$(BIN)/coverage run -m pytest tests/e2e $(PYTEST_ARGS) || test $$? -eq 5
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

.PHONY: test-integration
test-integration: $(VENV)/.test  ## Tests against components from the system's packages
	@mkdir -p tests/integration
	$(BIN)/python -m pytest tests/integration $(PYTEST_ARGS) || test $$? -eq 5

.PHONY: lint
lint: $(VENV)/.dev  ## Style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: $(VENV)/.dev  ## Types, of the package and as its users see them
	$(BIN)/mypy
	$(BIN)/basedpyright --pythonpath $(BIN)/python

.PHONY: layers
layers: $(VENV)/.dev  ## Which module may import which
	$(BIN)/lint-imports

.PHONY: docs-check
docs-check: $(VENV)/.test  ## Settings, commands, metrics and links in the documentation
	$(BIN)/python -m pytest tests/unit/test_docs.py

.PHONY: docs
docs: $(VENV)/.test  ## Write the pages that are made from the code
	$(BIN)/e2i-serving settings --format markdown >docs/settings.md
	$(BIN)/python tools/reference_pages.py

.PHONY: site
site: $(VENV)/.site  ## Build the documentation as a site into build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

.PHONY: bench-check
bench-check: $(VENV)/.test  ## What observing costs, against its budget
	$(BIN)/python benchmarks/overhead.py --rounds 8 --check 0.85

.PHONY: chaos
chaos: $(VENV)/.test  ## Kill, hang, fill up and delete what a service stands on, and print what was lost (minutes)
	$(BIN)/python tests/chaos $(CHAOS_ARGS)

.PHONY: lock
lock: $(VENV)/.dev  ## Recreate requirements/*.txt from pyproject.toml; LOCK_ARGS=--upgrade for newer releases
	UV=$(BIN)/uv tools/compile-requirements $(LOCK_ARGS)

.PHONY: wheel
wheel: $(VENV)/.dev  ## Build the wheel into dist/
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation

.PHONY: clean
clean:  ## Remove the environment and everything that was made
	rm -rf $(VENV) build dist .coverage .coverage.* .demo .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; '$(PYTHON)' is not. Name one: make PYTHON=python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.editable: $(VENV)/.made requirements/build.txt pyproject.toml
	$(INSTALL) requirements/build.txt
	$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

$(VENV)/.demo $(VENV)/.test $(VENV)/.dev $(VENV)/.site: $(VENV)/.%: requirements/%.txt $(VENV)/.editable
	$(INSTALL) $<
	@touch $@
