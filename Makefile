# `make demo`, `make annotate`, `make test` and `make lint` set up all that they need.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SCREEN := -s "-screen 0 1600x1200x24"
XVFB := xvfb-run -a $(SCREEN)
# Of those that start at the same time, each looks for a free number elsewhere.
XVFB_QT6 := xvfb-run -a -n 200 $(SCREEN)
# One thread a process: two test processes with two threads each would spin against each other.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 NAPARI_ASYNC=0

.PHONY: demo annotate test test-engine test-plugin test-plugin-qt6 test-system lint format system-libraries clean

demo: $(STAMP)
	$(BIN)/e2sam demo --out e2sam-demo
	@if [ -n "$$DISPLAY$$WAYLAND_DISPLAY" ]; then echo "A display is present: 'make annotate' opens the window on the sample."; fi

annotate: $(STAMP) system-libraries
	$(BIN)/e2sam annotate

# Both Qts at once, each on a screen of its own.
test: test-engine test-system
	$(MAKE) --jobs=2 --output-sync=target test-plugin test-plugin-qt6

test-engine: $(STAMP)
	$(TEST_ENV) $(BIN)/python -m pytest tests/engine e2sam --doctest-modules -n 2 --dist loadfile -q

test-system: $(STAMP) system-libraries
	$(TEST_ENV) $(XVFB) $(BIN)/python -m pytest tests/system -q

test-plugin: $(STAMP) system-libraries
	$(TEST_ENV) QT_API=pyqt5 PYTEST_QT_API=pyqt5 $(XVFB) $(BIN)/python -m pytest tests/plugin -q

test-plugin-qt6: $(STAMP) system-libraries
	$(TEST_ENV) QT_API=pyqt6 PYTEST_QT_API=pyqt6 $(XVFB_QT6) $(BIN)/python -m pytest tests/plugin -q

lint: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

system-libraries:
	@.ci/system-libraries

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Expected Python 3.11 or newer, got " + sys.version.split()[0]) if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[pyqt5,pyqt6,dev]'
	touch $(STAMP)

clean:
	rm -rf $(VENV) build dist e2sam-demo *.egg-info .mypy_cache .pytest_cache .ruff_cache
