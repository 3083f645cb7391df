# make demo    pretrain, fine-tune and transcribe on the embedded corpus, in minutes on two cores
# make test    run the linters and the whole test suite
# make smoke   run the smallest experiment, every method once (docs/experiments.md); its numbers have no meaning
# make storm   kill tiny training runs at every file operation and at random times, and compare the results; STORMS=50 SEED=0
# make fuzz    damage every kind of input file, run the command that reads it, and count the results; CASES=1000 SEED=0
# make gpu-day run everything that has to be tested on a GPU, within ten minutes; MINUTES=9.5 DEVICES=1
# make docs    build the documentation as a site, and check its links
# All targets create .venv from requirements.txt, make test also from requirements-test.txt. PYTHON=python3.12 selects another
# interpreter.

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
TEST_INSTALLED := $(VENV)/.test-installed
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test smoke storm fuzz gpu-day docs lint
demo: $(INSTALLED)
	$(VENV)/bin/python scripts/demo.py

test: lint
	$(VENV)/bin/python -m pytest tests -n auto --maxprocesses 8 --dist loadfile

SMOKE_OUT ?= experiments_out
smoke: $(INSTALLED)
	$(VENV)/bin/python scripts/experiment.py --budget smoke --jobs 2 --out $(SMOKE_OUT)

STORMS ?= 50
SEED ?= 0
JOBS ?= 2
storm: $(INSTALLED)
	$(VENV)/bin/python -m benchmarks.reliability.storm --storms $(STORMS) --seed $(SEED) --jobs $(JOBS)

CASES ?= 1000
FUZZ_OUT ?= docs/results/fuzz.json
fuzz: $(INSTALLED)
	$(VENV)/bin/python -m benchmarks.reliability.fuzz --cases $(CASES) --seed $(SEED) --out $(FUZZ_OUT)

MINUTES ?= 9.5
DEVICES ?= 1
gpu-day: $(TEST_INSTALLED)
	$(VENV)/bin/python benchmarks/gpu_day.py --minutes $(MINUTES) --devices $(DEVICES)

docs: $(INSTALLED) requirements-docs.txt
	$(PIP_INSTALL) -r requirements-docs.txt
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=. $(VENV)/bin/mkdocs build --strict --quiet
	@echo "site/index.html"

lint: $(TEST_INSTALLED)
	$(VENV)/bin/ruff check nemo_birq scripts tests benchmarks docs/notebooks setup.py
	$(VENV)/bin/ruff format --check nemo_birq scripts tests benchmarks docs/notebooks setup.py
	$(VENV)/bin/lint-imports

$(INSTALLED): requirements.txt pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "The pinned versions need Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(PIP_INSTALL) -r requirements.txt
	$(PIP_INSTALL) --no-deps -e .
	touch $@

$(TEST_INSTALLED): requirements-test.txt $(INSTALLED)
	$(PIP_INSTALL) -r requirements-test.txt
	touch $@
