# Each target makes the environment that it needs. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV := .venv
ORACLE := .venv-oracle
PIP_FLAGS := --quiet --disable-pip-version-check
# What one test worker has compiled serves the other, and the next run.
CACHE := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.pytest_cache/jax JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1

# Programs of tiny models run for milliseconds and compile for seconds; the slow tests and the oracle optimise as users do.
QUICK := JAX_DISABLE_MOST_OPTIMIZATIONS=1

.PHONY: demo test test-slow oracle test-oracle references accelerator lint format types docs clean

demo: $(VENV)/.ready  ## Convert the shipped Flax checkpoint and spell numbers: make demo NUMBERS="40217 7"
	$(VENV)/bin/python -m bart_eqx.demo $(NUMBERS)

test: $(VENV)/.ready  ## The tests, against stored references
	$(CACHE) $(QUICK) $(VENV)/bin/python -m pytest -n auto -m "not oracle and not slow"

test-slow: $(VENV)/.ready  ## The tests that compile much: every stored case of generation, and a model of full size
	$(CACHE) $(VENV)/bin/python -m pytest -n auto -m "slow and not oracle"

test-oracle: $(ORACLE)/.ready  ## The live comparisons with Hugging Face's Flax
	$(CACHE) $(ORACLE)/bin/python -m pytest -n auto -m oracle tests/oracle

references: $(ORACLE)/.ready  ## Make the stored references of the tests anew
	$(ORACLE)/bin/python scripts/make_references.py

# Not in the project's environment: PYTHON is one whose JAX knows the accelerator (benchmarks/README.md).
accelerator:  ## Parity and speed on this machine's accelerator; small on a CPU
	PYTHONPATH=$(CURDIR)/src$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) benchmarks/accelerator.py $(ARGUMENTS)

lint: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

format: $(VENV)/.ready
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

types: $(VENV)/.ready
	$(VENV)/bin/pyright

docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

oracle: $(ORACLE)/.ready

$(VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) --upgrade pip
	$(VENV)/bin/python -m pip install $(PIP_FLAGS) --editable . --group dev
	touch $@

$(ORACLE)/.ready: pyproject.toml
	$(PYTHON) -m venv $(ORACLE)
	$(ORACLE)/bin/python -m pip install $(PIP_FLAGS) --upgrade pip
	$(ORACLE)/bin/python -m pip install $(PIP_FLAGS) --editable . --group oracle
	touch $@

clean:
	rm -rf $(VENV) $(ORACLE) site
