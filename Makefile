# make up      start the whole system on this machine        make down    stop it; data stays in var/
# make test    everything that has to be green               make check   the part of it without a broker or a database
# make status  how it is                                     make faults  break it in every way, at full length (half an hour)
# make lock    compile requirements/*.in anew (needs uv)      make bench   measure it against raw limits and peers
# make mutants plant faults of one line; tests must find each
# Another Python: make PYTHON=python3.12 up

PYTHON ?= python3.11
VENV_PYTHON := .venv/bin/python
BOOTSTRAP = command -v "$(PYTHON)" >/dev/null || { echo "$(PYTHON) is not here: install it, or name another as in 'make PYTHON=python3.12 up'" >&2; exit 1; }; \
	"$(PYTHON)" deploy/local/bootstrap.py
COMPILE = uv pip compile --quiet --generate-hashes --universal --python-version 3.11 --no-emit-index-url --no-header

.PHONY: up down status doctor test check mutants faults bench lock
.DEFAULT_GOAL := up

up:
	@$(BOOTSTRAP) local
	@exec $(VENV_PYTHON) -m deploy.cli up

down status doctor:
	@$(BOOTSTRAP) local
	@exec $(VENV_PYTHON) -m deploy.cli $@

check:
	@$(BOOTSTRAP) dev
	$(VENV_PYTHON) -m ruff check
	$(VENV_PYTHON) -m ruff format --check
	$(VENV_PYTHON) -m mypy
	$(VENV_PYTHON) -c "from importlinter.cli import lint_imports_command; lint_imports_command()"
	$(VENV_PYTHON) -m deploy.sbom

test: check
	$(VENV_PYTHON) -m pytest --cov --cov-report=term

mutants:
	@$(BOOTSTRAP) dev
	$(VENV_PYTHON) -m tests.mutants

faults:
	@$(BOOTSTRAP) dev
	ESTATION_FAULTS=full $(VENV_PYTHON) -m pytest tests/faults

bench:
	@$(BOOTSTRAP) dev
	@$(VENV_PYTHON) -m tests.bench $(BENCH)

lock:
	@command -v uv >/dev/null || { echo "uv is not here: $(PYTHON) -m pip install --user uv" >&2; exit 1; }
	$(COMPILE) requirements/dev.in --output-file requirements/dev.txt
	$(COMPILE) --constraint requirements/dev.txt requirements/local.in --output-file requirements/local.txt
	$(COMPILE) --constraint requirements/dev.txt requirements/run.in --output-file requirements/run.txt
	for peer in fastapi celery profile; do \
		$(COMPILE) requirements/bench-$$peer.in --output-file requirements/bench-$$peer.txt || exit 1; done
