# Two commands: `make demo` and `make test`. Both create .venv on first use and start in seconds after that.
PYTHON ?= python3
VENV ?= .venv
MINUTES ?= 20
WORKERS ?= 2
KILLS ?= 50
DEPTH ?= 5
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST := .venv-oldest

# Each worker takes whole files, so that what a file loads is loaded once. Two threads a core would only wait for each
# other; what runs alone has all cores. A worker that ends (the watchdog of a test that hangs) ends the run: one that
# takes its place may wait for ever.
PARALLEL := -n $(WORKERS) --dist loadfile --max-worker-restart 0
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: demo test test-slow lint format types mypy basedpyright wheel unit slow deep mutants durability soak
.PHONY: test-weights test-gpu test-oldest test-versions clean

demo: $(STAMP)
	$(BIN)/zh-retrieval demo

test: $(STAMP)
	$(MAKE) -j2 lint mypy wheel
	$(MAKE) unit

# What takes long: slow tests, KILLS kills of running jobs, DEPTH times as many made-up inputs, the other type checker.
test-slow: $(STAMP)
	$(MAKE) -j2 slow deep basedpyright
	$(MAKE) durability

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: mypy basedpyright

mypy: $(STAMP)
	$(BIN)/mypy

basedpyright: $(STAMP)
	$(BIN)/basedpyright

unit: $(STAMP)
	$(ONE_THREAD) $(BIN)/pytest $(PARALLEL) -m "not slow and not timing"
	$(BIN)/pytest -m "timing and not slow"

slow: $(STAMP)
	$(BIN)/pytest -m slow

deep: $(STAMP)
	ZH_RETRIEVAL_DEPTH=$(DEPTH) $(BIN)/pytest -m "hypothesis and not slow"

# Fifty kills of running jobs instead of six.
durability: $(STAMP)
	ZH_RETRIEVAL_KILLS=$(KILLS) $(BIN)/pytest tests/cli/test_durability.py -rP -k killed

# The wheel, installed without extras into an environment of its own: see tests/packaging/check_wheel.py.
wheel: $(STAMP)
	$(BIN)/python tests/packaging/check_wheel.py

# Break each rule of the frameworks' contract once, and expect its tests to fail: minutes.
mutants: $(STAMP)
	$(BIN)/python -m tests.contract.mutants

# The suite with the newest and with the oldest langchain-core and llama-index-core that pyproject.toml allows.
test-versions: unit slow test-oldest

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/pytest -W ignore::pydantic.warnings.UnsupportedFieldAttributeWarning

$(OLDEST)/.installed: pyproject.toml constraints.txt tests/oldest.txt
	$(PYTHON) -m venv $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	$(OLDEST)/bin/pip install --quiet -c constraints.txt torch
	$(OLDEST)/bin/pip install --quiet -c constraints.txt -c tests/oldest.txt -e ".[all]" --group tests
	touch $@

# The published checkpoints against their published values. Tests those that `zh-retrieval download MODEL` (or a hub's
# own client) left in a cache of this machine; ZH_RETRIEVAL_TEST_DOWNLOAD=1 downloads the others, 0.2 to 15 GB each.
test-weights: $(STAMP)
	$(BIN)/pytest -m weights

# What only a GPU shows; skipped without one.
test-gpu: $(STAMP)
	$(BIN)/pytest -m gpu

# Everything at once for 20 minutes (or MINUTES=2): wrong results, lost calls, leaked memory and threads. Linux only.
soak: $(STAMP)
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[all]" --group dev
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
