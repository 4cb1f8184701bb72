# One door to every tool. On a fresh machine `make run` and `make test` need Python (with venv and pip) and nothing else.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
BENCH := $(VENV)/.installed-bench
PORT ?= 8000

.PHONY: help run test test-all lint types check coverage bench chaos soak restart responsive fair clean

help: ## Show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

# gunicorn_h1c is gunicorn's C parser: tested where it can be built, done without elsewhere.
$(INSTALLED): pyproject.toml setup.py gws_middleware/connection/_channel.c gws_middleware/connection/_fastpath.c gws_middleware/protocol/_speedups.c
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	-@$(BIN)/python -m pip install --quiet 'gunicorn_h1c>=0.6.6' >/dev/null 2>&1 || echo "gunicorn's C parser was not installed: its tests will say so"
	@touch $@

$(BENCH): $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[bench]'
	@touch $@

run: $(INSTALLED) ## Serve the chat on http://127.0.0.1:8000 (PORT=… for another port)
	$(BIN)/python examples/chat/manage.py migrate --verbosity 0
	$(BIN)/python -m gunicorn --config gunicorn_conf.py --workers 1 --bind 127.0.0.1:$(PORT) --chdir examples/chat project.wsgi

# By file, because the tests of one share their servers. They wait more than they compute, so four go well on two cores.
test: $(INSTALLED) ## Run the whole test suite
	$(BIN)/python -m pytest --numprocesses 4 --dist loadfile --no-loadscope-reorder

test-all: $(INSTALLED) ## Run the suite on every CPython from 3.10 that this machine has
	$(BIN)/python -m nox

lint: $(INSTALLED) ## Style
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .

types: $(INSTALLED) ## Types
	$(BIN)/python -m mypy

check: lint types test ## Everything that CI runs

coverage: $(INSTALLED) ## Branch coverage of the suite
	$(BIN)/python -m coverage run -m pytest
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

bench: $(BENCH) ## Our echo beside other servers', in one run
	$(BIN)/python -m benchmarks.echo

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

clean: ## Remove what the other targets made
	rm -rf $(VENV) build dist *.egg-info .nox .coverage* .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
	find gws_middleware -name '*.so' -delete
