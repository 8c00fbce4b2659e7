# Every target sets up what it needs: nothing has to be installed first but
# Python 3.11 and make.

BIN = .venv/bin
PYTEST_ARGS ?=
HEAT ?= 1

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' Makefile

demo: .venv/run.stamp  ## kill and freeze engines, lose nothing (SQLite, no server)
	@$(BIN)/liveness-demo $(DEMO_ARGS)

test: .venv/test.stamp system  ## run the tests on all databases and on a Heat (PYTEST_ARGS)
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

heat-e2e: .venv/test.stamp  ## kill real heat-engines, stock and ours (HEAT=short)
	@tools/system-packages heat
	@LIVENESS_HEAT=$(HEAT) $(BIN)/python -m pytest tests/heat $(PYTEST_ARGS)

heat-unit: .venv/test.stamp  ## run Heat's own unit tests: stock, ours, ours enabled
	@$(BIN)/python -m tests.heat.unit

heat-matrix: .venv/test.stamp  ## die at every message of Heat's scenarios: an hour (MATRIX_ARGS)
	@$(BIN)/python -m tests.heat.matrix $(MATRIX_ARGS)

model: .venv/test.stamp  ## check the models of the protocol with spin (MODEL=short)
	@tools/system-packages model
	@$(BIN)/python model/run.py $(if $(filter short,$(MODEL)),--short) $(MODEL_ARGS)

lint: .venv/test.stamp  ## check style and format
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: .venv/test.stamp  ## check types
	@$(BIN)/mypy

docs: .venv/test.stamp  ## build the documentation in doc/build/html
	@$(BIN)/tox -e docs

dist: .venv/test.stamp  ## build wheel and sdist in dist/, and try the wheel
	@tools/check-dist dist

clean:  ## remove everything that these targets made
	rm -rf .venv .tox build dist doc/build *.egg-info
	rm -rf .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

system: .venv/test.stamp
	@tools/system-packages test

.venv/run.stamp: setup.py requirements.txt pyproject.toml liveness/version.py
	@tools/venv -e '.[postgresql,metrics,reports]'
	@touch $@

.venv/test.stamp: .venv/run.stamp test-requirements.txt
	@tools/venv -r test-requirements.txt
	@touch $@

.PHONY: help demo test model lint types docs dist heat-e2e heat-unit heat-matrix clean system
