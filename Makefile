# pixtide: `make demo` shows it, `make test` tests it, `make` lists the rest.

# The Python that .venv is made with: 3.11 to 3.13.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# A folder of pictures for `make demo`; without one it uses pictures of its own.
FOLDER ?=
# More arguments for what demo, the tests and bench run.
ARGS ?=
# How many processes run the tests, each with a Kafka and a Weaviate of its own (2 GB); a file's
# tests run in one of them. Most of the time they wait.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --durations 10

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup setup-servers lock demo test test-all cluster faults faults-cluster strangers bench bench-encode bench-search bench-gpu bench-soak bench-compression bench-story bench-ingest check screenshots sbom clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## install everything into .venv (1 to 3 minutes, 6 GB, most of it torch)
	@echo "$(VENV) is ready"

demo: $(STAMP) ## show it all on one machine: make demo FOLDER=~/Pictures
	$(BIN)/pixtide demo $(if $(FOLDER),"$(patsubst ~/%,$(HOME)/%,$(FOLDER))") $(ARGS)

test: setup-servers ## test everything quick, on real Kafka and real Weaviate (about 14 minutes on two cores)
	$(PYTEST) --ignore tests/benchmarks -m "not slow" $(ARGS)

test-all: setup-servers ## test everything; it needs a JDK 17, Maven, Go, Node 20 with npm, Chromium, kcat and Prometheus
	$(PYTEST) --ignore tests/benchmarks $(ARGS)

cluster: $(STAMP) ## run three brokers, three Weaviate nodes and workers, to kill some of (4 GB of memory)
	@$(BIN)/python -m tests.support.cluster

faults-cluster: setup-servers ## kill one of each in such a cluster under load; a table at the end (9 minutes)
	$(BIN)/python -m pytest -m fault tests/faults/test_cluster.py $(ARGS)

faults: setup-servers ## break things on purpose and see what survives; a table at the end (25 minutes)
	PIXTIDE_TEST_CHAOS=full $(PYTEST) --ignore tests/benchmarks -m "fault and not cluster" $(ARGS)

strangers: setup-servers ## send generated records and requests, thousands of them (two hours)
	PIXTIDE_TEST_STRANGERS=long $(BIN)/python -m pytest tests/strangers --timeout 9000 $(ARGS)

bench: bench-encode bench-search bench-soak bench-story bench-ingest bench-compression ## measure, and compare with others

bench-encode: $(STAMP) ## measure encoding against other encoders (8 minutes, and 5 to install them once)
	$(BIN)/python -m tests.benchmarks encode $(ARGS)

bench-search: setup-servers ## measure searches over Kafka (20 minutes)
	$(BIN)/python -m tests.benchmarks search $(ARGS)

bench-gpu: $(STAMP) ## measure a GPU, and its share of what it can do (8 minutes; not in bench)
	$(BIN)/python -m tests.benchmarks gpu $(ARGS)

bench-soak: $(STAMP) ## watch the memory of searches of all kinds (6 minutes)
	$(BIN)/python -m tests.benchmarks soak $(ARGS)

bench-story: $(STAMP) ## compare three ways of finding pictures by words (20 s)
	$(BIN)/python -m tests.benchmarks story $(ARGS)

bench-ingest: setup-servers ## measure ingest, stage by stage, end to end and as it grows (25 minutes)
	$(BIN)/python -m tests.benchmarks ingest $(ARGS)

bench-compression: setup-servers ## measure each compression of the vectors (20 minutes, and 7 to encode once)
	$(BIN)/python -m tests.benchmarks compression $(ARGS)

check: $(STAMP) ## lint, formatting, types, and who may import whom
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

screenshots: $(STAMP) ## take the documentation's screenshots from a demo (needs chromium)
	$(BIN)/python docs/screenshots.py

setup-servers: $(STAMP) ## have Kafka and Weaviate at hand for the tests (once; up to 8 minutes)
	@$(BIN)/python -m tests.servers prepare

lock: $(BIN)/uv ## pin the dependencies of pyproject.toml anew, in requirements.lock
	$(BIN)/uv pip compile pyproject.toml --all-extras --universal --generate-hashes \
		--no-emit-index-url --custom-compile-command "make lock" -o requirements.lock $(ARGS)

sbom: $(STAMP) ## write what is in requirements.lock as CycloneDX, to build/sbom.cdx.json
	$(BIN)/python deploy/sbom.py build/sbom.cdx.json

clean: ## remove caches and what was built; .venv and .pixtide stay
	rm -rf build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis \
		.import_linter_cache
	find schemas encoders search streams tests -name __pycache__ -type d -prune -exec rm -rf {} +

# uv itself comes by pip, the packages by uv; both take nothing whose hash isn't in the lock.
$(BIN)/uv: requirements-uv.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "pixtide needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is:" \
			"$$($(PYTHON) --version 2>&1 || true). Name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
		exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes -r requirements-uv.lock
	@touch $@

# Bytecode is compiled ahead: a first start that compiles torch and its like takes long.
$(STAMP): $(BIN)/uv requirements.lock pyproject.toml
	@echo "Installing into $(VENV): about 3 GB to fetch, 6 GB on disk; 1 to 3 minutes"
	$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode \
		--require-hashes -r requirements.lock
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $@
