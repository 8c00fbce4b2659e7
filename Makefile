# Every target sets up what it needs: nothing has to be installed first but
# Python 3.11 and make.

BIN = .venv/bin
PYTEST_ARGS ?=
HEAT ?= 1
ENDURE ?= long
SECONDS ?= 60

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

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

bench: .venv/test.stamp  ## measure it against floors: an hour (bench-idle and so on)
	@tools/system-packages bench
	@$(BIN)/python -m bench $(BENCH_ARGS)

bench-quick: .venv/test.stamp  ## the same with small sizes, to see that it works
	@tools/system-packages bench
	@$(BIN)/python -m bench --quick $(BENCH_ARGS)

bench-scaling: .venv/test.stamp  ## simulate 10,000 engines: where a fleet bends first
	@tools/system-packages bench
	@$(BIN)/python -m bench.scaling $(BENCH_ARGS)

bench-%: .venv/test.stamp
	@tools/system-packages bench
	@$(BIN)/python -m bench $* $(BENCH_ARGS)

endure: .venv/test.stamp system  ## run long and large (ENDURE="long|crowd|outage ...")
	@$(BIN)/python -m tests.endure $(ENDURE)

fuzz: .venv/fuzz.stamp  ## look for inputs that break it, by coverage (SECONDS)
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(FUZZ_ARGS)

cluster: .venv/test.stamp system  ## all tests on Galera and on a PostgreSQL failover
	@LIVENESS_CLUSTER=long $(BIN)/python -m pytest tests/cluster $(PYTEST_ARGS)

galera: .venv/test.stamp  ## count the conflicts of engines on three Galera nodes (ROWS)
	@tools/system-packages galera
	@$(BIN)/python -m tests.cluster.conflicts $(ROWS)

SEED ?= 1
DATABASE ?= mariadb

chaos: .venv/test.stamp system  ## faults from a seed, a judge (SECONDS, SEED, DATABASE)
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) --database $(DATABASE) $(CHAOS_ARGS)

chaos-mutants: .venv/test.stamp system  ## plant bugs; chaos has to find each (DATABASE)
	@$(BIN)/python -m tests.chaos --mutants --seed $(SEED) --database $(DATABASE) $(CHAOS_ARGS)

chaos-ci: .venv/test.stamp system  ## two minutes of chaos on MariaDB, PostgreSQL and Galera
	@$(BIN)/python -m tests.chaos --seconds 120 --database mariadb $(CHAOS_ARGS)
	@$(BIN)/python -m tests.chaos --seconds 120 --database postgresql $(CHAOS_ARGS)
	@$(BIN)/python -m tests.chaos --seconds 120 --database galera $(CHAOS_ARGS)

lint: .venv/test.stamp  ## check style and format
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check

types: .venv/test.stamp  ## check types
	@$(BIN)/mypy

docs: .venv/test.stamp  ## build the documentation in doc/build/html
	@$(BIN)/tox -e docs

screenshots: .venv/test.stamp system  ## take the pictures of the page and of top for the documentation
	@$(BIN)/python tools/screenshots.py doc/source/_static

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

.venv/fuzz.stamp: .venv/test.stamp fuzz-requirements.txt
	@tools/venv -r fuzz-requirements.txt
	@touch $@

.PHONY: help demo screenshots test chaos chaos-mutants chaos-ci cluster galera bench bench-quick bench-scaling model endure fuzz lint types docs dist heat-e2e heat-unit heat-matrix clean system
