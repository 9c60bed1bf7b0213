# Everything a person or CI runs. Only Python >= 3.11 (with venv), make and git are needed beforehand.
#
#   make demo     a real cluster: write, lose a SAN while writing, read everything back, heal
#   make test     everything CI runs          make check    static checks alone
#   make sim SEEDS=1000    make soak    make bench    make fmt    make proto    make clean

PYTHON ?= python3
SEEDS ?= 1000
PYTEST_WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := test
.PHONY: venv demo test check sim soak bench fmt proto lock clean
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

test: venv check
	$(BIN)/python -m pytest -n $(PYTEST_WORKERS) --durations=10 tests

sim: venv
	$(BIN)/python -m tests.sim.run --seeds $(SEEDS)

soak: venv
	$(BIN)/python -m tests.faults.soak

bench: venv
	$(BIN)/python -m benchmarks.run
