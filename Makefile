# `make demo` and `make test` set up all they need in .venv, from locked requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test quick lint chromium wheelhouse results clean

demo: $(VENV)/ready
	$(BIN)/thawline demo --out demo

# Two workers have a core each: with threads of their own they would wait for each other for minutes.
test: $(VENV)/ready-dev chromium lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

quick: $(VENV)/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not realdata and not browser" -n 2 --dist worksteal

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# The report is opened in a real browser; where Chromium cannot be installed those tests skip and say so.
chromium:
	@command -v chromium chromium-browser google-chrome >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	  && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq chromium >/dev/null; } \
	  || echo "no Chromium: the browser tests will be skipped"

# Everything for an install without internet: pip install --no-index --find-links wheelhouse 'thawline[lite]'
wheelhouse: $(VENV)/ready
	$(PIP) wheel -c requirements.lock -w wheelhouse ".[lite]"

# The tables of docs/RESULTS.md, from the JSON files that the benchmarks wrote.
results: $(VENV)/ready-dev
	$(BIN)/python benchmarks/write_results.py

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/ready: $(VENV)/bin/python requirements.lock pyproject.toml
	$(PIP) install -c requirements.lock -e .
	@touch $@

$(VENV)/ready-dev: $(VENV)/bin/python requirements.lock pyproject.toml
	$(PIP) install -c requirements.lock -e ".[dev]"
	@touch $@ $(VENV)/ready

clean:
	rm -rf build demo wheelhouse .mypy_cache .ruff_cache .pytest_cache .hypothesis
