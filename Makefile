# `make` lists what there is. All of it lives in .venv, but for `make install` and the other clients of `make bench`; nothing
# but `make e2e` needs root.
PYTHON ?= python3
VENV ?= .venv
BENCH_VENV ?= .venv-bench
BIN := $(VENV)/bin
COMPOSE ?= docker compose
PIP := $(BIN)/python -m pip --disable-pip-version-check
MARKS ?= not e2e and not s3 and not slow
ROUNDS ?= 3
FILES ?= 10000
RESULTS ?= bench/RESULTS.md
DISK ?= /var/tmp
PREFIX ?= $(HOME)/.local
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes \
	--no-header --no-annotate --no-emit-index-url

.DEFAULT_GOAL := help
.PHONY: help run install test coverage check format lock dist image stack e2e bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

$(VENV)/.installed: requirements-dev.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --quiet --require-hashes --only-binary=:all: -r requirements-dev.lock
	$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	touch $@

$(BENCH_VENV)/.installed: requirements-bench.lock
	$(PYTHON) -m venv $(BENCH_VENV)
	$(BENCH_VENV)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes --only-binary=:all: \
		-r requirements-bench.lock
	touch $@

run: $(VENV)/.installed ## download twenty flags from the built-in origin into downloads/
	$(BIN)/flagjob

install: ## install the command for yourself, without developer tools: PREFIX=~/.local
	$(PYTHON) -m venv "$(PREFIX)/share/flagjob"
	"$(PREFIX)/share/flagjob/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes \
		--only-binary=:all: -r requirements.lock -r requirements-report.lock
	"$(PREFIX)/share/flagjob/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --force-reinstall .
	mkdir -p "$(PREFIX)/bin"
	ln -sfn ../share/flagjob/bin/flagjob "$(PREFIX)/bin/flagjob"

test: $(VENV)/.installed ## run all tests but the slow ones, in a minute or two
	$(BIN)/python -m pytest -n 4 -m "$(MARKS)" --hypothesis-profile=quick

coverage: $(VENV)/.installed ## run all but e2e, with a real S3 server; every branch of job/ must be taken
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 4 -m "not e2e" --hypothesis-seed=0
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

check: $(VENV)/.installed ## lint, check the format and the types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed ## put the code in form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(VENV)/.installed ## renew the lock files: names, versions and hashes
	$(COMPILE) --upgrade pyproject.toml --extra origin --extra objects -o requirements.lock
	echo 'jinja2>=3.1.6' | $(COMPILE) --upgrade - -c requirements.lock -o requirements-report.lock
	$(COMPILE) --upgrade pyproject.toml --all-extras --group dev -c requirements.lock -c requirements-report.lock -o requirements-dev.lock
	$(COMPILE) --upgrade requirements-e2e.in -c requirements-dev.lock -o requirements-e2e.lock
	$(COMPILE) --upgrade requirements-checkov.in -o requirements-checkov.lock
	$(COMPILE) --upgrade requirements-bench.in -c requirements.lock -o requirements-bench.lock

dist: $(VENV)/.installed ## build the wheel and the source distribution into dist/
	rm -rf dist
	$(BIN)/uv build --quiet --no-build-isolation --python $(BIN)/python --out-dir dist

image: ## build the container image, with docker or podman
	.ci/image.sh

stack: ## run it every minute, watched by Prometheus and Grafana (docker compose; Ctrl-C ends it)
	$(COMPOSE) --file stack/compose.yaml up --build

e2e: $(VENV)/.installed ## try the image, the manifests and real servers (installs what it needs; Debian, root)
	.ci/e2e.sh $(BIN)/python

# ROUNDS, FILES; ROWS="zero slow" for some rows only; BASE=revision to compare with; STAGE=name to keep the main ratios.
bench: $(VENV)/.installed $(BENCH_VENV)/.installed ## measure flagjob beside other clients: ROUNDS= FILES= ROWS= BASE= STAGE=
	$(BIN)/python -m bench --peers $(BENCH_VENV)/bin/python --rounds $(ROUNDS) --files $(FILES) --disk "$(DISK)" \
		--results "$(RESULTS)" --rows "$(ROWS)" --base "$(BASE)" --stage "$(STAGE)"

clean: ## remove what make made, but not downloads/
	rm -rf $(VENV) $(BENCH_VENV) dist .coverage* .mypy_cache .pytest_cache .ruff_cache .hypothesis
