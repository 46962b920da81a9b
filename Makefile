# `make demo` and `make test` set up all they need in .venv, from locked requirements.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test quick lint referees wheelhouse results clean

demo: $(VENV)/ready
	$(BIN)/thawline demo --out demo

# Two workers have a core each: with threads of their own they would wait for each other for minutes.
test: $(VENV)/ready-dev referees lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal

quick: $(VENV)/ready-dev
	OMP_NUM_THREADS=1 $(BIN)/pytest -m "not slow and not realdata and not browser" -n 2 --dist worksteal

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

# What results are held against, from Debian: a real browser (chromium), pixels of DICOM (dcmtk) and of JPEG 2000 (ffmpeg), ROC
# curves (pROC of R). Those that are missing are installed by root; tests of what cannot be installed skip, which is said here.
MISSING := missing=$$( \
  command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || echo chromium; \
  command -v dcmdump >/dev/null || echo dcmtk; command -v ffmpeg >/dev/null || echo ffmpeg; \
  Rscript -e 'library(pROC)' >/dev/null 2>&1 || echo r-cran-proc)

referees:
	@$(MISSING); if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  apt-get update -qq; for each in $$missing; do \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$each; done; fi >/dev/null 2>&1; \
	$(MISSING); [ -z "$$missing" ] || echo "not installed:" $$missing "- the tests that hold results against these will be skipped"

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
