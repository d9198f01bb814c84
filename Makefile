# make demo     swaps the face of one portrait into another: demo.jpg
# make test     runs the tests
# make fuzz     reads thousands of damaged files: make fuzz CALLS=10000 SEED=0
# make browser  runs the tests of the pages in Chromium
# make check    checks format, lint and types
# make docs     builds the documentation site: build/site
# make wheel    builds the wheel, installs it without extras, imports every module
# Each makes .venv where it is missing or older than the versions it should hold. PYTHON names an
# interpreter; else the newest one is taken that the project supports.

VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
VERSIONS := pyproject.toml constraints.txt
PIP := -m pip install --disable-pip-version-check -c constraints.txt
INSTALL := $(BIN)/python $(PIP)
CALLS := 2000
SEED := 0
WORKERS := 1
WHEEL_VENV := build/wheel-venv
WHEEL_BIN := $(WHEEL_VENV)/$(notdir $(BIN))
# Two modules are what their extras make of them; all others import without any.
IMPORT_ALL := import importlib, pkgutil, faceshifter; \
	extras = ["faceshifter.apps.serve.metrics", "faceshifter.apps.ui.page"]; \
	[importlib.import_module(m.name) \
	for m in pkgutil.walk_packages(faceshifter.__path__, "faceshifter.") if m.name not in extras]

# Makes the virtual environment $(1) with the newest interpreter of the supported ones that works.
SUPPORTED := import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))
make_venv = for python in $(or $(PYTHON),python3.14 python3.13 python3.12 python3.11 python3 python); do \
	if "$$python" -c '$(SUPPORTED)' 2>/dev/null; then exec "$$python" -m venv $(1); fi; done; \
	echo "No Python 3.11 to 3.14 with venv was found; install one (python.org, or apt install" \
	"python3 python3-venv), or name it: make PYTHON=/path/to/python" >&2; exit 1

# Installs PyTorch by the Python $(1): without CUDA, a tenth of the download, on Linux without an
# NVIDIA GPU; where that index cannot be reached, what pip finds.
CPU_INDEX := https://download.pytorch.org/whl/cpu
install_torch = if [ "$$(uname -s)" = Linux ] && ! command -v nvidia-smi >/dev/null; then \
	$(1) $(PIP) --no-deps --retries 0 --timeout 15 --index-url $(CPU_INDEX) torch && exit; fi; \
	$(1) $(PIP) --no-deps torch

.PHONY: demo test fuzz browser check format docs wheel
.NOTPARALLEL:

demo: $(VENV)/.demo
	$(BIN)/faceshifter demo --out demo.jpg

test: $(VENV)/.dev
	$(BIN)/python -m pytest

fuzz: $(VENV)/.dev
	PYTHONPATH=tests $(BIN)/python -m fuzz.run --calls $(CALLS) --seed $(SEED) --workers $(WORKERS)

browser: $(VENV)/.dev
	$(BIN)/python -m pytest -m browser

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.dev
	$(BIN)/mkdocs build --strict --site-dir build/site

wheel:
	rm -rf build
	@$(call make_venv,$(WHEEL_VENV))
	@$(call install_torch,$(WHEEL_BIN)/python)
	$(WHEEL_BIN)/python -m pip wheel --no-deps --wheel-dir $(WHEEL_VENV)/dist .
	$(WHEEL_BIN)/python $(PIP) $(WHEEL_VENV)/dist/*.whl
	$(WHEEL_BIN)/python -c '$(IMPORT_ALL)'

$(VENV)/.demo: $(VERSIONS)
	@$(call make_venv,$(VENV))
	@$(call install_torch,$(BIN)/python)
	$(INSTALL) -e .
	touch $@

# Tools for development include the demo, which then needs no installation of its own. MediaPipe
# brings an OpenCV that needs display libraries; the headless one is put over it.
$(VENV)/.dev: $(VERSIONS)
	@$(call make_venv,$(VENV))
	@$(call install_torch,$(BIN)/python)
	$(INSTALL) -e '.[dev]'
	$(INSTALL) --no-deps --force-reinstall opencv-python-headless
	touch $@ $(VENV)/.demo
