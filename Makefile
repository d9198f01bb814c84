# make demo    swap the face of one portrait into another: demo.png
# make test    the tests
# make check   format, lint, types
# make wheel   build the wheel, install it without extras, import every module
# Each makes .venv where it is missing or older than the versions it should hold.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
VERSIONS := pyproject.toml constraints.txt
INSTALL := $(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt
WHEEL_VENV := build/wheel-venv
IMPORT_ALL := import importlib, pkgutil, faceshifter; \
	[importlib.import_module(m.name) \
	for m in pkgutil.walk_packages(faceshifter.__path__, "faceshifter.")]

.PHONY: demo test check format wheel
.NOTPARALLEL:

demo: $(VENV)/.demo
	$(BIN)/faceshifter demo --out demo.png

test: $(VENV)/.dev
	$(BIN)/python -m pytest

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

wheel:
	rm -rf build
	$(PYTHON) -m venv $(WHEEL_VENV)
	$(WHEEL_VENV)/bin/python -m pip wheel --no-deps --wheel-dir $(WHEEL_VENV)/dist .
	$(WHEEL_VENV)/bin/python -m pip install -c constraints.txt $(WHEEL_VENV)/dist/*.whl
	$(WHEEL_VENV)/bin/python -c '$(IMPORT_ALL)'

$(VENV)/.demo: $(VERSIONS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[demo]'
	touch $@

# Tools for development include the demo, which then needs no installation of its own. MediaPipe
# brings an OpenCV that needs display libraries; the headless one is put over it.
$(VENV)/.dev: $(VERSIONS)
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) -e '.[dev]'
	$(INSTALL) --no-deps --force-reinstall opencv-python-headless
	touch $@ $(VENV)/.demo
