# Two commands do all the set-up: `make demo` and `make test`.
# While you work on it: `make quick`, the tests that need no full-size network and no training.
# With another Python: `make test PYTHON=python3.13`, in an environment of its own, .venv-3.13.

PYTHON ?= python3
ifeq ($(PYTHON),python3)
VENV := .venv
else
VENV := .venv-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])')
endif
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadgroup
FILES := $(shell find src tests pipelines benchmarks docs README.md CHANGELOG.md -type f \
	-not -name '*.pyc' -not -name '.*')

.PHONY: demo test retest quick slow-tests lint format bench picture clean

demo: $(VENV)/installed
	@$(BIN)/python -m featcache demo $(ARGS)

test: $(VENV)/tests-passed
	@echo "All tests pass for the files as they are. To run them again: make retest"

retest:
	@rm -f $(VENV)/tests-passed
	@$(MAKE) --no-print-directory test

quick: $(VENV)/installed-dev
	$(PYTEST) -m "not slow" --durations 10

# tests/slow.txt, what `make quick` leaves out, from how long the last `make test` took
slow-tests:
	$(BIN)/python tests/quick.py $(VENV)/tests.xml

lint: $(VENV)/installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# about 30 minutes on two cores; leave the machine alone meanwhile. The page is docs/performance.md
bench: $(VENV)/installed-dev
	$(BIN)/python benchmarks/extract.py --write $(ARGS)
	$(BIN)/python benchmarks/scaling.py --write
	$(BIN)/python benchmarks/heads.py --write
	$(BIN)/python benchmarks/finetune.py --write

# docs/demo.svg, the recording in the README
picture: $(VENV)/installed
	$(BIN)/python docs/record_demo.py

clean:
	rm -rf .venv .venv-*

$(VENV)/installed: pyproject.toml constraints.txt
	@echo "Installing into $(VENV) (about two minutes) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[cpu]'
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing what the tests need ..."
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/tests-passed: $(VENV)/installed-dev Makefile $(FILES)
	$(PYTEST) --durations 15 --junitxml $(VENV)/tests.xml
	@touch $@
