# One environment, five commands. Works with GNU make 3.81 (macOS) and newer; needs Python 3.11 or newer and nothing else.
#
#   make run   NB="03 00" PROFILE=quick ARGS="-p seed 1"     make image PROMPT="a red heart" ARGS="--seed 3"
#   make test  JOBS=4 ARGS="-k layers"                       make PIP_ARGS="--index-url ..." run

PYTHON  ?= python3
VENV    ?= .venv
PROFILE ?= quick
MINUTES ?= 9
JOBS    ?= 2
NB      ?=
ARGS    ?=
PIP_ARGS ?=
PROMPT  ?= a red heart
ifeq ($(OS),Windows_NT)
BIN := $(VENV)/Scripts
else
BIN := $(VENV)/bin
endif
PY := $(BIN)/python

# The prompt reaches the program through the environment, as it was typed: neither make nor the shell reads into it.
override PROMPT := $(value PROMPT)
export PROMPT

# A stamp is named after the content of the requirements, so that a changed line installs again and a touched file does not.
sum = $(shell cat $(1) | cksum | tr -s ' \t' '--')
STAMP := $(VENV)/.installed-$(call sum,requirements.txt constraints.txt)
APP   := $(VENV)/.page-$(call sum,requirements.txt constraints.txt)
DEV   := $(VENV)/.tests-$(call sum,requirements.txt requirements-dev.txt constraints.txt)

.PHONY: help run test test-long coverage check lint types format image lab app bench gpu clean
.DEFAULT_GOAL := help

help:
	@echo "make image PROMPT=\"a red heart\"   one picture by every method for that prompt, on one sheet"
	@echo "make run                          every notebook in profile quick; report in reports/index.html"
	@echo "make run NB=\"03\" PROFILE=smoke     some notebooks, another profile; ARGS=\"-p name value\" sets a parameter"
	@echo "make lab                          JupyterLab"
	@echo "make app                          the playground as a page in the browser; ARGS=\"--port 8000\""
	@echo "make test                         unit, parity and notebook tests; JOBS=4 for four processes"
	@echo "make test-long                    what takes minutes each: kills, the README's pictures, a dry run for a GPU"
	@echo "make coverage                     make test, and which lines no test runs; slower"
	@echo "make check                        before a commit: ruff, types and the quick tests, in three to seven minutes"
	@echo "make lint, types, format          one of them; format also pairs the notebooks"
	@echo "make bench                        benchmarks; CSV in reports/benchmarks"
	@echo "make gpu MINUTES=9                 all that only a GPU can tell, and training there; a later call goes on"
	@echo "make clean                        removes $(VENV)"
	@echo "The first call makes $(VENV) (some minutes). More: $(PY) -m t2ilib --help"

run: $(STAMP)
	$(PY) -m t2ilib run $(NB) --profile $(PROFILE) $(ARGS)

image: $(STAMP)
	@$(PY) -m t2ilib generate --method all $(ARGS) -- "$$PROMPT"

lab: $(STAMP)
	$(PY) -m jupyterlab --notebook-dir=. $(ARGS)

app: $(APP)
	$(PY) -m t2ilib app $(ARGS)

gpu: $(STAMP)
	$(PY) -m t2ilib gpu --minutes $(MINUTES) $(ARGS)

bench: $(STAMP)
	$(PY) -m t2ilib bench $(ARGS)

# What a change should pass before it is committed: everything that takes little time.
check: lint types
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest tests -q -m "not slow and not notebook and not long" \
	  -n $(JOBS) --dist worksteal $(ARGS)

lint: $(DEV)
	$(BIN)/ruff check .

types: $(DEV)
	$(PY) -m mypy

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(PY) -m t2ilib notebooks --sync

# One pytest run: nbmake collects the .ipynb of notebooks/ (profile smoke) beside the tests. Each process gets one thread;
# more would only fight over the cores.
test: $(DEV)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest notebooks tests --nbmake --nbmake-timeout=600 -m "not long" \
	  -n $(JOBS) --dist worksteal $(ARGS)

# What takes minutes each: kills of the command line, the README's pictures, a dry run of what a GPU would do.
test-long: $(DEV)
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PY) -m pytest tests -m long $(ARGS)

# Apart from make test: counting lines makes the quick tests half as slow again.
coverage: override ARGS += --cov --cov-report=term:skip-covered
coverage: test

$(STAMP):
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || \
	  { echo "Python 3.11 or newer is needed; name one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Installing into $(VENV); once, some minutes."
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install $(PIP_ARGS) -r requirements.txt -c constraints.txt
	@rm -f $(VENV)/.installed-* && touch $@

# Voila is for the page alone; nothing else installs it.
$(APP): $(STAMP)
	$(PY) -m pip install $(PIP_ARGS) "voila>=0.5" -c constraints.txt
	@rm -f $(VENV)/.page-* && touch $@

$(DEV): $(STAMP)
	$(PY) -m pip install $(PIP_ARGS) -r requirements-dev.txt -c constraints.txt
	@rm -f $(VENV)/.tests-* && touch $@

clean:
	rm -rf $(VENV)
