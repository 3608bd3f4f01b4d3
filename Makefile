# Needs Python 3.10 or newer and make; everything else is installed into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV   ?= .venv
BIN    := $(VENV)/bin
export TF_CPP_MIN_LOG_LEVEL ?= 2
# Two processes. The tests of a file stay in one, with their fixtures and what JAX has compiled. The
# notebooks come first (conftest.py), and small doctests last, so that both end at the same time.
TESTS  := tests keras_swapout
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

.PHONY: pilot test test-slow lint benchmark notebooks clean

pilot: $(VENV)/pilot.installed
	$(BIN)/keras-swapout pilot --out pilot-digits

test: $(VENV)/test.installed lint
	KERAS_BACKEND=tensorflow $(PYTEST)
	KERAS_BACKEND=jax $(PYTEST)

# Whole networks of keras.applications through the pilot.
test-slow: $(VENV)/test.installed
	KERAS_BACKEND=tensorflow $(PYTEST) -m slow

lint: $(VENV)/test.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

notebooks: $(VENV)/notebooks.installed
	$(BIN)/python notebooks/execute.py

benchmark: $(VENV)/test.installed
	$(BIN)/keras-swapout benchmark

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip

$(VENV)/%.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
