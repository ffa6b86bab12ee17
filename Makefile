# make demo and make test work on a fresh clone: setup creates .venv once and again when its inputs change.
VENV ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
WORKERS ?= 2
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help setup demo demo-quick bench test check lint types imports format clean

help:
	@echo "make demo        the main job on the embedded default: table and report (8 minutes on 2 cores)"
	@echo "make demo-quick  the same in small (90 seconds)"
	@echo "make test        the tests"
	@echo "make bench       every benchmark against TRL and transformers (about half an hour of CPU)"
	@echo "make check       ruff, import rules, types, style limits, wheel, README commands"
	@echo "make setup       create $(VENV) and install; the others do it by themselves"
	@echo "make format      let ruff rewrite the code"

setup: $(STAMP)

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "mmalign needs Python 3.11 or newer; name one with make PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PY) -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)
	$(PY) -m mmalign demo

bench: $(STAMP)
	@for name in $$($(PY) -m mmalign bench list --names); do $(PY) -m mmalign bench $$name || exit 1; done

demo-quick: $(STAMP)
	$(PY) -m mmalign demo --quick

test: $(STAMP)
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -n $(WORKERS) --dist loadfile -m "not install and not readme"

check: lint imports types
	OMP_NUM_THREADS=1 $(PY) -m pytest -q -m "install or readme"

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

# The root folders import as mmalign.modalities and so on; a tree of links shows tools that shape.
.PHONY: links
links: $(STAMP)
	@rm -rf .typecheck && mkdir -p .typecheck && cp -rs $(CURDIR)/mmalign .typecheck/mmalign
	@for folder in modalities rewards benchmarks; do cp -rs $(CURDIR)/$$folder .typecheck/mmalign/$$folder; done

imports: links
	cd .typecheck && ../$(VENV)/bin/lint-imports --config ../pyproject.toml --no-cache

types: links
	cd .typecheck && ../$(PY) -m mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p mmalign

format: $(STAMP)
	$(PY) -m ruff check --fix-only -q .
	$(PY) -m ruff format -q .

clean:
	rm -rf .typecheck build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache
