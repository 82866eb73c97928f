# make demo: set up and run everything on the demo cohort.   make test: set up and run all tests.
# make check: lint and the fast tests.   make test TESTS=tests/tiles: one room.   COVERAGE=1: with coverage.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Test processes; each computes on one thread (tests/conftest.py).
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(if $(COVERAGE),--cov --cov-report=term)

.PHONY: demo test check campaign lab lint setup clean lock

demo: $(READY)
	$(BIN)/python run_all.py --cohort demo

test: $(READY)
	$(PYTEST) $(TESTS)

check: lint
	$(PYTEST) -m "not slow and not browser" $(TESTS)

# The long form of tests/campaign: half an hour; its figures are in tests/README.md (CAMPAIGN_FIGURES=<csv> writes them).
campaign: $(READY)
	CAMPAIGN=long $(PYTEST) --timeout 7200 tests/campaign

lab: $(READY)
	$(BIN)/jupyter lab --notebook-dir=.

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --pythonpath $(BIN)/python

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ": make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install -qq --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

# Removes what runs have made (derived data, figures, caches); raw data and the environment stay.
clean:
	find figures -mindepth 1 -maxdepth 1 ! -type f -exec rm -rf {} +  # a link goes, what it points to stays
	rm -rf data/derived .pytest_cache .ruff_cache tests/artefacts

# Pins every package again. torch 2.14.1 and torchvision 0.29.1 are the pair whose PyPI wheels fit each other.
lock:
	$(BIN)/python -m pip install --quiet uv
	printf 'torch==2.14.1\ntorchvision==0.29.1\n' > $(VENV)/constraints.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --group dev --extra cluster pyproject.toml \
		--constraint $(VENV)/constraints.txt --custom-compile-command "make lock" --output-file requirements.lock
