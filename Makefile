# Two commands from a clone: `make demo` and `make test`. Both set up .venv first; nothing else is installed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test formal setup lint clean help

help:
	@echo "make demo    quantize, segment, check the RTL, build a bitstream; result in out/demo/"
	@echo "make test    lint, types and all tests"
	@echo "make formal  prove what docs/formal.md claims of the RTL (no simulation)"
	@echo "make setup   only the virtual environment .venv"
	@echo "make clean   remove build/ and out/"

setup: $(READY)

$(READY): requirements.lock assets.lock pyproject.toml
	@$(PYTHON) -c 'import sys, venv; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11 or lacks venv; install python3-venv or set PYTHON=" >&2; exit 1; }
	@for tool in g++ make perl; do command -v $$tool >/dev/null || \
		{ echo "error: $$tool is missing; install it (Debian/Ubuntu: build-essential perl)" >&2; exit 1; }; done
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r assets.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $(READY)

demo: $(READY)
	$(BIN)/python -m demo

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal sim tests

formal: $(READY)
	$(BIN)/python -m formal run

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

clean:
	rm -rf build out
