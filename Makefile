# kdlab. `make demo` shows it, `make test` proves it, `make lab` opens it; `make` alone lists everything.
#
# All that is needed is python3 (3.11 or newer), make, and a package index that pip can reach.

PYTHON ?= python3
VENV   ?= .venv
# One process more than processors, as tests also wait: for pages, kernels, disks.
JOBS   ?= $(shell n=$$(getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2); echo $$((n < 8 ? n + 1 : 8)))
ARGS   ?=

run     := "$(VENV)/bin/python"
install := $(PYTHON) .ci/install.py "$(VENV)"
pytest  := $(run) -m pytest $(if $(filter-out 0 1,$(JOBS)),-n $(JOBS))
nothing := [ $$? = 5 ]  # no test was selected, which is no failure here
extras  := test dev timm opentsne tensorboard dashboards onnx ray book

# Whatever the environment points at, the code of this checkout is what runs.
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))

# Many processes are started, which would all compile it anew.
unexport PYTHONDONTWRITEBYTECODE

# Beside the packages whose types it has read, so that a fresh checkout need not read them again.
export MYPY_CACHE_DIR := $(abspath $(VENV))/mypy

.DEFAULT_GOAL := help
.PHONY: help demo lab book test lint bench install install-test browser clean

help:
	@echo "make demo    train a teacher and several students on real images, then write a report"
	@echo "make lab     open JupyterLab at the first notebook"
	@echo "make book    run all notebooks and write them, the method cards and the reference as web pages"
	@echo "make test    lint, type-check, and run all tests (notebooks and browser included)"
	@echo "make lint    only the linters"
	@echo "make bench   measure speed"
	@echo "make clean   remove caches and build products (not the environment, studies or data)"
	@echo
	@echo "Settings: VENV=$(VENV) (the environment), PYTHON=$(PYTHON) (makes it),"
	@echo "          ARGS=... (handed on: make demo ARGS=\"--seeds 1\", make test ARGS=\"-k study\", make book ARGS=--fast),"
	@echo "          JOBS=$(JOBS) (run tests in so many processes)"

demo: install
	@$(run) -m kdlab demo $(ARGS)

lab: install
	@$(run) -m kdlab lab $(ARGS)

book: install-test
	@$(run) docs/book/make_book.py $(ARGS)

test: lint browser
	@$(pytest) -m "not browser" $(ARGS) || $(nothing)
	@$(pytest) -m browser $(if $(findstring tests/,$(ARGS)),,tests/browser) $(ARGS) || $(nothing)

lint: install-test
	@$(run) -m ruff check .
	@$(run) -m mypy
	@set -- notebooks/*.ipynb; [ ! -e "$$1" ] || $(run) -m nbstripout --verify "$$@" \
	  || { echo "make: clear the notebooks above: nbstripout notebooks/*.ipynb"; exit 1; }

# Other files there are what these share. The one for GPUs runs where PyTorch sees one.
benches := imports throughput lockstep overhead small_pictures accuracy_bf16 probes panels
bench: install-test
	@for name in $(benches); do echo; echo "== $$name"; $(run) benchmarks/$$name.py $(ARGS) || exit 1; done
	@echo; echo "== methods --speed"; $(run) benchmarks/methods.py --speed $(ARGS)
	@! $(run) -c "import sys, torch; sys.exit(not torch.cuda.is_available())" || $(run) benchmarks/gpu.py $(ARGS)

install:
	@$(install)

install-test:
	@$(install) $(extras)

# The browser tests need a Chromium. Root gets Debian's by apt-get; others are told and the tests are skipped.
browser:
	@for name in chromium chromium-browser google-chrome; do \
	  if command -v $$name >/dev/null 2>&1; then exit 0; fi; done; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "Installing Chromium for the browser tests ..."; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get -qq update && apt-get -qq -o DPkg::Lock::Timeout=300 install -y chromium >/dev/null && exit 0; \
	  [ -z "$$CI" ] || { echo "make: Chromium could not be installed"; exit 1; }; \
	fi; \
	echo "make: no Chromium found, so the browser tests will be skipped (Debian: apt-get install chromium)"

clean:
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
	@rm -rf .mypy_cache .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
