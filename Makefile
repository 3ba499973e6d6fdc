# Every target makes its environment first; the second call finds it made. `make help` lists them.
#   make test PYTHON=python3.12                      another interpreter (it is asked only when .venv is made)
#   make demo PIP_FLAGS='--extra-index-url URL'      anything `pip install` takes, such as another package index
#   make test ARGS='-k tiling'                       more arguments for the command behind a target
#   make test ARGS='-n0 -x'                          one test after another in one process

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
ARGS ?=
SEED ?= 7
MINUTES ?= 5
FILES ?= 20000
#: What `make constraints` pins by hand: a range would take the newest build, with several GB of CUDA packages.
TORCH ?= 2.13.0

#: A process for each core, at most four: each starts servers of its own. Files that take longest come first.
PARALLEL := -n logical --maxprocesses=4 --no-loadscope-reorder

BIN := $(VENV)/bin
STAMP := $(VENV)/.made

export PIP_FLAGS
.DEFAULT_GOAL := help
.PHONY: help env demo test chaos mutants fuzz load lint audit bench bench-batch bench-growth bench-accept bench-answer bench-tiles bench-engine parity bench-peers bench-gateway bench-bodies bench-queue bench-store bench-idle evaluate constraints clean

help:  ## this list
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 22

demo: $(STAMP)  ## the whole service on this machine, asked about its bundled images, then stopped
	@$(BIN)/tileq demo $(ARGS)

test: $(STAMP)  ## every test, against real servers
	@$(BIN)/python -m pytest $(PARALLEL) tests/acceptance tests/integration tests/unit $(ARGS)

chaos: $(STAMP)  ## faults for MINUTES after a schedule drawn from SEED; the last line is the verdict
	@$(BIN)/python -m tests.chaos --minutes $(MINUTES) --seed $(SEED) $(ARGS)

fuzz: $(STAMP)  ## FILES damaged images, drawn from SEED, against intake's header check and the decoder processes
	@$(BIN)/python -m tests.fuzz --files $(FILES) --seed $(SEED) $(ARGS)

mutants: $(STAMP)  ## bugs put in by hand, each of which the tests must notice
	@$(BIN)/python -m tests.chaos.mutants $(ARGS)

lint: $(STAMP)  ## style, types, import rules, the Dockerfile
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/hadolint infra/docker/Dockerfile
	@$(BIN)/mypy

audit: $(STAMP)  ## known bugs of pinned packages, risky calls, the workflow files; ARGS=--strict fails without a network
	@$(BIN)/bandit --quiet -ll --recursive services workers shared infra
	@$(BIN)/zizmor --quiet --offline .github
	@$(BIN)/pip-audit --no-deps --disable-pip --progress-spinner off --requirement constraints.txt $(ARGS)

bench-accept: $(STAMP)  ## cost of accepting a job, against the same work done by hand
	@$(BIN)/python -m tests.bench.accept $(ARGS)

bench-answer: $(STAMP)  ## time of a question about 13 tiles on a CPU, demo model, whole service
	@$(BIN)/python -m tests.bench.answer $(ARGS)

bench-queue: $(STAMP)  ## accept, claim, read, memory and restart of the store at 10 to 1,000,000 queued jobs, 4 minutes; ARGS=--sizes
	@$(BIN)/python -m tests.bench.queue $(ARGS)

bench-store: $(STAMP)  ## jobs a second that one job store carries, by the number of clients at once
	@$(BIN)/python -m tests.bench.store $(ARGS)

bench-idle: $(STAMP)  ## memory and processor of each process of `tileq up` while nothing happens, with and without a model
	@$(BIN)/python -m tests.bench.idle $(ARGS)

bench-tiles: $(STAMP)  ## bytes of an image to tiles, beside the model card's code, and how long a device waits for tiles
	@$(BIN)/python -m tests.bench.tiles $(ARGS)

bench-engine: $(STAMP)  ## vision, prefill, decoding, many jobs, second rounds in Mini's shapes; PEERS=1: beside vLLM, llama.cpp, OpenVINO
	@$(BIN)/python -m tests.bench.engine $(if $(PEERS),--peers) $(ARGS)

load: $(STAMP)  ## 100 small jobs a second for 5 minutes, from submission to webhook, and what each process weighs
	@$(BIN)/python -m tests.bench.load $(ARGS)

bench-batch: $(STAMP)  ## lines of a batch's file validated, queued and written a second, and the memory that takes; ARGS=--sizes
	@$(BIN)/python -m tests.bench.batch $(ARGS)

bench-peers: $(STAMP) build/peers-env/.made  ## tileq beside Celery + FastAPI and taskiq + FastAPI: a job's cost, and what kills leave
	@$(BIN)/python -m tests.bench.peers $(ARGS)

bench-bodies: $(STAMP)  ## how long a health check takes while 8 clients post 60 MB of JSON data URIs each
	@$(BIN)/python -m tests.bench.bodies $(ARGS)

bench-gateway: $(STAMP) build/gateway-env/.made  ## LiteLLM's proxy in front of the service: the same answers, and what it adds to a call
	@$(BIN)/python -m tests.bench.gateway $(ARGS)

build/%-env/.made: tests/bench/%/requirements.txt
	@$(PYTHON) -m venv --clear build/$*-env
	@build/$*-env/bin/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -r $<
	@touch $@

bench-growth: $(STAMP)  ## step time by running jobs, memory by tiles, throughput by queue length, drawn in build/growth.png
	@$(BIN)/python -m tests.bench.growth $(ARGS)

bench: $(STAMP)  ## every benchmark in its short mode (ONLY='tiles host': some; RESUME=1: those left), one table of figures and goals
	@$(BIN)/python -m tests.bench $(if $(ONLY),--only $(ONLY)) $(if $(RESUME),--resume) $(ARGS)

parity: $(STAMP)  ## the cases of $TILEQ_PARITY (default ../shared/parity): prompts, tiles, logits and answers
	@$(BIN)/python -m pytest -m parity tests $(ARGS)

evaluate: $(STAMP)  ## ask the demo model questions drawn from SEED and count right answers
	@$(BIN)/python -m infra.demo_model.evaluate --seed $(SEED) $(ARGS)

env: $(STAMP)  ## the environment alone

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "tileq: no $(PYTHON) here; name one: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "tileq needs Python 3.11 or newer, which $(PYTHON) is not; name another: make PYTHON=python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "tileq: making $(VENV)" && \
	  $(PYTHON) -m venv --clear $(VENV); } || { rm -rf $(VENV); \
	  echo "tileq: $(PYTHON) can't make environments; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@echo "tileq: installing into $(VENV) from constraints.txt, a few minutes the first time"
	@PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install -qq --disable-pip-version-check $(PIP_FLAGS) -e '.[dev]' || { \
	  echo "tileq: pip could not install; another package index: make PIP_FLAGS='--index-url URL'" >&2; exit 1; }
	@touch $@

constraints:  ## pin anew: the newest of everything that pyproject.toml allows, from a fresh environment
	@rm -rf build/pins && $(PYTHON) -m venv build/pins
	@build/pins/bin/python -m pip install -q $(PIP_FLAGS) torch==$(TORCH) -e '.[dev]'
	@{ echo "# Made by \`make constraints\`: everything of \`.[dev]\` as tested, torch as its CPU build."; \
	   echo "# What the CUDA build of torch brings besides is pinned by torch itself."; \
	   build/pins/bin/python -m pip freeze --exclude-editable | grep -viE "^(nvidia-|cuda-)" | sed 's/+cpu$$//'; } > build/pins/constraints.txt
	@mv build/pins/constraints.txt constraints.txt && rm -rf build/pins && wc -l constraints.txt

clean:  ## remove the environment, builds and caches
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find services workers shared tests infra -name __pycache__ -prune -exec rm -rf {} +
