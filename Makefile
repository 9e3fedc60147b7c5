# `make` trains and scores on the built-in dataset; `make test` runs the tests. Both create the environment first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: all test check schema clean

all: $(VENV)/ready
	dvc repro
	@echo
	@dvc metrics show
	@echo
	@captioner predict data/scenes/images/1104.png data/scenes/images/1108.png data/scenes/images/1100.png
	@echo
	@echo "Look at the pictures with their captions: metrics/report.html"

test: $(VENV)/ready
	pytest

check: $(VENV)/ready
	ruff check .
	ruff format --check .
	mypy

schema: $(VENV)/ready
	captioner schema > params.schema.json

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the packages of constraints.txt: some minutes"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache
