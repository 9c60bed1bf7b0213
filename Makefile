# Everything a person or CI runs. Only Python >= 3.11 (with venv), make and git are needed beforehand.
#
#   make demo     a real cluster: write, lose a SAN while writing, read everything back, heal
#   make test     everything CI runs          make check    static checks alone
#   make sim SEEDS=20000    make crashes STATES=50000    make corrupt TIMES=100000    make fuzz MINUTES=5
#   make thrash MINUTES=30    make mutants    make soak    make bench
#   make fmt    make proto    make lock    make clean

PYTHON ?= python3
SEEDS ?= 1000
STATES ?= 50000
MINUTES ?=
SEED ?=
TIMES ?= 100000
# One more than the cores of a small machine: many tests wait for real clusters.
PYTEST_WORKERS ?= 3

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := test
.PHONY: venv demo test check sim crashes corrupt fuzz thrash mutants soak bench fmt proto lock clean
.DELETE_ON_ERROR:

venv: $(STAMP)

# The stamp depends on what decides the content of .venv, so a changed lock installs again and nothing else does.
# Hashes are required: a package that changed under its version is refused. The project itself comes last, without
# dependencies and with the locked build backend, so that nothing is resolved behind the lock's back.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Holdfast needs Python 3.11 or newer; say which: make PYTHON=/path/to/python3 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --require-hashes --only-binary :all: -r requirements.lock
	$(BIN)/python -m pip --disable-pip-version-check install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: venv
	$(BIN)/python -m holdfast_ctl.demo

# The checks are independent of each other: two at a time, each one's output in one piece, all of them even if one fails.
CHECKS := check-ruff check-format check-mypy check-pyright check-imports check-proto
.PHONY: $(CHECKS)

check: venv
	@$(MAKE) --no-print-directory --jobs=2 --output-sync=target --keep-going $(CHECKS)

check-ruff:
	$(BIN)/ruff check --quiet .
check-format:
	$(BIN)/ruff format --check --quiet .
check-mypy:
	$(BIN)/mypy --no-error-summary
check-pyright: export PYRIGHT_PYTHON_IGNORE_WARNINGS = 1
check-pyright:
	$(BIN)/pyright --warnings
check-imports:
	$(BIN)/lint-imports --no-logo
check-proto:
	$(BIN)/python proto/generate.py --check

test: venv check
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --dist worksteal --durations=10 tests

sim: venv
	$(BIN)/python -m tests.sim.run --seeds $(SEEDS) --workers 2

crashes: venv
	$(BIN)/python -m tests.crashes --states $(STATES)

corrupt: venv
	$(BIN)/python -m tests.corruption --times $(TIMES)

fuzz: venv
	$(BIN)/python -m tests.fuzz --minutes $(or $(MINUTES),5)

mutants: venv
	$(BIN)/python -m tests.mutants

soak: venv
	$(BIN)/python -m tests.faults.soak

thrash: venv
	$(BIN)/python -m tests.thrash --minutes $(or $(MINUTES),30) $(if $(SEED),--seed $(SEED))

bench: venv
	$(BIN)/python -m benchmarks.run

fmt: venv
	$(BIN)/ruff check --fix-only --quiet .
	$(BIN)/ruff format --quiet .

proto: venv
	$(BIN)/python proto/generate.py

# Resolves the ranges of pyproject.toml again, for every platform at once; review the diff. The resolver lives in its
# own environment, for it is not part of the product, and the file it writes names no registry.
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip --disable-pip-version-check install --quiet uv
	.venv-lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --extra test --generate-hashes \
		--custom-compile-command 'make lock' --output-file requirements.lock pyproject.toml
	rm -rf .venv-lock

# Leaves .holdfast alone: it may hold a running cluster (`clusterctl local down` and `wipe` are for that).
clean:
	rm -rf $(VENV) .venv-lock .campaigns build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find client node proto tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
