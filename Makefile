# Each target works alone on a fresh machine: `setup` makes .venv first, and is instant when nothing changed.
.PHONY: setup setup-test quickstart test test-domains test-vllm lint types chaos ci clean
.DEFAULT_GOAL := help

BIN := .venv/bin
ARGS ?=

.PHONY: help
help:
	@echo "make quickstart   learn a world, train inside it, measure in the real one (ARGS='--seed 1', '--smoke', ...)"
	@echo "make test         the fast tests, sandbox included"
	@echo "make test-domains the live tests of domains that \`agentworld setup NAME\` has set up; minutes"
	@echo "make test-vllm    the vLLM client against a real server (docs/samplers.md)"
	@echo "make lint types   what the gate asks of the code"
	@echo "make ci           everything the gate runs"

setup:
	@sh scripts/setup.sh

quickstart: setup
	@$(BIN)/agentworld quickstart $(ARGS)

setup-test:
	@sh scripts/setup.sh search

test: setup-test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not slow and not server" $(ARGS)

test-domains: setup-test
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m domain $(ARGS)

test-vllm:
	@if [ -z "$$AGENTWORLD_VLLM_URL" ] || [ -z "$$AGENTWORLD_VLLM_MODEL" ]; then \
	  echo "skipped: set AGENTWORLD_VLLM_URL and AGENTWORLD_VLLM_MODEL to a running vLLM server (docs/samplers.md)"; \
	else sh scripts/setup.sh && OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m vllm tests/test_vllm_contract.py $(ARGS); fi

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: setup
	@$(BIN)/mypy

chaos: setup
	@$(BIN)/python -m bench.chaos $(ARGS)

ci:
	@.ci/run

clean:
	rm -rf .venv runs .mypy_cache .pytest_cache .ruff_cache .hypothesis
