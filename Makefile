# Every target creates the virtual environment first if it is missing or older than pyproject.toml or constraints.txt.
# Works with GNU make 3.81 (macOS) and later.

# The first supported Python of these; stubs that do not start are skipped.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)
VENV ?= .venv
# Additional arguments for the installation of torch, for example to choose another build (see constraints.txt).
TORCH_ARGS ?=

# Settings of `make paper`: scale, seeds per cell, budget (empty for the scale's default), and additional Hydra overrides.
SCALE ?= s32
SEEDS ?= 2
TOKENS_PER_PARAMETER ?=
ARGS ?=
# Folder of the runs; number of test processes ("auto": one per core, "0": only pytest's own), and additional pytest arguments.
RUNS ?= runs
JOBS ?= auto
PYTEST_ARGS ?=
# Benchmarks to run, such as "training memory.M"; all by default.
BENCH ?=

BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
RUN = $(BIN)/python -m tinylm_ablate
# Files for the glossary check: all except the lab notebook, whose notes are not edited, and methods named `tell`.
PROSE = tinylm_ablate hydra_plugins conf experiments benchmarks examples docs README.md SECURITY.md tests
OVERRIDES = runs_dir=$(RUNS) $(ARGS)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-gpu lint report reference ui bench paper docs site clean clean-runs clean-venv

help: ## list every target (the default)
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo "Variables: PYTHON VENV TORCH_ARGS RUNS ARGS JOBS PYTEST_ARGS; for paper: SCALE=$(SCALE) SEEDS=$(SEEDS) TOKENS_PER_PARAMETER=$(TOKENS_PER_PARAMETER)"

setup: $(STAMP) ## create the virtual environment and install the pinned dependencies

# torch is installed first and alone, so that everything else is resolved with the chosen build.
$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11, 3.12 or 3.13; install one, or set make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { echo "$(PYTHON) -m venv $(VENV)"; $(PYTHON) -m venv --clear "$(VENV)"; }
	$(BIN)/python -m pip install -c constraints.txt $(TORCH_ARGS) "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip check
	@touch "$(STAMP)"

demo: setup ## train a small real grid on real text and print its table (about 6 minutes on 2 cores)
	$(RUN) -m +experiments=demo $(OVERRIDES)
	$(RUN).report --runs-dir $(RUNS)

# Processes that tests start read the code that the first one compiled, also where the environment forbids writing it.
test test-gpu: export PYTHONDONTWRITEBYTECODE =

test: setup ## run the tests
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

test-gpu: setup ## run the tests that need a GPU, then all others; fails where there is no GPU
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' || { echo "make test-gpu: PyTorch finds no GPU here" >&2; exit 1; }
	$(BIN)/python -m pytest -m gpu -n 0 $(PYTEST_ARGS)
	$(BIN)/python -m pytest -m 'not gpu' -n $(JOBS) --dist worksteal $(PYTEST_ARGS)

lint: setup ## check style, formatting, spelling, wording, types and import layers
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m codespell_lib
	@! grep -rnwIE --exclude=LAB.md -f .house-style $(PROSE) | grep -v 'tell(' || { echo "make lint: see the glossary in CONTRIBUTING.md" >&2; exit 1; }
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

report: setup ## write the report on the runs to results/, and regenerate the reference's pages
	$(RUN).report --runs-dir $(RUNS)

reference: setup ## add the finished runs in RUNS to results/reference in the repository
	$(RUN).report --runs-dir $(RUNS) --add

ui: setup ## serve the MLflow page of the runs on this machine
	$(RUN).tracking.ui --runs-dir $(RUNS)

# litgpt requires an older huggingface-hub than transformers, and the measured parts need neither.
bench: setup ## measure speed and memory against peers (about an hour on an otherwise idle machine): BENCH
	@test -d benchmarks || { echo "make bench: this checkout has no benchmarks/; nothing was measured" >&2; exit 1; }
	$(BIN)/python -m pip install --no-deps litgpt==0.5.13
	$(BIN)/python -m benchmarks $(BENCH)

# One grid of all experiments, which trains shared runs once. It prints the plan first, then starts; Ctrl-C ends it, and the same
# command resumes it. Figure 2 needs no training. A failed experiment does not affect the others, and the report includes
# everything that is finished.
PAPER = scale=$(SCALE) grid.workers=auto $(if $(TOKENS_PER_PARAMETER),train.tokens_per_parameter=$(TOKENS_PER_PARAMETER)) $(OVERRIDES)
paper: setup ## run every experiment of the paper after printing the plan: SCALE, SEEDS, TOKENS_PER_PARAMETER
	$(RUN) -m +experiments=paper seeds=$(SEEDS) $(PAPER) mode=plan
	$(RUN) +experiments=figure02_coverage $(PAPER)
	@status=0; $(RUN) -m +experiments=paper seeds=$(SEEDS) $(PAPER) || status=$$?; \
	test $$status -lt 128 || exit $$status; \
	$(RUN).report --runs-dir $(RUNS) || exit $$?; \
	test $$status = 0 || { echo "make paper: some runs failed; the same command does what is missing" >&2; exit $$status; }

site: setup ## build the documentation in site/
	$(BIN)/python -m mkdocs build --strict

docs: setup ## generate docs/config.md from the schema and conf/
	$(RUN).reference > docs/config.md.new && mv docs/config.md.new docs/config.md

clean: ## remove build products and caches; keep runs/ and the virtual environment
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	find . \( -name .git -o -path "./$(VENV)" -o -path "./$(RUNS)" \) -prune -o -type d -name __pycache__ -exec rm -rf {} +

clean-runs: ## remove every run, its MLflow record and the cached text, which cannot be undone
	rm -rf "$(RUNS)"

clean-venv: ## remove the virtual environment
	rm -rf "$(VENV)"
