# Bailiwick. `make help` lists what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CORES := $(shell n=$$(nproc 2>/dev/null || echo 2); [ $$n -lt 3 ] && n=3; [ $$n -gt 4 ] && n=4; echo $$n)

.PHONY: help setup demo demo-handover test lint format types bench soak fuzz audit docs clean check-apt

help: ## Show this list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.synced ## Make the virtual environment with everything locked

$(VENV)/.synced: pyproject.toml verify/pyproject.toml uv.lock tools/setup.sh
	@PYTHON="$(PYTHON)" tools/setup.sh
	@touch "$(VENV)/.synced"

demo: setup ## Start everything, take one governed request through it, and prove what happened
	@"$(BIN)/bailiwick" demo --own-stack

demo-handover: setup ## From an empty installation to a signed handover, a week in minutes
	@"$(BIN)/bailiwick" demo-handover --own-stack

test: setup ## Install what the tests need, check the code, run all tests under coverage
	@tools/apt-needs.sh
	@tools/npm-needs.sh >/dev/null
	@$(MAKE) --no-print-directory lint types
	@rm -rf .coverage coverage.txt coverage.xml
	@mkdir -p .coverage
	"$(BIN)/python" tools/run_tests.py --cores $(CORES)

lint: setup ## Style, imports between rooms, and docs that are generated from code
	"$(BIN)/ruff" check src verify tests bench tools
	"$(BIN)/ruff" format --check -q src verify tests bench tools
	"$(BIN)/lint-imports"
	"$(BIN)/python" tools/docs.py --check
	"$(BIN)/python" tools/alert_rules.py --check

types: setup ## mypy --strict
	"$(BIN)/mypy"

format: setup ## Format and fix what can be fixed
	"$(BIN)/ruff" check --fix src verify tests bench tools
	"$(BIN)/ruff" format src verify tests bench tools

docs: setup ## Write the reference tables from the code
	"$(BIN)/python" tools/docs.py

bench: setup ## Measure the governed request and the decision
	@tools/apt-needs.sh
	"$(BIN)/python" -m bench governed
	"$(BIN)/python" -m bench decision

soak: setup ## Kill everything under load for ten minutes and prove that nothing was lost
	@tools/apt-needs.sh
	"$(BIN)/python" -m bench soak

fuzz: setup ## Throw random input at the parsers for a minute each, and walk every boundary of the API document
	"$(BIN)/python" tools/fuzz.py --seconds 60
	BAILIWICK_WALK=examples,coverage,fuzzing "$(BIN)/python" -m pytest -q tests/stack/test_api_document.py -k administrator

audit: setup ## Look for known vulnerabilities in what is locked
	@tools/audit.sh

clean: ## Remove the virtual environment and what tests leave
	rm -rf $(VENV) .coverage coverage.txt coverage.xml .mypy_cache .ruff_cache .pytest_cache .hypothesis
