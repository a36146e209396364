# Each command sets up its own environment in .venv when it is missing or out of date.
#   make demo       segment three phantoms after one reference each: no data, no network
#   make test       the tests          make test-all   the slow ones too
#   make check      style, types, layers
#   make docs       the documentation site into build/site, a dead link is an error
#   make bench      speed and memory; RELEASED=folder of the authors' code puts both side by side
#   make gpu        what there is to measure on a GPU, at most nine minutes a call, into gpu.json; again: what is missing; RELEASED as above
# PYTHON=python3.12 chooses the interpreter; TORCH_INDEX=URL the build of PyTorch, with a URL from its installation page (pytorch.org).
PYTHON ?= python3
TORCH_INDEX ?=
VENV := .venv
RUN := $(VENV)/bin/python -m
INSTALL := $(RUN) pip install --quiet --disable-pip-version-check --constraint constraints.txt
# One thread a process: two processes of many threads each would fight for the cores. Each begins with a part of its own of all tests and
# takes over from others at the end, so that what the tests of a file share is made once.
# Code is compiled once, not by each of the processes the tests start.
PYTEST := OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(RUN) pytest --numprocesses auto --maxprocesses 4 --dist worksteal

.PHONY: demo test test-all check docs bench gpu clean
.DELETE_ON_ERROR:

demo: $(VENV)/core.stamp
	$(RUN) mass_core demo --overwrite

test: $(VENV)/dev.stamp
	$(PYTEST)

test-all: $(VENV)/dev.stamp
	$(PYTEST) -m "slow or not slow"

check: $(VENV)/dev.stamp
	$(RUN) ruff check .
	$(RUN) ruff format --check .
	$(RUN) mypy
	$(RUN) pytest --quiet Testing/core/test_imports.py

docs: $(VENV)/dev.stamp
	NO_MKDOCS_2_WARNING=1 $(RUN) mkdocs build --strict

bench: $(VENV)/dev.stamp
	$(RUN) Testing.benchmarks.inference --section cpu $(if $(RELEASED),--released $(RELEASED))

gpu: $(VENV)/dev.stamp
	$(RUN) Testing.benchmarks.gpu $(if $(RELEASED),--released $(RELEASED))

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache

$(VENV)/core.stamp: pyproject.toml constraints.txt
	@echo "Setting up $(VENV) ($$($(PYTHON) --version)); the first time downloads PyTorch"
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) cannot make environments: install its venv package (Debian, Ubuntu: apt install python3-venv)"; exit 1; }
	@$(INSTALL) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	@$(INSTALL) --editable .
	@touch $@

# SAM2 without its CUDA extension is Python only, but comes as source; where it cannot be built its tests are skipped, and say so.
$(VENV)/dev.stamp: $(VENV)/core.stamp Testing/requirements-sam2.txt
	@$(INSTALL) --editable ".[masks,train,slicer,docs,dev]"
	@$(INSTALL) --no-deps dynamic-network-architectures  # of nnU-Net, for one example of docs/encoder.md; its decoder needs PyTorch alone
	@$(INSTALL) --no-deps nnunetv2 acvl-utils batchgenerators nibabel \
	  || echo "nnU-Net could not be installed; the test that its evaluator reads our results will be skipped."
	@{ $(INSTALL) hydra-core iopath setuptools wheel && SAM2_BUILD_CUDA=0 $(RUN) pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --require-hashes --requirement Testing/requirements-sam2.txt; } \
	  || echo "SAM2 could not be installed; its tests will be skipped."
	@touch $@
