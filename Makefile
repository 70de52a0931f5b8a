# SPDX-License-Identifier: Apache-2.0
#
# make build   .venv/bin/restorer and .venv/bin/restorer-launch
# make demo    checkpoint a service while it is serving, restore it lazily, print what that took
# make test    unit and live tests (live ones need root); sets everything up, apt and pip included
# make test-images  real programs (redis, PostgreSQL, ...) taken under load; installs them with apt
# make bench   the measurements of README.md
# make lint    ruff, mypy, clang-format, warnings as errors, sanitizers
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check
REQUIREMENTS := $(BIN)/python scripts/requirements.py
NATIVE_SOURCES := $(wildcard native/tracer/*.[ch] native/include/*.h)
C_SOURCES = $(wildcard native/*/*.[ch] tests/programs/*.[ch] images/*/*.[ch] bench/*.c)
PY_SOURCES := restorer setup.py scripts bench images tests
PYTEST_ARGS ?=
# Tests wait more than they compute. The mark `alone` (tests/conftest.py) says what must not run side by side;
# PYTEST_ARGS="-n 0" runs one after the other, in this process.
PYTEST := $(BIN)/python -m pytest --numprocesses auto --dist loadgroup

.PHONY: all build demo test test-images bench-images unit bench lint format clean native
all: build

build: $(VENV)/.installed $(VENV)/.bytecode native

# The Debian packages first: without them the venv could not even be made.
$(BIN)/python:
	@sh scripts/setup-debian.sh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "restorer needs Python 3.11 or later: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.deps: pyproject.toml scripts/requirements.py | $(BIN)/python
	$(REQUIREMENTS) build run | xargs -d '\n' $(PIP)
	@touch $@

$(VENV)/.test: pyproject.toml | $(VENV)/.deps
	$(REQUIREMENTS) test | xargs -d '\n' $(PIP)
	@touch $@

$(VENV)/.lint: pyproject.toml | $(VENV)/.deps
	@sh scripts/setup-debian.sh clang-format
	$(REQUIREMENTS) lint | xargs -d '\n' $(PIP)
	@touch $@

# Installs in place: builds restorer/_native too, and copies the launcher beside the scripts.
$(VENV)/.installed: $(VENV)/.deps setup.py scripts/restorer restorer/native_build.py $(NATIVE_SOURCES)
	$(PIP) --no-build-isolation --no-deps --editable .
	@touch $@

# Under PYTHONDONTWRITEBYTECODE, as in many containers, each command would compile all modules anew.
$(VENV)/.bytecode: $(wildcard restorer/*.py restorer/*/*.py) | $(VENV)/.installed
	@$(BIN)/python -m compileall -q restorer
	@touch $@

# Always asked, and quick when nothing has changed: native/Makefile knows its own dependencies.
native: | $(VENV)/.installed
	@$(MAKE) --no-print-directory -C native
	@cmp -s native/build/restorer-launch $(BIN)/restorer-launch || \
		install -m 755 native/build/restorer-launch $(BIN)/restorer-launch

demo: build
	@$(BIN)/python -m images.demo

test: build $(VENV)/.test
	$(PYTEST) --ignore=tests/live/test_images.py $(PYTEST_ARGS) tests/unit tests/live

# Never a part of `test`: these take longer than all the rest, and want programs that this installs.
test-images: build $(VENV)/.test
	@sh scripts/setup-debian.sh $$($(BIN)/python -m images.missing)
	RESTORER_IMAGES=all $(BIN)/python -m pytest $(PYTEST_ARGS) tests/live/test_images.py

unit: build $(VENV)/.test
	$(PYTEST) $(PYTEST_ARGS) tests/unit

bench: build $(VENV)/.test
	@$(BIN)/python -m bench

# Of what test-images installs.
bench-images: build $(VENV)/.test
	@$(BIN)/python -m images.measure

lint: build $(VENV)/.lint $(VENV)/.test
	$(BIN)/ruff check $(PY_SOURCES)
	$(BIN)/ruff format --check $(PY_SOURCES)
	$(BIN)/mypy
	clang-format --dry-run -Werror $(C_SOURCES)
	$(MAKE) --no-print-directory -C native check

format: $(VENV)/.lint
	$(BIN)/ruff check --fix --quiet $(PY_SOURCES)
	$(BIN)/ruff format --quiet $(PY_SOURCES)
	clang-format -i $(C_SOURCES)

clean:
	@$(MAKE) --no-print-directory -C native clean
	rm -rf $(VENV) build dist *.egg-info restorer/_native*.so restorer/_native.c
	find . -name __pycache__ -prune -exec rm -rf {} +
