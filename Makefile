# Two commands do everything: `make quickstart` runs the main job, `make test` passes the tests.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: quickstart lab test lint unit notebooks bench docs clean

quickstart: $(VENV)/.quickstart  ## execute notebooks/quickstart.ipynb and say where to read it
	mkdir -p build
	$(BIN)/jupyter nbconvert --execute --to html --output-dir build notebooks/quickstart.ipynb
	@echo "Executed. Read it: build/quickstart.html; play with it: make lab"

lab: $(VENV)/.quickstart  ## open the quickstart in JupyterLab
	$(BIN)/jupyter lab notebooks/quickstart.ipynb

test: $(VENV)/.test  ## lint, types, layers, unit, end-to-end and notebook tests
	$(MAKE) lint unit notebooks

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.settings_reference --check README.md

unit: $(VENV)/.test
	$(BIN)/python -m pytest

notebooks: $(VENV)/.test
	cd notebooks && $(abspath $(BIN))/python -m pytest -c nbval.ini --nbval --nbval-sanitize-with nbval.cfg .

bench: $(VENV)/.test  ## print the table of figures, peers beside us
	$(BIN)/python -m tests.bench

docs: $(VENV)/.test  ## write the README's table of settings from their traits
	$(BIN)/python -m tests.settings_reference README.md

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.quickstart: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[quickstart]'
	touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	touch $@ $(VENV)/.quickstart

clean:
	rm -rf $(VENV) build
