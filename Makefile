# One command for each thing a person wants. Every target sets up what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/tandemtune

DATA ?= images

.PHONY: help setup quickstart quickstart-maao quickstart-images test test-slow lint bench docs docs-serve clean

help:
	@echo "make quickstart  tune a real model on real movie reviews (set-up, then a minute or two)"
	@echo "make quickstart-maao  the same model and a small local mentor in turns (set-up, then about 5 minutes)"
	@echo "make quickstart-images DATA=folder  a prompt for your images, in a folder for each class (set-up, then about 5 minutes)"
	@echo "make test        lint, types and tests, two at a time"
	@echo "make test-slow   the tests that take longer"
	@echo "make docs        the documentation as a site in build/site, all links checked; make docs-serve shows it"
	@echo "make bench       timings and memory of the evaluation engine, as ratios (about 5 minutes)"

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf,onnx,parquet,hub,peft,images,baselines,generation,mentor,local-mentor,dev]'
	@touch $@

quickstart: setup
	$(RUN) run quickstart --out runs/quickstart --overwrite
	$(RUN) show runs/quickstart

quickstart-maao: setup
	$(RUN) run quickstart-maao --out runs/quickstart-maao --overwrite
	$(RUN) show runs/quickstart-maao

quickstart-images: setup
	$(RUN) run quickstart-images task.train="$(DATA)" --out runs/quickstart-images --overwrite
	$(RUN) show runs/quickstart-images

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --no-loadscope-reorder

test-slow: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "torchao" "bitsandbytes" "ray"
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest -m "not slow" tests/executors/test_ray.py

lint: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup
	$(BIN)/python benchmarks/engine.py pypi:smollm2-135m-instruct --memory

docs: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python -m pytest tests/test_docs.py -k links
	@echo "links that lead elsewhere (not followed):"
	@$(BIN)/python docs/links.py

docs-serve: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs serve

clean:
	rm -rf $(VENV) build dist
