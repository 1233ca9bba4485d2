# One vocabulary for people, hooks and CI. `make` alone lists it.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
DATA := $(VENV)/.data
TESTED := $(VENV)/.tested
# The identity of every file that git would keep, as git computes it, without touching the index.
TREE = export GIT_INDEX_FILE="$(CURDIR)/$(VENV)/.index"; git add --all 2>/dev/null && git write-tree
# How git shows a notebook: as text. Where the module is not there, or the file is no notebook, as the file is.
TEXTCONV = f() { python3 -IS mlops_pkg/authoring/textconv.py "$$1" 2>/dev/null || cat "$$1"; }; f
GIT_SETUP = ! git rev-parse --git-dir >/dev/null 2>&1 || { \
	git config diff.notebook.textconv '$(TEXTCONV)' && git config diff.notebook.xfuncname '^(\# %%.*)$$'; }
# The page of `dvc plots`, which needs no network.
PLOTS_SETUP = ! test -d .dvc || { \
	python -m mlops_pkg.authoring.plots $(VENV)/plots.html && dvc config --local plots.html_template ../$(VENV)/plots.html; }
# What fails while all processors are busy runs once more, alone; what fails twice is red.
twice = python -m pytest -n auto --dist loadfile $1 || { \
	echo 'tests: what has failed runs once more, alone' >&2; \
	python -m pytest --last-failed --last-failed-no-failures none $1; }
LINT = echo 'lint: ruff, mypy, import rules' >&2 && ruff check --quiet && ruff format --quiet --check nbs tests benchmarks setup.py && mypy mlops_pkg && lint-imports
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
export PYTHONDONTWRITEBYTECODE :=

.NOTPARALLEL:
.PHONY: help run test test-slow campaign setup data lab serve export outputs lint format prove report lock clean

help:  ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: $(DATA)  ## rebuild what is out of date: pipeline, walks, parity, report; then a summary
	@python -m mlops_pkg run

test: run  ## lint, types, import rules, quick tests, every notebook against its stored outputs [COV=--cov]
	@tree=$$($(TREE)); \
	if [ -n "$$tree" ] && [ "$$tree" = "$$(cat $(TESTED) 2>/dev/null)" ]; then \
		echo "tests: green for exactly what is here; remove $(TESTED) to run them again"; \
	else \
		$(LINT); \
		$(call twice,-m "not slow" $(COV)); \
		$(call twice,-q --nbval --nbval-current-env --nbval-kernel-startup-timeout=300 --nbval-cell-timeout=600 -p mlops_pkg.authoring.nbval nbs); \
		echo "$$tree" > $(TESTED); \
	fi

test-slow: run  ## what needs minutes or whole environments: kills, servers, a browser, cold builds, a generated project
	@$(call twice,--no-loadscope-reorder -m slow)

campaign: run  ## the long form of the kill, fuzz and parity tests; the figures go to benchmarks/
	@python -m benchmarks.kills
	@python -m benchmarks.fuzz
	@python -m benchmarks.portable
	@python -m benchmarks.serving.fuzz
	@python -m benchmarks.serving.faults

setup: $(READY)  ## make .venv, install the locked, hash-checked dependencies, and let git show notebooks as text
	@$(GIT_SETUP)

data: $(READY)  ## restore data/ from the remote or the pinned package, and verify it
	@python -m mlops_pkg data

# Nothing is written to the home folder, and nothing that lies there is obeyed.
LAB := $(CURDIR)/$(VENV)/jupyter
lab: export JUPYTER_CONFIG_DIR := $(LAB)/config
lab: export JUPYTER_DATA_DIR := $(LAB)/data
lab: export JUPYTER_RUNTIME_DIR := $(LAB)/runtime
lab: export JUPYTERLAB_SETTINGS_DIR := $(LAB)/settings
lab: export JUPYTERLAB_WORKSPACES_DIR := $(LAB)/workspaces
lab: export IPYTHONDIR := $(LAB)/ipython
lab: export MPLCONFIGDIR := $(LAB)/matplotlib
lab: export PORT := $(PORT)
lab: $(DATA)  ## open JupyterLab, where saving a notebook exports it [PORT=8899 ARGS=--no-browser]
	@jupyter lab --config=.jupyter/jupyter_lab_config.py $(ARGS)

serve: run  ## bring all up to date, then answer over HTTP [ARGS='--port 8080 --workers 2']
	@exec mlops_pkg serve $(ARGS)

export: $(READY)  ## write mlops_pkg/ anew from the notebooks, and clean the notebooks
	@# a notebook of an old format has no ids of cells; an export would name its cells anew
	@unread=$$(grep -rLE --include='*.ipynb' --exclude-dir='.*' '"nbformat_minor": *([5-9]|[1-9][0-9])' nbs || true); \
	test -z "$$unread" || { python -m mlops_pkg sync | grep '^package.*\.ipynb: ' >&2; exit 1; }
	@# a package that cannot even export itself is written by nbdev's own commands; what stood there is kept
	@if python -c 'import mlops_pkg.authoring.saving' 2>/dev/null; then python -m mlops_pkg.authoring.saving; else \
		rm -rf $(VENV)/former && cp -R mlops_pkg $(VENV)/former; \
		nbdev_export && nbdev_clean; \
		echo "mlops_pkg could not be imported, so all of it was exported anew; what stood there is in $(VENV)/former"; fi

outputs: $(DATA)  ## run all notebooks in place and store what they show, e.g. after a change of the data
	@python -m mlops_pkg outputs

lint: $(READY)  ## ruff on notebooks, package and tests; mypy --strict; the import rules
	@$(LINT)

format: $(READY)  ## format and fix the notebooks and tests, then export
	@ruff format --quiet nbs tests benchmarks setup.py
	@ruff check --quiet --fix nbs tests benchmarks setup.py
	@$(MAKE) --no-print-directory export

prove: $(DATA)  ## bring everything up to date and run every proof, whether or not anything changed
	@dvc repro || true
	@python -m mlops_pkg prove

report: $(DATA)  ## bring the report up to date and open it in a browser
	@dvc repro || true
	@python -m mlops_pkg report --open

lock: $(READY)  ## resolve settings.ini anew into the requirements files and environment.json
	@uv pip compile $(COMPILE) --upgrade setup.py --extra all -o requirements.txt
	@uv pip compile $(COMPILE) setup.py -c requirements.txt -o requirements-edge.txt
	@uv pip compile $(COMPILE) setup.py --extra pipeline --extra xgboost --extra lightgbm --extra search -c requirements.txt -o requirements-pipeline.txt
	@uv pip compile $(COMPILE) setup.py --extra serve -c requirements.txt -o requirements-serve.txt
	@printf 'uv\n' | uv pip compile $(COMPILE) - -c requirements.txt -o requirements-bootstrap.txt
	@grep -E '^(numpy|scipy|pandas|scikit-learn|feature-engine|skops)==' requirements.txt | tr -d '\\' | \
		uv pip compile $(COMPILE) --upgrade benchmarks/serving/peers.in -c - -o benchmarks/serving/peers.txt
	@grep -E '^(numpy|onnxruntime|mlflow-skinny)==' requirements.txt | tr -d '\\' | \
		uv pip compile $(COMPILE) --upgrade tests/slow/mlflow.in -c - -o tests/slow/mlflow.txt
	@python -m mlops_pkg.core.environment

COMPILE := --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes --no-header --no-annotate

clean:  ## remove what can be made again: .venv, artifacts, walks, reports
	rm -rf $(VENV) artifacts research reports build dist *.egg-info .coverage .*_cache .hypothesis
	git checkout --quiet -- artifacts 2>/dev/null || true

# A list of the files would break at a blank in one of their names.
.PHONY: newer-data
$(DATA): $(READY) data.dvc $(if $(shell find data -newer $(DATA) -print -quit 2>/dev/null),newer-data)
	@python -m mlops_pkg data
	@touch $@

$(READY): requirements-bootstrap.txt requirements.txt settings.ini setup.py
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, found " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	@test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the locked dependencies into $(VENV) ..."
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt
	@uv pip install --quiet --python $(VENV)/bin/python --require-hashes -r requirements.txt
	@uv pip install --quiet --python $(VENV)/bin/python --no-deps --no-build-isolation --editable .
	@$(GIT_SETUP)
	@$(PLOTS_SETUP)
	@touch $@
