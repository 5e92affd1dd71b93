# make demo       see it rerank real lists          make test       every check that needs no GPU
# make test-slow  the slow tests                    make lint       formatting, types, layers only
# make test-examples  the examples that fit on ml-100k
# make test-adapters  the adapters in .venv-adapters: RecTools and LlamaIndex need other packages than vLLM does
# make test-clients   Cohere's and LiteLLM's clients and schemathesis against the endpoint, in .venv-clients
# make test-tracking  runs in a real MLflow store, in .venv-tracking
# make docs           the site, strictly, in out/site   make notebooks  runs the tutorials
# On a machine with CUDA: EXTRA=gpu make demo. Without vLLM: EXTRA=torch make demo.

EXTRA ?= cpu
PYTHON ?= python3
TORCH := 2.13.0
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
STAMP := .venv/.stamp-$(EXTRA)

# implicit asks for it: OpenBLAS threads inside its own threads make ALS slower.
export OPENBLAS_NUM_THREADS := 1

.PHONY: demo docs notebooks test test-slow test-examples test-adapters test-clients test-tracking lint clean
.DELETE_ON_ERROR:

demo: $(STAMP)
	$(BIN)/reranker demo

docs: $(STAMP) .venv/.stamp-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: $(STAMP) .venv/.stamp-docs
	$(BIN)/pytest -q -W default --nbmake --nbmake-timeout=900 docs/tutorials

# Two workers on two cores: a second thread of PyTorch in each waits for the first, and takes a core to wait.
test test-slow: export OMP_NUM_THREADS := 1

test: lint
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "not slow and not gpu"

test-slow: $(STAMP)
	@$(PIP) install -qq -e ".[ray,browser]"
	$(BIN)/pytest -q -m "slow and not gpu"

test-examples: $(STAMP)
	$(BIN)/pytest -q -m slow tests/test_examples.py

test-adapters:
	@test -x .venv-adapters/bin/python || $(PYTHON) -m venv .venv-adapters
	@# RecTools wants numpy 1; newer pyarrow does not import beside it and does not say so to pip.
	@.venv-adapters/bin/python -m pip install -qq "RecTools>=0.19,<0.20" "pyarrow<25" -e ".[openai,langchain,llama-index,rerankers]" \
	  pytest pytest-timeout hypothesis
	.venv-adapters/bin/python -m pytest -q tests/adapters "tests/test_examples.py::test_it_runs[rectools_two_stages]"

test-clients:
	@test -x .venv-clients/bin/python || $(PYTHON) -m venv .venv-clients
	@.venv-clients/bin/python -m pip install -qq "torch==$(TORCH)+cpu" 2>/dev/null || \
	  .venv-clients/bin/python -m pip install -qq "torch==$(TORCH)" --extra-index-url https://download.pytorch.org/whl/cpu
	@.venv-clients/bin/python -m pip install -qq -e ".[torch,serve,openai,otel]" "cohere>=7.3,<8" "litellm>=1.106,<2" \
	  "schemathesis>=4.32,<5" pytest pytest-timeout hypothesis
	.venv-clients/bin/python -m pytest -q tests/serve

test-tracking:
	@test -x .venv-tracking/bin/python || $(PYTHON) -m venv .venv-tracking
	@# MLflow wants older packages than vLLM's; SQLAlchemy and alembic are for its store in a file.
	@.venv-tracking/bin/python -m pip install -qq -e ".[tracking,eval]" "implicit>=0.7.2,<0.8" "sqlalchemy>=2,<3" "alembic>=1.13,<2" sqlparse \
	  pytest pytest-timeout hypothesis
	.venv-tracking/bin/python -m pytest -q -W default tests/tracking

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

clean:
	rm -rf .venv .venv-adapters .venv-clients .venv-tracking build dist out *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' || \
	  { echo "This needs Python 3.11, 3.12 or 3.13; '$(PYTHON)' is $$($(PYTHON) --version 2>&1). Try: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@test -x $(BIN)/python || { echo "[1/4] creating .venv"; $(PYTHON) -m venv .venv; }
	@$(PIP) install -qq --upgrade pip
ifneq ($(EXTRA),gpu)
	@echo "[2/4] installing PyTorch $(TORCH) for the CPU"
	@$(PIP) install -qq "torch==$(TORCH)+cpu" 2>/dev/null || \
	  $(PIP) install -qq "torch==$(TORCH)" --extra-index-url https://download.pytorch.org/whl/cpu
endif
	@echo "[3/4] installing reranker[$(EXTRA),eval,dev,...] (several GB; two to ten minutes)"
	@$(PIP) install -qq -e ".[$(EXTRA),eval,explain,train,serve,otel,openai,redis,langchain,rerankers,dev]"
ifneq ($(EXTRA),gpu)
	@echo "[4/4] removing torchvision, torchaudio, torchcodec: CUDA builds that break a CPU PyTorch, needed by nothing here"
	@$(PIP) uninstall -qq -y torchvision torchaudio torchcodec
endif
	@touch $@

.venv/.stamp-docs: pyproject.toml | $(STAMP)
	@$(PIP) install -qq -e ".[docs]"
	@touch $@
