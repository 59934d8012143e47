# Two cores and no GPU are enough for every target but gpu-check. Everything is installed into .venv from constraints.txt.
## make demo             draw hands, train on them, show what was reached on others: exp/demo/report.html
## make test             the tests
## make test-docs        every command of README.md and docs/
## make test-robustness  hostile files, full disks, dead ranks, a long run
## make test-install     a plain installation in an environment of its own
## make coverage         the tests, and which lines they have run
## make lint             ruff and mypy
## make format           ruff
## make bench-quick      every benchmark, briefly, held to ratios to the seed's way
## make torch-cpu        before all else on a machine without a GPU: torch without several GB of CUDA
## make gpu-check        everything that needs a GPU, with the Python named by GPU_PYTHON
## make clean            remove environments and the demo
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WITNESSES := $(VENV)/witnesses/installed
GPU_PYTHON ?= python3
GPU_VENV := .venv-gpu
DEMO_HANDS := 4000
DEMO_DATA := data/drawn-hands-$(DEMO_HANDS)

.PHONY: help demo test test-docs test-robustness test-install coverage torch-cpu lint format bench-quick gpu-check clean

help:
	@sed -n 's/^## //p' $(firstword $(MAKEFILE_LIST))

$(VENV)/installed: setup.py constraints.txt
	@echo "== installing into $(VENV)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt torch
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --editable ".[train,export,rtx,bench,dev]"
	@touch $@

# What TensorRT and Torch-TensorRT take, for tests where neither runs: their bindings and sources, without NVIDIA's libraries.
$(WITNESSES): Makefile | $(VENV)/installed
	$(BIN)/pip install --disable-pip-version-check --no-deps --upgrade --target $(@D)/tensorrt10 tensorrt-cu12-bindings==10.13.3.9
	$(BIN)/pip install --disable-pip-version-check --no-deps --upgrade --target $(@D)/tensorrt11 tensorrt-cu13-bindings==11.4.0.106
	$(BIN)/pip install --disable-pip-version-check --no-deps --upgrade --target $(@D)/torch_tensorrt torch-tensorrt==2.13.0
	@touch $@

$(DEMO_DATA)/training_K.json: | $(VENV)/installed
	@echo "== drawing $(DEMO_HANDS) synthetic hands, four pictures each: two minutes or three"
	$(BIN)/python pipelines/synthetic.py freihand --out $(DEMO_DATA) --count $(DEMO_HANDS) --seed 0 --overwrite

# Draw hands, train on them, show what was reached on hands the network has not seen, and export it.
demo: $(VENV)/installed $(DEMO_DATA)/training_K.json
	@echo "== training"
	@$(BIN)/python bench/demo_expectation.py
	OMP_NUM_THREADS=1 $(BIN)/torchrun --standalone --nproc-per-node 2 hgfast/train.py --config configs/demo.yaml --data $(DEMO_DATA) --overwrite
	@echo "== evaluating on hands that were held out"
	@$(BIN)/python hgfast/evaluate.py exp/demo/best.pt --data $(DEMO_DATA) --split test --baselines \
		--json exp/demo/result.json --sheet exp/demo/predictions.jpg --worst exp/demo/worst.jpg
	@echo "== exporting"
	@$(BIN)/python export/to_onnx.py exp/demo/best.pt
	@$(BIN)/python hgfast/report.py exp/demo
	@$(BIN)/python bench/demo_expectation.py exp/demo
	@echo "network: exp/demo/best.pt, as ONNX exp/demo/best.fp32.onnx; everything on one page: exp/demo/report.html"
	@echo "on a picture of yours: $(BIN)/python hgfast/predict.py exp/demo/best.pt PICTURE --out predictions"

test: $(VENV)/installed $(WITNESSES)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not install and not docs" --ignore tests/robustness

# Broken and hostile files, random ones, full disks, dead ranks, a long run.
test-robustness: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile tests/robustness

# All of these tests, and which lines they have run, of child processes too: a table, and an error below what pyproject.toml asks for.
coverage: $(VENV)/installed $(WITNESSES)
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist loadfile -m "not install and not docs" --cov --cov-report term:skip-covered

# torch's CPU build, some 200 MB, in the place of several GB of CUDA libraries; for machines without a GPU, before all else.
torch-cpu:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --disable-pip-version-check --constraint constraints.txt --index-url https://download.pytorch.org/whl/cpu torch

# The commands and the Python of README.md and docs/, on small data.
test-docs: $(VENV)/installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -m docs tests/test_docs.py

# A plain installation in an environment of its own, and README's lines in it.
test-install: $(VENV)/installed
	$(BIN)/pytest -m install

# Every benchmark, briefly; fails where hgfast is not as many times as fast as the seed's way, in the same run, as it should be.
bench-quick: $(VENV)/installed
	$(BIN)/python bench/all.py --quick --check

lint: $(VENV)/installed $(WITNESSES)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/installed
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

# For a workstation or a vendor container with a GPU: adds what is missing to what GPU_PYTHON has, without changing that, runs
# everything that needs a GPU and writes bench/results/. GPU_CHECK holds flags of bench/gpu_check.py.
gpu-check:
	$(GPU_PYTHON) bench/gpu_install.py --into $(GPU_VENV)
	$(GPU_VENV)/bin/python bench/gpu_check.py $(GPU_CHECK)

clean:
	rm -rf $(VENV) $(GPU_VENV) $(DEMO_DATA) exp/demo
