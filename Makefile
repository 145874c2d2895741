# The two commands of the README are `make demo` and `make test`; both set up what they need first.
.PHONY: demo test test-all bench lint setup browser clean
PYTHON ?= python3
BIN := .venv/bin

demo: setup
	@$(BIN)/paystream demo $(if $(BROKER),--broker $(BROKER))

# Three files at a time on two cores: the tests wait for brokers and engines as long as they compute. In the order they
# are collected, so that the quick ones come last and none of the three is left with a long file.
test: setup browser
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder

# With the tests of clusters that repeat kills, or wait for minutes.
test-all: setup browser
	$(BIN)/pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder -m ""

# The figures of docs/performance.md, measured on this machine. Seven minutes; not part of the tests.
bench: setup
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash devstack/bench.sh

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml devstack/pom.xml tests/engine/clients/pom.xml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Paystream needs Python 3.11 or newer; this is " + sys.version.split()[0] + ". Name another one with make PYTHON=python3.12.")'
	@echo "Setting up .venv and the broker (a minute, the first time)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@# Without Java or Maven the broker in memory stands in: the line says so, and setup goes on.
	@$(BIN)/python -m paystream.devstack.maven devstack/pom.xml tests/engine/clients/pom.xml && $(BIN)/python -m paystream.devstack.kafka_broker || true
	@touch $@

# What the tests of `paystream dashboard` drive. Where it can't be installed the line says so and those tests are skipped.
BROWSER := apt-get install -y --no-install-recommends chromium chromium-driver
browser:
	@if [ ! -x /usr/bin/chromium ] || [ ! -x /usr/bin/chromedriver ]; then \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "Installing the browser that the dashboard is tested in: $(BROWSER)"; \
	    (apt-get update -qq && DEBIAN_FRONTEND=noninteractive $(BROWSER) -qq >/dev/null) \
	      || echo "The browser was not installed: the dashboard's tests are skipped."; \
	  else echo "No Chromium: the dashboard's tests are skipped. As root, on Debian: $(BROWSER)"; fi; fi

# After editing the dependencies in pyproject.toml; needs uv.
.PHONY: lock
lock:
	uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --all-extras --no-header --no-annotate --no-emit-index-url pyproject.toml --output-file requirements.lock

clean:
	-$(BIN)/paystream down --delete-data
	rm -rf .venv build
