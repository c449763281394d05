# SPDX-License-Identifier: GPL-3.0-or-later
# The front door. `make` alone lists what there is.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
# Two workers: the tests run programs and wait for disks, and a newcomer's machine has other work too.
JOBS ?= 2
# Test by test in the order of tests/vm/conftest.py, and some files as a whole.
VM_ORDER := --dist loadgroup --no-loadscope-reorder
# More words for pytest, such as ARGS="-k gpt -x".
ARGS ?=
PYTHON_FILES := imager tests scripts docs $(wildcard bench bootmedia)
# Found by their first line, because most of them have no suffix.
SHELL_FILES = $(shell grep -lIE '^\#!/(usr/)?bin/(env )?(ba)?sh' -r scripts .ci bench bootmedia 2>/dev/null)

.PHONY: help
help: ## List the targets
	@echo "Usage: make TARGET"
	@echo
	@sed -nE 's/^([a-z][a-z-]*):[^#]*## (.*)/  \1	\2/p' $(MAKEFILE_LIST) | expand -t 20
	@echo
	@echo "The first two commands on a new machine: make demo, make test."

.PHONY: setup
setup: ## Install what imager needs: Debian packages (as root or through sudo) and .venv
	@scripts/setup.sh base

.PHONY: demo
demo: ## Make a disk, image it, wipe it, restore it twice, prove it (under two minutes)
	@scripts/setup.sh base
	@scripts/demo

.PHONY: test
test: ## Run the tests (under ten minutes); as root more of them run than as a user
	@scripts/setup.sh base test
	@$(PYTEST) -n $(JOBS) -m "not slow" $(ARGS)

.PHONY: test-all
test-all: ## Run the tests, the long ones too
	@scripts/setup.sh base test
	@IMAGER_LONG=1 $(PYTEST) -n $(JOBS) $(ARGS)

.PHONY: test-long
test-long: ## Run only the long tests
	@scripts/setup.sh base test
	@IMAGER_LONG=1 $(PYTEST) -n $(JOBS) -m slow --durations=10 -o faulthandler_timeout=300 $(ARGS)

.PHONY: test-vm
test-vm: ## Lose real machines and get them back in virtual ones (half an hour; the first run fetches packages)
	@scripts/setup.sh base test vm
	@nice $(PYTEST) -n $(JOBS) $(VM_ORDER) -m "not slow" $(ARGS) tests/vm

.PHONY: test-vm-long
test-vm-long: ## Run the further tests in virtual machines: every option, repairs, growing (over an hour)
	@scripts/setup.sh base test vm
	@nice $(PYTEST) -n $(JOBS) $(VM_ORDER) -m slow $(ARGS) tests/vm

.PHONY: practice-machine
practice-machine: ## Make the disk of a small Debian machine to practise a recovery on (docs/tutorial/first-recovery.md)
	@scripts/setup.sh base test vm
	@$(BIN)/python scripts/practice_machine.py make

.PHONY: bench
bench: ## Measure imager and its peers side by side (half an hour; ARGS=--quick for less)
	@scripts/setup.sh base bench
	@$(BIN)/python -m bench $(if $(ARGS),$(ARGS),--write-docs)

.PHONY: lint
lint: ## Check style, types and shell scripts
	@scripts/setup.sh base test
	@$(BIN)/ruff check --no-cache $(PYTHON_FILES)
	@$(BIN)/ruff format --no-cache --check $(PYTHON_FILES)
	@$(BIN)/mypy
	@if command -v shellcheck >/dev/null; then shellcheck $(SHELL_FILES); \
	else echo "lint: shellcheck is not installed, shell scripts were not checked"; fi

.PHONY: generated
generated: ## Write the pages that are made from the program: commands, exit statuses, support table
	@scripts/setup.sh base
	@$(BIN)/python scripts/make_reference.py

.PHONY: used-map-report
used-map-report: ## Measure how tight the maps of used blocks are, and write the table into docs (a minute)
	@scripts/setup.sh base test
	@$(BIN)/python scripts/used_map_report.py $(ARGS)

.PHONY: docs
docs: ## Build the documentation into build/docs, warnings are errors
	@scripts/setup.sh base docs
	@$(BIN)/python -m sphinx --builder html --fresh-env --fail-on-warning --keep-going --quiet docs build/docs
	@echo "The documentation is in build/docs/index.html"

.PHONY: man
man: ## Build the manual pages into build/man
	@scripts/setup.sh base docs
	@$(BIN)/python -m sphinx --builder man --fresh-env --fail-on-warning --keep-going --quiet docs build/man
	@echo "The manual pages are in build/man; read one with: man -l build/man/imager.1"

.PHONY: clean
clean: ## Remove what was built; .venv stays
	@rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find imager tests scripts docs bench bootmedia -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
