# Every target makes the environment it needs the first time, and is quick afterwards.
#
#   make demo    train, federate, withstand attackers; prints a table and saves a figure
#   make test    the whole test suite
#   make docs    the site, into docs/_build/html
#   make bench   measurements against other libraries, into benchmarks/RESULTS.md
#   make lint    formatting and lint; make types: the type check
#   make clean   removes environments and everything built

PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
PYTEST_ARGS ?= -n auto --maxprocesses 8 --dist loadgroup

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test docs bench lint types format clean

help:
	@sed -n '/^#/!q; s/^# \{0,1\}//p' Makefile

demo: $(VENV)/has-demo
	$(RUN) examples/demo.py

test: $(VENV)/has-test
	$(RUN) -m pytest $(PYTEST_ARGS)

docs: $(VENV)/has-docs
	$(RUN) -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "open docs/_build/html/index.html"

bench: $(VENV)/bin/python
	$(RUN) benchmarks/run.py

lint: $(VENV)/has-lint
	$(RUN) -m ruff check
	$(RUN) -m ruff format --check
	$(RUN) .ci/notebooks.py

# Type checkers cannot follow the folders of an editable install: check the package as a user
# gets it, installed beside the tree. mypy looks into its own folder first, hence the cd.
types: $(VENV)/has-lint $(VENV)/has-test
	rm -rf build
	$(RUN) -m pip install -qq --no-deps --target build/installed .
	cd build/installed && ../../$(RUN) -m mypy --config-file ../../pyproject.toml -p gradax

format: $(VENV)/has-lint
	$(RUN) -m ruff check --fix
	$(RUN) -m ruff format
	-$(RUN) .ci/notebooks.py --fix

clean:
	rm -rf $(VENV) .venv-* build dist *.egg-info docs/_build docs/api/generated .cache

# One environment for all; each purpose adds its extras to it.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "gradax needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
	    "Choose another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
	@$(RUN) -m pip install -qq --upgrade 'setuptools>=77'

$(VENV)/has-%: $(VENV)/bin/python pyproject.toml setup.py
	@echo "installing what 'make $*' needs into $(VENV), once"
	@$(RUN) -m pip install -qq --editable '.[$*]'
	@touch $@
