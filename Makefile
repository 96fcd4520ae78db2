# Everyday commands of a developer; `make` alone lists them. CI and the pre-commit hooks call the same targets.
UV ?= $(shell command -v uv >/dev/null && echo uv || echo python3 -m uv)
BENCH ?= predict

.DEFAULT_GOAL := help
.PHONY: help install format lint type test test-all test-nodes test-gpu coverage demo bench bench-gpu

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: ## create the environment with all development tools
	$(UV) sync

format: ## apply ruff's fixes and its format
	$(UV) run ruff check --fix
	$(UV) run ruff format

lint: ## check ruff's rules and its format, changing nothing
	$(UV) run ruff check
	$(UV) run ruff format --check

type: ## check types with mypy, strict
	$(UV) run mypy

test: ## run the ordinary tests, on one Ray session
	$(UV) run pytest --durations=10

test-all: test ## run the ordinary tests, then the long ones: whole jobs, killed processes
	$(UV) run pytest --durations=25 -m "(slow or fault) and not nodes"

test-nodes: ## run the tests on several Ray nodes, which wait for Ray's own time-outs
	$(UV) run pytest --durations=5 -m nodes

test-gpu: ## run the tests on a GPU: training, resuming, determinism, memory that is too small, prediction
	$(UV) run pytest --durations=0 -n 0 -m gpu

coverage: ## run all tests, and print which lines of the test's own process it reached
	$(UV) run pytest --cov --cov-report= --durations=10
	$(UV) run pytest --cov --cov-append --durations=25 -m "slow or fault or nodes"

demo: ## prepare, train, evaluate and predict on phantoms
	$(UV) run overlay demo

bench: ## run one benchmark: make bench BENCH=duplicates|feed|listing|memory|predict|prepare|queueing|starts|train
	$(UV) run python scripts/benchmarks/$(BENCH).py

bench-gpu: ## make the tables for a GPU: ours, the bare passes, DataLoader and timm, compiled or not
	for compile in "" --compile; do \
	  $(UV) run python scripts/benchmarks/train.py --size 128 224 --batch 128 --images 4000 --epochs 10 --steps 50 $$compile \
	  || exit 1; done
	$(UV) run --with timm python scripts/benchmarks/predict.py --images 20000 --batch 256 --engines torch:auto,compile:auto \
	  --few 10000 --rounds 1
	$(UV) run python scripts/benchmarks/device_decode.py
