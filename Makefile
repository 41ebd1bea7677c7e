# messaging-exporter: `make` alone lists the commands.
# Everything is installed into .venv; nothing else on the machine is changed, but for `make test` on Debian as root
# (or with sudo that asks for no password), which installs the services that the tests start.

NEW_ENOUGH = -c 'import sys; sys.exit(sys.version_info < (3, 11))'
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p $(NEW_ENOUGH) 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
# pytest-xdist workers: the tests wait for real servers more than they compute.
WORKERS ?= 2

# What a release needs, the quick ones first: each can be made by itself.
RELEASE = committed lint generated wheel test test-lowest platforms bench compare committed

# A temporary folder of its own for each run, servers' data included, which goes with it however it ends (dash runs no
# EXIT trap after a Ctrl-C). PostgreSQL runs as another user, who must get through.
OWN_TEMPORARY = tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT INT TERM HUP && chmod 711 "$$tmp" && TMPDIR="$$tmp"
PYTEST = $(OWN_TEMPORARY) $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.PHONY: help run observe test test-fast test-lowest platforms release-check constraints soak docs lint types coverage bench pictures dashboards dist services clean \
	committed generated wheel compare

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

run: $(VENV)/.run ## the server with simulated people; ARGS="--web.listen-address :9000" for flags
	@exec $(BIN)/python -m exporter demo $(ARGS)

observe: $(VENV)/.test ## the same with Prometheus and Alertmanager, and Grafana where it is installed
	@exec $(BIN)/python grafana/source/observe.py $(ARGS)

test: $(VENV)/.test services ## all tests, with real PostgreSQL, Valkey, Prometheus, Alertmanager and Chromium
	@$(PYTEST) -n $(WORKERS) --dist loadfile -q $(ARGS)

soak: $(VENV)/.test services ## the long tests: ten minutes of a healthy demo without an alert
	@export SOAK=true; $(PYTEST) -q -m soak $(ARGS)

lint: $(VENV)/.test types ## style, types and which folder may import which
	$(BIN)/lint-imports
	$(BIN)/ruff check exporter tests grafana docs examples setup.py
	$(BIN)/ruff format --check exporter tests grafana docs examples setup.py

types: $(VENV)/.test ## mypy --strict
	$(BIN)/mypy

coverage: $(VENV)/.test services ## all tests, and which lines they do not reach
	@$(PYTEST) -n $(WORKERS) --dist loadfile -q --cov --cov-report=term --cov-report=html:build/coverage $(ARGS)

bench: $(VENV)/.bench ## speed and memory against peers in the same run; ARGS="fanout --quick" for a part
	@sh tests/servers/install.sh bench
	$(BIN)/python -m tests.bench $(ARGS)

pictures: $(VENV)/.test services ## dashboards (by Grafana's components from npm) and admin page in good and bad times, in build/pictures
	$(BIN)/python -m tests.bench.pictures build/pictures $(ARGS)

dashboards: $(VENV)/.test ## build grafana/dashboards/*.json from their source
	$(BIN)/python -m grafana.source

docs: $(VENV)/.test ## write the generated documents and manifests
	$(BIN)/python -m docs.source

constraints: $(VENV)/.test ## pin what was tested: constraints.txt
	$(BIN)/python -m tests.platforms.versions pin

test-fast: $(VENV)/.test ## what needs no service, in less than a minute
	@$(PYTEST) -n $(WORKERS) -q -m "not needs" tests/core tests/metrics tests/settings tests/auth tests/node tests/web $(ARGS)

test-lowest: $(VENV)/.test services ## all tests on the lowest versions that setup.cfg promises
	@$(OWN_TEMPORARY) $(BIN)/python -m tests.platforms.versions lowest -n $(WORKERS) --dist loadfile -q $(ARGS)

platforms: $(VENV)/.test ## as a new user in fresh Debian 12 and 13 roots; ARGS="--suite" with all tests; needs root
	@$(BIN)/python -m tests.platforms $(ARGS)

release-check: ## everything that a release needs, in one command; BASELINE=v0.1.0 in the place of the last tag
	@for step in $(RELEASE); do \
		echo "release-check: make $$step"; \
		CI=true $(MAKE) --no-print-directory $$step ARGS= || { \
			echo "release-check: make $$step failed; nothing after it was tried" >&2; exit 1; }; \
	done; \
	echo "release-check: $$(git rev-parse --short HEAD) may be released"

committed: # what is released is what is committed
	@[ -z "$$(git status --porcelain)" ] || { git status --short; echo "commit these or put them away" >&2; exit 1; }

generated: dashboards docs
	@git diff --stat --exit-code || { echo "these were not in step with the code: commit them as they are now" >&2; exit 1; }

wheel: dist # what was just built, in an environment without anything else
	@rm -rf build/wheel && $(BIN)/python -m venv --without-pip build/wheel
	@$(BIN)/python -m pip --python build/wheel/bin/python install --quiet --disable-pip-version-check dist/*.whl
	@cd build/wheel && bin/messaging-exporter --version | grep "$$(git rev-parse --short=12 HEAD)" && bin/messaging-exporter doctor

compare: $(VENV)/.bench
	@baseline=$${BASELINE:-$$(git describe --tags --abbrev=0 HEAD~1 2>/dev/null)}; if [ -n "$$baseline" ]; \
	then $(BIN)/python -m tests.bench.compare "$$baseline"; else echo "no release has a tag: there is nothing to compare with"; fi

dist: $(VENV)/.test ## a source distribution and a wheel in dist/
	@rm -rf dist && $(BIN)/python -m build --outdir dist . >/dev/null

clean: ## everything that was made here, data/ excepted
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

services: # what the tests start, where the machine is Debian and the user may install
	@sh tests/servers/install.sh

$(VENV)/bin/python:
	@$(or $(PYTHON),false) $(NEW_ENOUGH) || { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); echo "on Debian: apt-get install python3-venv" >&2; exit 1; }

INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
WITHOUT = { echo "pip says above why it could not; it needs a network, or an index in PIP_INDEX_URL" >&2; exit 1; }

$(VENV)/.run: $(VENV)/bin/python setup.cfg
	@echo "installing into $(VENV)"
	@$(INSTALL) '.[demo]' || $(WITHOUT)
	@touch $@

$(VENV)/.test: $(VENV)/bin/python setup.cfg
	@echo "installing into $(VENV), with what the tests need"
	@$(INSTALL) '.[test,lint]' || $(WITHOUT)
	@touch $@ $(VENV)/.run

$(VENV)/.bench: $(VENV)/bin/python setup.cfg
	@echo "installing into $(VENV), with what the benchmarks need"
	@$(INSTALL) '.[test,bench]' || $(WITHOUT)
	@touch $@ $(VENV)/.run
