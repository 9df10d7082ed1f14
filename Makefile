# Each target creates the environment it needs. PYTHON selects the interpreter.
PYTHON ?= python3
VENV := .venv
ORACLE := .venv-oracle
RAY := .venv-ray
PIP_FLAGS := --quiet --disable-pip-version-check
# Test workers share compiled programs with each other and with the next run.
CACHE := JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.pytest_cache/jax JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 \
	JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1

# Tiny models run in milliseconds and compile in seconds, so most tests compile in the quickest way that XLA has (a
# third of the time; the emitters of fused loops are most of the difference). Tests marked `optimised` compile as
# users do.
QUICK := JAX_DISABLE_MOST_OPTIMIZATIONS=1 \
	XLA_FLAGS="--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

.PHONY: environments demo test test-slow oracle test-oracle test-ray test-hub references accelerator lint format types docs clean

TEXT := It is a fast and easy to use text editor with syntax highlighting. It opens files of any size, shows several \
	of them side by side, and can be extended with plugins. This package contains the plugins.

demo: $(VENV)/.ready  ## Convert the shipped Flax checkpoint and spell numbers: make demo NUMBERS="40217 7"
	$(VENV)/bin/python -m bart_eqx.demo $(NUMBERS)
	$(VENV)/bin/bart-eqx generate $(or $(NUMBERS),40217) --model demo-eqx
	$(VENV)/bin/bart-eqx summarize "$(TEXT)" --model demo-text
	$(VENV)/bin/bart-eqx fill "It is a fast text <mask> for the GNOME desktop." --model demo-text

test: $(VENV)/.ready  ## Run the tests, which compare with stored references
	$(CACHE) $(QUICK) $(VENV)/bin/python -m pytest -n auto --dist worksteal -m "not oracle and not slow"

test-slow: $(VENV)/.ready  ## Run the slow tests: every stored case of generation, and a full-size model
	$(CACHE) $(QUICK) $(VENV)/bin/python -m pytest -n auto --dist worksteal -m "slow and not optimised and not oracle"
	$(CACHE) $(VENV)/bin/python -m pytest -n auto --dist worksteal -m "optimised and not oracle"

test-oracle: $(ORACLE)/.ready  ## Compare live with Hugging Face's Flax
	$(CACHE) $(QUICK) $(ORACLE)/bin/python -m pytest -n auto --dist worksteal -m oracle tests/oracle

test-ray: $(RAY)/.ready  ## Run the tests on a Ray cluster of two workers
	$(RAY)/bin/python -m pytest -m ray tests/on_ray

test-hub: $(VENV)/.ready  ## Download six checkpoints (11 GB), and check what is published about them
	$(VENV)/bin/python -m pytest -m hub -rs tests/hub

references: $(ORACLE)/.ready  ## Regenerate the stored references of the tests
	$(ORACLE)/bin/python scripts/make_references.py
	$(ORACLE)/bin/python scripts/make_tokenizer_references.py

# Runs outside the project's environment: PYTHON needs a JAX that supports the accelerator (benchmarks/README.md).
accelerator:  ## Check parity and speed on this machine's accelerator; on a CPU, with a small model
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

environments: $(VENV)/.ready $(ORACLE)/.ready $(RAY)/.ready

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

$(RAY)/.ready: pyproject.toml
	$(PYTHON) -m venv $(RAY)
	$(RAY)/bin/python -m pip install $(PIP_FLAGS) --upgrade pip
	$(RAY)/bin/python -m pip install $(PIP_FLAGS) --editable . --group ray
	touch $@

clean:
	rm -rf $(VENV) $(ORACLE) $(RAY) site
