# `make` lists what there is. Everything lives in .venv; the first call of a target installs what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -c constraints.txt
ARGS ?=
PYTEST_ARGS ?=
.DEFAULT_GOAL := help
.PHONY: help demo studio test check format mutants bench gpu world notebooks readme clean

help: ## this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do \
	  printf '  make %-10s %s\n' "$$name" "$$text"; done

# --- for everybody ---------------------------------------------------------------------------------------------------

demo: $(VENV)/.demo ## the whole path in the tiny world, watched in the Studio; ARGS="--no-studio --seed 1" go to `lab demo`
	@$(BIN)/lab demo $(ARGS)

studio: $(VENV)/.demo ## the Studio over the runs in runs/; ARGS="--runs folder" go to `lab studio`
	@$(BIN)/lab studio $(ARGS)

test: $(VENV)/.dev ## every test, a real browser included; PYTEST_ARGS="tests/test_house.py -k floors" narrows it
ifeq (,$(findstring not browser,$(PYTEST_ARGS)))
	@command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || \
	  { echo "The browser tests need Chromium: apt-get install chromium (Debian, Ubuntu), or leave them out with" \
	    "make test PYTEST_ARGS='-m \"not browser\"'." >&2; exit 1; }
endif
ifeq (,$(findstring not postgres,$(PYTEST_ARGS)))
	@command -v postgres >/dev/null || ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || \
	  { echo "The tests of the label store need a PostgreSQL server: apt-get install postgresql (Debian, Ubuntu), or leave" \
	    "them out with make test PYTEST_ARGS='-m \"not postgres\"'." >&2; exit 1; }
endif
	@$(BIN)/python -m pytest $(PYTEST_ARGS)

# --- for those who change something ----------------------------------------------------------------------------------

check: $(VENV)/.dev ## ruff format, ruff check, pyright
	@$(BIN)/ruff format --check --output-format concise . || { echo "make format mends the layout." >&2; exit 1; }
	@$(BIN)/ruff check .
	@$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.dev ## lays the code out and mends what ruff can mend
	@$(BIN)/ruff check --quiet --fix . || true
	@$(BIN)/ruff format --quiet .
	@$(BIN)/ruff check .

mutants: $(VENV)/.dev ## changes every line of the arithmetic once: do the tests notice?
	@$(BIN)/python benchmarks/mutants.py $(ARGS)

bench: $(VENV)/.dev ## how fast it is, beside its peers; ARGS go to the benchmark
	@$(BIN)/python -m benchmarks.run $(ARGS)

gpu: $(VENV)/.dev ## everything worth measuring on an NVIDIA GPU, in one command; writes benchmarks/results/
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

world: $(VENV)/.dev ## pretrains the tiny world's base again (about half an hour on two cores)
	@$(BIN)/python -m lab.tiny.build $(ARGS)

notebooks: $(VENV)/.dev ## makes the notebooks from their sources
	@$(BIN)/python -m notebooks.build $(ARGS)

readme: $(VENV)/.dev ## draws the README's tables of settings again
	@$(BIN)/python tests/house.py

clean: ## forgets what was installed and what tests left behind; runs/ stays
	rm -rf $(VENV) build dist mutants *.egg-info .pytest_cache .ruff_cache .hypothesis
	find lab apps tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# --- what they need --------------------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rlhf-lab needs Python 3.11 or newer; name one with make PYTHON=/path/to/python3." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "Python could not make $(VENV); on Debian and Ubuntu: apt-get install python3-venv." >&2; exit 1; }

$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing rlhf-lab with the Studio and the notebook into $(VENV) (a few minutes, once)"
	@$(PIP) -e '.[studio,notebook]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "installing rlhf-lab with everything its tests need into $(VENV) (a few minutes, once)"
	@$(PIP) -e '.[dev]'
	@touch $(VENV)/.demo $@
