# Two commands: `make demo` and `make test`. Both create .venv on first use and start in seconds after that.
PYTHON ?= python3
VENV ?= .venv
MINUTES ?= 20
WORKERS ?= 2
KILLS ?= 50
DEPTH ?= 10
BIN := $(VENV)/bin
DEMO := $(VENV)/.demo
STAMP := $(VENV)/.installed
LIGHT := .venv-light
OLDEST := .venv-oldest

# A user's own settings decide nothing here.
unexport PYTHONPATH PYTHONHOME HF_HUB_OFFLINE TRANSFORMERS_OFFLINE
export PYTHONUTF8 := 1
unexport $(filter-out ZH_RETRIEVAL_TEST_% ZH_RETRIEVAL_CMRC,$(filter ZH_RETRIEVAL_%,$(.VARIABLES)))

# Each worker takes whole files, so that what a file loads is loaded once. Two threads a core would only wait for each
# other; what runs alone has all cores. A worker that ends (the watchdog of a test that hangs) ends the run: one that
# takes its place may wait for ever.
PARALLEL := -n $(WORKERS) --dist loadfile --max-worker-restart 0
ONE_THREAD := OMP_NUM_THREADS=1

.PHONY: demo test test-slow lint format types mypy basedpyright wheel unit slow deep light fresh mutants durability soak
.PHONY: test-weights test-gpu test-cpus test-oldest test-versions clean

# The package and LangChain, without torch: what a user installs.
demo: $(DEMO)
	$(BIN)/zh-retrieval demo

test: $(STAMP)
	$(MAKE) -j2 lint mypy wheel
	$(MAKE) unit

# What takes long: slow tests, KILLS kills of running jobs, DEPTH times as many made-up inputs, the other type checker.
test-slow: $(STAMP)
	$(MAKE) slow
	$(MAKE) -j2 deep basedpyright
	$(MAKE) light
	$(MAKE) fresh
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
	$(ONE_THREAD) $(BIN)/pytest $(PARALLEL) -m "slow and not timing and not ray"
	$(BIN)/pytest -m "slow and (timing or ray)"

deep: $(STAMP)
	ZH_RETRIEVAL_DEPTH=$(DEPTH) $(ONE_THREAD) $(BIN)/pytest $(PARALLEL) -m "hypothesis and not slow"

# Everything that needs no torch, in an environment that has none.
light: $(STAMP)
	$(ONE_THREAD) $(BIN)/python -m tests.without_torch $(LIGHT) $(PARALLEL) -m "not slow and not timing"

# Fifty kills of running jobs instead of six.
durability: $(STAMP)
	ZH_RETRIEVAL_KILLS=$(KILLS) $(BIN)/pytest tests/cli/test_durability.py -rP -k killed

# The wheel, installed without extras into an environment of its own: see tests/packaging/check_wheel.py.
wheel: $(STAMP)
	$(BIN)/python tests/packaging/check_wheel.py

# The wheel with extras, installed from the package index into new environments: sizes, no torch, the README's blocks.
fresh: $(STAMP)
	$(BIN)/python -m tests.packaging.check_install

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

# Every graph on other CPUs, which qemu emulates: AVX2, SSE4.2, ARM. Needs Debian on x86-64, downloads 250 MB into
# CPUS_FOLDER, and takes about ten minutes for each. CPUS="--cpu Westmere --model bert" runs a part.
test-cpus: $(STAMP)
	$(BIN)/python -m tests.cpus $(CPUS_FOLDER) $(CPUS)

# Everything at once for 20 minutes (or MINUTES=2): wrong results, lost calls, leaked memory and threads. Linux only.
soak: $(STAMP)
	$(BIN)/python -m tests.soak --minutes $(MINUTES)

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DEMO): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[langchain]"
	touch $@

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet -c constraints.txt torch
	$(BIN)/pip install --quiet -c constraints.txt -e ".[all]" --group dev
	touch $(DEMO) $@

clean:
	rm -rf $(VENV) $(LIGHT) $(OLDEST) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
