# What people, hooks and CI call. Every target makes .venv from the lock when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help install demo demo-site test test-faults lint types format up down status bench bench-pipeline bench-replay bench-edge lock clean

help: ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 24

install: $(INSTALLED) ## everything that the rest needs, into .venv (and Kafka's jars into the user's cache)

# pip installs uv, and uv the rest, several times faster; compiled now, where nothing may be written later every start would compile again. uv does not know pip's settings (mirrors, proxies): where it fails, pip does it all.
$(INSTALLED): requirements.lock infra/jars.lock
	@command -v $(PYTHON) >/dev/null || { echo "error: there is no $(PYTHON). Install Python 3.11 or newer, or name it: make PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "error: $$($(PYTHON) --version) ($(PYTHON)) is older than 3.11. Name a newer one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r .venv/uv.lock
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --require-hashes -r requirements.lock \
		|| $(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m infra.jars
	$(BIN)/python -m infra.aot
	@touch $@

demo: $(INSTALLED) ## the whole pipeline on real input, in under a minute; KEEP=1 leaves it running
	$(BIN)/python -m pipeline demo $(if $(KEEP),--keep)

demo-site: $(INSTALLED) ## a small site to click around on, and timelines that grow in the terminal; Ctrl-C ends it
	$(BIN)/python -m pipeline demo-site

test: lint types ## lint, types, and all tests, two files at a time (most of them wait for servers)
	FAULTS_MINUTES=$${FAULTS_MINUTES-12} $(BIN)/python -m pytest -n 2 --dist loadfile

test-faults: $(INSTALLED) ## only the fault suite, all of it; SEED=n repeats a run, ROUNDS=n goes through the faults n times
	$(BIN)/python -m pytest -rA tests/faults

lint: $(INSTALLED) ## ruff: rules and layout
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(INSTALLED) ## mypy --strict
	$(BIN)/mypy

format: $(INSTALLED) ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

up: $(INSTALLED) ## start the embedded Kafka and ClickHouse; data stays in .data; SECURE=1: Kafka asks for credentials
	$(BIN)/python -m infra.servers up $(if $(SECURE),--secure)

down: $(INSTALLED) ## stop them
	$(BIN)/python -m infra.servers down

status: $(INSTALLED) ## whether they run
	$(BIN)/python -m infra.servers status

bench: $(INSTALLED) bench-pipeline bench-edge ## measure speed and memory, end to end and of the collector

bench-pipeline: $(INSTALLED) ## measure the pipeline alone: speed and memory from publish to ClickHouse
	$(BIN)/python -m bench

bench-replay: $(INSTALLED) ## measure the bulk rebuild of a replay; EVENTS=n COOKIES=n
	$(BIN)/python -m bench.replay $(if $(EVENTS),--events $(EVENTS)) $(if $(COOKIES),--cookies $(COOKIES))

bench-edge: $(INSTALLED) ## measure the collector: hits a second on one core, beside bare rivals; what the script costs a page
	$(BIN)/python -m bench.edge

lock: $(INSTALLED) ## resolve pyproject.toml and infra/jars.in again, list their licences; UPGRADE=1 takes the newest versions
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --group dev $(if $(UPGRADE),--upgrade) \
		--output-file requirements.lock pyproject.toml
	$(BIN)/python -m infra.jars --lock
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements.lock
	$(BIN)/python -m infra.licences

clean: ## remove .venv, caches of tools and the embedded servers' data (after stopping them)
	@if [ -x $(BIN)/python ] && [ -d .data ]; then $(BIN)/python -m infra.servers down; fi
	rm -rf .venv .data .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
