# Each target works as the first command on a fresh clone; .venv is made once and reused.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test quick ecosystem torture bench check lint types docs clean
.DEFAULT_GOAL := check

$(READY): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[dev]"
	touch $@

demo: $(READY)
	$(BIN)/python examples/quickstart.py

# The programs that tests start compile nothing again, whatever the shell says of bytecode; each worker begins with its
# share of the tests, in their order, and takes from another's when it is done
test quick torture: export PYTHONDONTWRITEBYTECODE =
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist worksteal

test: $(READY)
	$(PYTEST)

# Some of all parts of the package, while one works on it
quick: $(READY)
	$(PYTEST) -m "not slow and not process and not browser"

# Objects of some fifty libraries, in an environment of their own; it writes the table in docs/libraries.md
ecosystem:
	$(PYTHON) -m venv .venv-ecosystem
	.venv-ecosystem/bin/python -m pip install --quiet --constraint constraints.txt setuptools
	.venv-ecosystem/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[test]" --requirement tests/ecosystem/requirements.txt
	FLAMBE_SAVE_ECOSYSTEM=1 .venv-ecosystem/bin/python -m pytest tests/ecosystem

# The long form of the tests that kill, cut, fill up and damage; docs/reliability.md has the figures of one run
torture: $(READY)
	FLAMBE_SAVE_TORTURE=1 $(PYTEST) -rP tests/durability tests/test_interrupts.py tests/hostile/test_fuzz.py tests/test_round_trip.py tests/pt/test_drafts_and_sources.py tests/describing/test_random_modules.py tests/describing/test_edits.py

# Beside its peers, in more than an hour; benchmarks/README.md says how. Flambe is code alone: what it requires is of 2019
bench: $(READY)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable ".[bench]"
	$(BIN)/python -m pip install --quiet --no-deps flambe==0.4.18
	$(BIN)/python -m benchmarks --json benchmarks.json

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# The pages of docs/ as a site, in docs/_build/html; a warning is an error. tests/docs/test_docs.py runs the code in them
docs: $(READY)
	$(BIN)/python -m sphinx -q -W --keep-going -E -a docs docs/_build/html

check: lint types docs test

clean:
	rm -rf $(VENV) .venv-ecosystem .mypy_cache .pytest_cache .ruff_cache .hypothesis build docs/_build *.egg-info
