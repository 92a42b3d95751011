PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
FOLDERS := dialects transforms frontends backends tools

.DEFAULT_GOAL := help
.PHONY: help demo test test-browser test-all lint types lit bench bench-accuracy bench-cpu bench-hardware clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' Makefile

demo: $(VENV)/onnx.stamp ## install qvit with its ONNX reader and run the demo
	$(BIN)/python examples/demo.py

# pytest last, so that its summary ends the output.
test: lint types lit ## run all checks and all tests but the slow ones and those in a browser
	$(BIN)/pytest -n 2 --dist loadgroup

test-browser: $(VENV)/test.stamp ## the tests that look at the HTML page, in Chromium (apt-get install chromium)
	$(BIN)/pytest -n 2 --dist loadgroup -m browser

# The slow tests fetch the real ViT-S, as make bench does, and hand what is lowered to other compilers.
test-all: test test-browser $(VENV)/bench.stamp $(VENV)/lowering.stamp .venv-exporters/stamp ## make test and test-browser, then the slow tests, with large downloads
	$(BIN)/pytest -n 2 --dist loadgroup -m slow

lint: $(VENV)/test.stamp ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# pyright resolves imports by folder names, and the folder dialects/ is imported as qvit.dialects: check links of those names.
types: $(VENV)/test.stamp ## pyright in strict mode on the packages
	@mkdir -p build/typecheck/qvit
	@$(foreach folder,$(FOLDERS),ln -sfn ../../../$(folder) build/typecheck/qvit/$(folder);)
	$(BIN)/pyright --pythonpath $(BIN)/python

lit: $(VENV)/test.stamp ## the tests written as .mlir files
	$(BIN)/lit --succinct --verbose test

bench: $(VENV)/bench.stamp ## measure on the real ViT-S: fetches it (190 MB) and quantizes it, about 5 minutes the first time
	$(BIN)/python bench/models.py
	$(BIN)/python bench/delay_dequant.py
	$(BIN)/python bench/versus_onnxruntime.py
	$(BIN)/python bench/compile_time.py
	$(BIN)/python bench/programs.py

bench-accuracy: $(VENV)/bench.stamp ## accuracy of all schemes on three ViTs beside float, ONNX Runtime and NNCF: fetches data (250 MB), about 15 minutes
	$(BIN)/python bench/accuracy.py

bench-cpu: $(VENV)/bench.stamp ## time the C backend beside OpenVINO and ONNX Runtime, which it fetches, about 5 minutes
	$(BIN)/python bench/cpu.py
	$(BIN)/python bench/cpu.py --start

bench-hardware: $(VENV)/bench.stamp ## cycles and energy of the systolic machine, beside what two papers claim, about 3 minutes
	$(BIN)/python bench/hardware.py lin-shah
	$(BIN)/python bench/hardware.py p2-vit
	$(BIN)/python bench/hardware.py utilisation

clean: ## remove all that was made here, .venv too
	rm -rf $(VENV) .venv-exporters build dist *.egg-info .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +

# torch first and alone: what needs it then takes it as it is.
EXPORTERS := test/data/exports/requirements
.venv-exporters/stamp: $(EXPORTERS).txt $(EXPORTERS)-no-deps.txt
	@test -x .venv-exporters/bin/pip || $(PYTHON) -m venv .venv-exporters
	@echo 'installing the exporters into .venv-exporters'
	@.venv-exporters/bin/pip install -qq --disable-pip-version-check $$(grep -o '^torch==[^ ]*' $<)
	@.venv-exporters/bin/pip install -qq --disable-pip-version-check -r $<
	@.venv-exporters/bin/pip install -qq --disable-pip-version-check --no-deps -r $(EXPORTERS)-no-deps.txt
	@touch $@

# One stamp per extra: a second run installs nothing unless the requirements changed.
$(VENV)/%.stamp: pyproject.toml setup.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qvit needs Python 3.11: make PYTHON=python3.11 ...")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo 'installing qvit[$*] into $(VENV)'
	@$(BIN)/pip install -qq --disable-pip-version-check --editable '.[$*]'
	@touch $@
