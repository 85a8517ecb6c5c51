# Two commands do all the set-up: `make demo` and `make test`.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet install --constraint constraints.txt
FILES := $(shell find src tests pipelines benchmarks docs README.md CHANGELOG.md -type f \
	-not -name '*.pyc' -not -name '.*')

.PHONY: demo test retest lint format bench picture clean

demo: $(VENV)/installed
	@$(BIN)/python -m featcache demo $(ARGS)

test: $(VENV)/tests-passed
	@echo "All tests pass for the files as they are. To run them again: make retest"

retest:
	@rm -f $(VENV)/tests-passed
	@$(MAKE) --no-print-directory test

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
	rm -rf $(VENV)

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
	$(BIN)/python -m pytest --numprocesses 2 --dist loadgroup
	@touch $@
