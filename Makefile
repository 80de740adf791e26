# Two commands: `make demo` and `make test`. Both create .venv on first use and start in seconds after that.
PYTHON ?= python3
VENV ?= .venv
MINUTES ?= 20
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OLDEST := .venv-oldest

.PHONY: demo test lint format types wheel unit mutants durability soak test-weights test-oldest test-versions clean

demo: $(STAMP)
	$(BIN)/zh-retrieval demo

test: lint types unit wheel

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: $(STAMP)
	$(BIN)/mypy
	$(BIN)/basedpyright

unit: $(STAMP)
	$(BIN)/pytest

# Fifty kills of running jobs instead of six.
durability: $(STAMP)
	ZH_RETRIEVAL_KILLS=50 $(BIN)/pytest tests/cli/test_durability.py -rP -k killed

# The wheel, installed without extras into an environment of its own: see tests/packaging/check_wheel.py.
wheel: $(STAMP)
	$(BIN)/python tests/packaging/check_wheel.py

# Break each rule of the frameworks' contract once, and expect its tests to fail: minutes.
mutants: $(STAMP)
	$(BIN)/python -m tests.contract.mutants

# The suite with the newest and with the oldest langchain-core and llama-index-core that pyproject.toml allows.
test-versions: unit test-oldest

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
