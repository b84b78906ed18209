# Every target sets itself up: `make test` on a fresh checkout needs Python 3.11 or 3.12 and make.
VENV ?= .venv
# Test processes, one more than two cores, since some wait; each may import Raster Vision and torch,
# some 1.5 GB.
JOBS ?= 3
# The same on a cluster, where they mostly wait for pods.
CLUSTER_JOBS ?= 6
BIN := $(VENV)/bin
export VENV PYTHON
export NO_ALBUMENTATIONS_UPDATE = 1

.PHONY: help setup test test-all test-client test-gpu lint format docs manifests lock demo clean
help: ## what there is to make
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(VENV)/.ready ## the virtual environment with the locked dependencies
$(VENV)/.ready: requirements.lock pyproject.toml scripts/setup
	scripts/setup

test: setup ## the quick tests, in four minutes on two cores
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow" $(PYTEST)

test-all: setup ## all tests that need no cluster
	$(BIN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST)

test-client: setup ## those of the client and its chart, which need no torch, in one minute
	$(BIN)/python -m pytest -q -n 2 -m "not slow" tests/unit tests/chart --ignore tests/unit/core $(PYTEST)

test-gpu: setup ## the tests that need a GPU; others skip them and say so
	$(BIN)/python -m pytest -q tests/gpu $(PYTEST)

# A cluster that `make cluster-up` started is used and left running. Its first start builds programs
# and images for longer than one test may take.
# PYTEST adds options, such as PYTEST="-k cancel".
test-cluster: setup ## the tests on a cluster; Go, and root, RVK8S_TEST_KUBECONFIG, or Docker and kind
	$(BIN)/python -m pytest -q -n $(CLUSTER_JOBS) --dist loadfile --no-loadscope-reorder \
		-o timeout_func_only=true tests/cluster $(PYTEST)

test-cluster-smoke: setup ## its shortest part: the API server's tests, and six things on the node
	$(BIN)/python -m pytest -q -n $(CLUSTER_JOBS) --dist loadfile --no-loadscope-reorder \
		-o timeout_func_only=true -m smoke tests/cluster $(PYTEST)

cluster-up: setup ## start the test cluster (again: with today's images) and say how to use it
	PYTHONPATH=tests $(BIN)/python -m cluster up

cluster-down: setup ## end it
	PYTHONPATH=tests $(BIN)/python -m cluster down

lint: setup ## style, types, layers, lengths
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/check_file_length.py

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: setup ## train, predict and score a model in ten minutes on two cores
	$(BIN)/python examples/demo.py

manifests: setup ## write manifests/, the charts' README.md and golden files anew from helm/
	$(BIN)/python scripts/chart_readme.py
	$(BIN)/python scripts/manifests.py
	$(BIN)/python tests/chart/cases.py

docs: setup ## write docs/guide/options.md and rvk8s-yaml.md anew from what they describe
	$(BIN)/python scripts/options_page.py
	$(BIN)/python scripts/project_page.py

lock: setup ## resolve the dependencies anew into requirements.lock
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-header --no-annotate \
		--extra stage --extra dev pyproject.toml -o requirements.lock
	scripts/lock_images

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache
