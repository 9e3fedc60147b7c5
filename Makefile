# `make` trains and scores on the dataset of params.yaml; `make test` runs the tests. Both create the environment first,
# and `make install` does nothing else.
#   make PYTHON=python3.12   uses that Python
#   make TORCH=cpu           installs the CPU builds of torch and torchvision, which are far smaller than those for CUDA
PYTHON ?= python3
TORCH ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)

.PHONY: all install test test-all check schema clean

all: $(VENV)/ready
	dvc repro
	@echo
	@dvc metrics show
	@echo
	@! grep -q '^  images: data/scenes/images' params.yaml || \
		captioner predict data/scenes/images/1104.png data/scenes/images/1108.png data/scenes/images/1100.png
	@echo
	@echo "The images with their captions: metrics/report.html"

install: $(VENV)/ready

test: $(VENV)/ready
	pytest -n 2 --dist worksteal -m "not slow"

test-all: $(VENV)/ready
	pytest -n 2 --dist worksteal

check: $(VENV)/ready
	ruff check .
	ruff format --check .
	mypy

schema: $(VENV)/ready
	captioner schema > params.schema.json
	python docs/make_params_page.py

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed; run make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the packages of constraints.txt; this takes some minutes"
ifeq ($(TORCH),cpu)
	PIP_EXTRA_INDEX_URL= PIP_FIND_LINKS= $(PIP) --no-deps --index-url $(TORCH_INDEX) torch torchvision
endif
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis
