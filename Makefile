# Two cores and no GPU are enough for every target but gpu-check. Everything is installed into .venv from constraints.txt.
## make demo             train on synthetic hands, evaluate on others, write a report: exp/demo/report.html
## make test-fast        the tests that take no trained network and no export: about a minute
## make test             the tests, without the slow ones
## make test-slow        the slow ones: sanitizers, large networks, whole trainings
## make test-docs        every command of README.md and docs/
## make test-robustness  malicious files, full disks, dead ranks, a long run
## make test-install     a plain installation in a fresh environment
## make test-lowest      the tests with the lowest versions that setup.py admits, in an environment of its own
## make coverage         the tests with line coverage
## make lint             ruff and mypy
## make format           ruff
## make bench-quick      a short run of every benchmark, with checks of ratios to princeton
## make torch-cpu        run first on a machine without a GPU: torch without several GB of CUDA
## make gpu-check        everything that needs a GPU, with the Python named by GPU_PYTHON
## make gpu-kit          wheels and calls for a machine that has a GPU but no network
## make clean            remove the environments and the demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WITNESSES := $(VENV)/witnesses/installed
GPU_PYTHON ?= python3
GPU_VENV := .venv-gpu
LOWEST := .venv-lowest
LOWEST_TORCH ?= torch==2.11.0
DEMO_HANDS := 4000
DEMO_DATA := data/drawn-hands-$(DEMO_HANDS)

.PHONY: help demo test test-fast test-lowest test-slow test-docs test-robustness test-install coverage torch-cpu lint format bench-quick gpu-check gpu-kit clean

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

$(VENV)/installed: setup.py constraints.txt
	@echo "== installing into $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable ".[train,export,rtx,bench,dev]"
	@touch $@

# Bindings and sources of TensorRT and Torch-TensorRT without NVIDIA's libraries, for tests on machines where neither runs.
$(WITNESSES): Makefile | $(VENV)/installed
	$(BIN)/pip install --disable-pip-version-check --no-deps --upgrade --target $(@D)/tensorrt10 tensorrt-cu12-bindings==10.13.3.9
	$(BIN)/pip install --disable-pip-version-check --no-deps --upgrade --target $(@D)/tensorrt11 tensorrt-cu13-bindings==11.4.0.106
	$(BIN)/pip install --disable-pip-version-check --no-deps --upgrade --target $(@D)/torch_tensorrt torch-tensorrt==2.13.0
	@touch $@

$(DEMO_DATA)/training_K.json: | $(VENV)/installed
	@echo "== rendering $(DEMO_HANDS) synthetic hands with four images each: two to three minutes"
	$(BIN)/python pipelines/synthetic.py freihand --out $(DEMO_DATA) --count $(DEMO_HANDS) --seed 0 --overwrite

# Render hands, train on them, evaluate on held-out hands, and export the network.
demo: $(VENV)/installed $(DEMO_DATA)/training_K.json
	@echo "== training"
	@$(BIN)/python bench/demo_expectation.py
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node 2 hgfast/train.py --config configs/demo.yaml --data $(DEMO_DATA) --overwrite
	@echo "== evaluating on held-out hands"
	@$(BIN)/python hgfast/evaluate.py exp/demo/best.pt --data $(DEMO_DATA) --split test --baselines \
		--json exp/demo/result.json --sheet exp/demo/predictions.jpg --worst exp/demo/worst.jpg
	@echo "== exporting"
	@$(BIN)/python export/to_onnx.py exp/demo/best.pt
	@$(BIN)/python hgfast/report.py exp/demo
	@$(BIN)/python bench/demo_expectation.py exp/demo
	@echo "network: exp/demo/best.pt, as ONNX exp/demo/best.fp32.onnx; report: exp/demo/report.html"
	@echo "predict on your image: $(BIN)/python hgfast/predict.py exp/demo/best.pt IMAGE --out predictions"

PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile
# Files that train or export networks, run benchmarks or compile C++.
LONG_TESTS := tests/export tests/bench tests/hgfast/runtime tests/pipelines/synthetic_data tests/pipelines/loaders \
	$(addprefix tests/hgfast/test_,train.py evaluate.py predict.py report.py converters.py) \
	$(addprefix tests/pipelines/test_,cache.py check.py) tests/hgfast/training/test_trainer.py

test-fast: $(VENV)/installed
	$(PYTEST) -m "not slow and not install and not docs" --ignore tests/robustness $(LONG_TESTS:%=--ignore %)

test: $(VENV)/installed $(WITNESSES)
	$(PYTEST) -m "not slow and not install and not docs" --ignore tests/robustness

test-slow: $(VENV)/installed $(WITNESSES)
	$(PYTEST) -m slow --ignore tests/robustness

# Broken, malicious and random files, full disks, dead ranks, a long run; file permissions apply to root, too.
test-robustness: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.unprivileged $(BIN)/pytest -n 2 --dist loadfile tests/robustness

# LOWEST_TORCH=torch==2.13.0+cpu takes another torch; UV_FIND_LINKS names the folder of a wheel that no index has.
$(LOWEST)/lowest: setup.py constraints.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --disable-pip-version-check uv
	echo "$(LOWEST_TORCH)" > $(LOWEST)/torch.txt
	$(LOWEST)/bin/uv pip install --python $(LOWEST)/bin/python --resolution lowest-direct --override $(LOWEST)/torch.txt \
		--editable ".[train,export,rtx,bench,dev]"
	@touch $@ $(LOWEST)/installed

test-lowest: $(LOWEST)/lowest
	$(MAKE) test VENV=$(LOWEST)

# All tests but those of the docs and of the installation, with line coverage, child processes included; has a lower limit.
coverage: $(VENV)/installed $(WITNESSES)
	$(PYTEST) -m "not install and not docs" --cov --cov-report term:skip-covered

# The CPU build of torch, about 200 MB instead of several GB of CUDA libraries; run it first on a machine without a GPU.
torch-cpu:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --index-url https://download.pytorch.org/whl/cpu torch

# The commands and the Python of README.md and docs/, on small data.
test-docs: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m docs tests/test_docs.py

# A plain installation in a fresh environment, and the commands of README.md in it.
test-install: $(VENV)/installed
	$(BIN)/pytest -m install

# A short run of every benchmark; fails if a speedup over princeton in this run is below its limit.
bench-quick: $(VENV)/installed
	$(BIN)/python bench/run_all.py --quick --check

lint: $(VENV)/installed $(WITNESSES)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# For a workstation or a vendor container with a GPU: installs missing packages into an environment that inherits those of
# GPU_PYTHON, runs everything that needs a GPU, and writes bench/results/. GPU_CHECK contains flags of bench/gpu_check.py.
gpu-check:
	$(GPU_PYTHON) bench/gpu_install.py --into $(GPU_VENV)
	$(GPU_VENV)/bin/python bench/gpu_check.py $(GPU_CHECK)

# For a machine that has a GPU but no network: downloads what it lacks into exp/gpu-kit, in pieces, and prints the calls to make.
# GPU_KIT contains flags of bench/gpu_kit.py.
gpu-kit: $(VENV)/installed
	$(BIN)/python bench/gpu_kit.py $(GPU_KIT)

clean:
	rm -rf $(VENV) $(GPU_VENV) $(LOWEST) $(DEMO_DATA) exp/demo
