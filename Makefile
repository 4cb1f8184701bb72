# Every tool is started here. On a fresh machine `make run` and `make test` need Python (with venv and pip) and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH := $(VENV)/.installed-bench
# What `make run` needs is a small part of the development environment, so it has an environment of its own.
RUN_VENV := .venv-run
RUN_BIN := $(RUN_VENV)/bin
RUN := $(RUN_VENV)/.installed
PORT ?= 8000
REV ?= HEAD

SOURCES := pyproject.toml setup.py gws_middleware/__init__.py $(wildcard gws_middleware/*.h gws_middleware/*/*.c)
# By file, because the tests of one file share their servers. They wait more than they compute, so four processes go well
# on two cores.
PARALLEL := --numprocesses 4 --dist loadfile --no-loadscope-reorder
# Test processes and servers load the same modules hundreds of times: without bytecode each of them compiles them anew.
unexport PYTHONDONTWRITEBYTECODE
FAST := not real_server and not browser and not database and not slow
STRICT_C := -Wall -Wextra -Werror -Wno-missing-field-initializers -g -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined
SANITIZED := build/sanitized
SANITIZERS = $(shell gcc -print-file-name=libasan.so) $(shell gcc -print-file-name=libubsan.so)
NATIVE_TESTS := tests/protocol tests/connection/test_channel.py tests/connection/test_fastpath.py tests/test_native.py $(wildcard tests/test_parity.py)
IN_PROCESS := not real_server and not browser and not slow
# Per cent of lines and branches that the tests have to reach which start no process of ours: what runs in a server that
# they start is not counted.
FLOOR := 90

.PHONY: help run test test-fast test-pure sanitize test-all lint words types docs dist check coverage bench bench-all bench-compare chaos soak restart \
        responsive fair groups groups-redis logout conformance clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

# gunicorn_h1c is gunicorn's C parser: tested where it can be built, not needed elsewhere.
$(INSTALLED): $(SOURCES)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	-@$(BIN)/python -m pip install --quiet 'gunicorn_h1c>=0.6.6' >/dev/null 2>&1 || echo "gunicorn's C parser was not installed: its tests will say so"
	@touch $@

$(BENCH): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	-@npm install --silent --no-save --prefix benchmarks bun >/dev/null 2>&1 || echo "Bun was not installed (no npm): the report will say so"
	@touch $@

$(RUN): $(SOURCES)
	@echo "Installing gws_middleware with Django and gunicorn into $(RUN_VENV) (about 100 MB, once) ..."
	@$(PYTHON) -m venv $(RUN_VENV)
	@$(RUN_BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[django,gunicorn]'
	@touch $@

run: $(RUN) ## Serve the chat on http://127.0.0.1:8000 (PORT=… for another port)
	@$(RUN_BIN)/python -m gws_middleware
	@echo "Preparing the database of examples/chat ..."
	@$(RUN_BIN)/python examples/chat/manage.py migrate --verbosity 0
	@echo "Starting gunicorn with two workers. Open http://127.0.0.1:$(PORT)/ in a browser; Ctrl-C stops the server."
	@$(RUN_BIN)/python -m gunicorn --config gunicorn_conf.py --workers 2 --bind 127.0.0.1:$(PORT) --chdir examples/chat project.wsgi

test: $(INSTALLED) ## Run the whole test suite
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: $(INSTALLED) ## Run the tests that start no server, no browser and no database
	$(BIN)/python -m pytest -m "$(FAST)" --numprocesses auto --dist worksteal --ignore tests/hostile

test-pure: $(INSTALLED) ## Run the whole test suite in pure Python, without the modules in C
	GWS_SPEEDUPS=0 $(BIN)/python -m pytest $(PARALLEL)

# In a copy, because a module that was built like this cannot be loaded without the sanitizers.
sanitize: $(INSTALLED) ## Build the C modules with all warnings and sanitizers, and run their tests
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	cp -R gws_middleware tests stress benchmarks fuzz pyproject.toml setup.py README.md LICENSE $(SANITIZED)
	find $(SANITIZED) -name '*.so' -delete
	cd $(SANITIZED) && CFLAGS="$(STRICT_C)" GWS_SPEEDUPS=1 $(abspath $(BIN))/python setup.py --quiet build_ext --inplace
	cd $(SANITIZED) && LD_PRELOAD="$(SANITIZERS)" ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc GWS_SPEEDUPS=1 \
	    PYTHONPATH=. $(abspath $(BIN))/python -m pytest $(NATIVE_TESTS)

test-all: $(INSTALLED) ## Run the suite on every CPython from 3.10 that this machine has
	$(BIN)/python -m nox

lint: $(INSTALLED) words ## Style and spelling
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m codespell_lib

words: $(INSTALLED) ## Words that the project does not use
	@for script in $(wildcard tools/words.py tests/words.py); do $(BIN)/python $$script || exit 1; done

types: $(INSTALLED) ## Types
	$(BIN)/python -m mypy

docs: $(INSTALLED) ## Build the documentation as a site in docs/_build/html; a warning is an error
	$(BIN)/python -m sphinx --builder html --fail-on-warning --keep-going --quiet docs docs/_build/html
	@echo "Open docs/_build/html/index.html"

dist: $(INSTALLED) ## Build the source distribution and a wheel in dist/, and check their metadata
	rm -rf build dist
	$(BIN)/python -m build --outdir dist
	$(BIN)/python -m twine check --strict dist/*

check: lint types docs coverage test ## Everything that has to pass before a change is merged

coverage: $(INSTALLED) ## Branch coverage of the tests that start no server, with a floor
	$(BIN)/python -m coverage erase
	$(BIN)/python -m coverage run -m pytest -m "$(IN_PROCESS)" --ignore tests/hostile
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report --fail-under=$(FLOOR)

bench-compare: $(INSTALLED) ## This checkout beside another revision of it in one run (REV=…, default HEAD)
	$(BIN)/python -m benchmarks.compare $(REV)

bench: $(BENCH) ## Our echo beside other servers', in one run; charts in benchmarks/report.html
	$(BIN)/python -m benchmarks.echo --html benchmarks/report.html

bench-all: $(BENCH) ## All scenarios: large messages, and what grows up to 50,000 connections
	$(BIN)/python -m benchmarks.echo --scenarios '*' --html benchmarks/report.html --json benchmarks/figures.json

chaos: $(INSTALLED) ## Five minutes of honest and hostile peers while workers are killed, stopped and reloaded
	$(BIN)/python -m stress chaos

soak: $(INSTALLED) ## An hour of mixed use on one worker, and the slope of its memory
	$(BIN)/python -m stress soak

restart: $(INSTALLED) ## Rolling restarts under 2,000 clients and HTTP requests
	$(BIN)/python -m stress restart

responsive: $(INSTALLED) ## How long an HTTP request takes while 1,000 WebSockets of the same worker echo
	$(BIN)/python -m stress responsive

fair: $(INSTALLED) ## How long one client waits while others of the same worker send more than their share
	$(BIN)/python -m stress fair

groups: $(INSTALLED) ## Two minutes of members and publishers of groups while workers are killed, stopped and reloaded
	$(BIN)/python -m stress groups

groups-redis: $(INSTALLED) ## The same over Valkey with eight workers of two gunicorns, while Valkey fails in every way
	$(BIN)/python -m stress groups --redis

logout: $(INSTALLED) ## How long it takes until a logout has closed 100 pages under four workers, over Valkey
	$(BIN)/python -m stress logout --redis

WSTEST ?= wstest
conformance: $(INSTALLED) ## The 517 cases of the Autobahn test suite (WSTEST=…, its program; see stress/README.md)
	$(BIN)/python -m stress conformance --wstest $(WSTEST)

clean: ## Remove what the other targets made
	rm -rf $(VENV) $(RUN_VENV) build dist *.egg-info docs/_build .nox .coverage* .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find gws_middleware -name '*.so' -delete
