# make demo    pretrain, fine-tune and transcribe on the embedded corpus, minutes on two cores
# make test    the whole test suite and the linter
# make smoke   the smallest experiment, every method once (docs/experiments.md); its numbers say nothing
# All set up .venv from requirements.txt first; PYTHON=python3.12 chooses another interpreter.

PYTHON ?= python3
VENV := .venv

.PHONY: demo test smoke lint
demo: $(VENV)/.complete
	$(VENV)/bin/python scripts/demo.py

test: lint
	$(VENV)/bin/python -m pytest tests -n auto --maxprocesses 8 --dist loadfile

SMOKE_OUT ?= experiments_out
smoke: $(VENV)/.complete
	$(VENV)/bin/python scripts/experiment.py --budget smoke --jobs 2 --out $(SMOKE_OUT)

lint: $(VENV)/.complete
	$(VENV)/bin/ruff check nemo_birq scripts tests benchmarks
	$(VENV)/bin/ruff format --check nemo_birq scripts tests benchmarks

$(VENV)/.complete: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "The pinned versions need Python 3.11 or newer: make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@
