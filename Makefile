SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help setup demo demo-aws test verify soak

# Most tests wait for a server or a clock; on two cores eight of them keep both busy.
export RUST_TEST_THREADS ?= 8
export CARGO_TERM_COLOR ?= $(if $(CI),never,auto)

help: ## this list
	awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-10s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what all the tests need (root, or a user with sudo)
	tests/setup.sh verify

demo: ## a lease's life, told by the running system: one PostgreSQL and nothing else
	tests/setup.sh demo
	cargo build --locked --bin keycard
	exec tests/demo/demo.py

demo-aws: ## the same on RabbitMQ and Secrets Manager (moto)
	tests/setup.sh demo-aws
	cargo build --locked --bin keycard
	exec tests/demo/demo.py aws

# What PostgreSQL's version or the queue in it may change; `make verify` runs everything.
ON_17 := logins:: revocation:: reconcile:: restore:: ledger:: \
	queue::postgres:: embedded:: life:: authorisation:: dead_letters:: expiry::

# RabbitMQ and PostgreSQL 15 carry the whole suite; then PostgreSQL 17 carries the queue as well.
# Security advisories are not checked: they are a database to be downloaded, and the tests run
# without a network.
test: export PROPTEST_RNG_SEED ?= 5# the same search each time; make verify looks elsewhere
test: ## format, licences, lints, documentation, and every test
	tests/setup.sh test
	cargo fmt --check
	infra/check.sh format 2>&1 | tee target/test.log
	target/tools/bin/cargo-deny --offline check --hide-inclusion-graph bans licenses sources
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked
	status=0
	cargo test --locked --no-fail-fast 2>&1 | tee --append target/test.log || status=$$?
	tests/integration.sh 17 postgres $(ON_17) 2>&1 | tee --append target/test.log || status=$$?
	awk -f tests/summary.awk target/test.log || status=1
	exit $$status

# Each run's first line says its seed; a run that finds something says it again, with what it found.
soak: ## services on a system in which everything fails: MINUTES=3 SEED=random, on either queue
	tests/setup.sh test
	for queue in $(or $(QUEUE),amqp postgres); do
		KEYCARD_TEST_QUEUE=$$queue KEYCARD_SOAK_SECONDS=$$(($(or $(MINUTES),3) * 60)) \
			KEYCARD_SOAK_SEED=$(or $(SEED),random) \
			cargo test --locked --test it -- --nocapture soak::everything_holds_whatever_fails
	done

# make test runs 15 with RabbitMQ, and with the queue in it whatever that may change on 17. The full
# search through the core takes minutes, so that it is worth optimising.
verify: ## the integration tests on PostgreSQL 16, 17 and 18, every fault at every place, longer searches, a soak, and infra/
	tests/setup.sh verify
	status=0
	: >target/verify.log
	run() { "$$@" 2>&1 | tee --append target/verify.log || status=$$?; }
	run cargo test --locked --lib --config profile.dev.package.keycard.opt-level=1 -- \
		--ignored --nocapture within_the_full_bound
	for queue in amqp postgres; do
		for version in 16 17 18; do
			run tests/integration.sh $$version $$queue
		done
		run env KEYCARD_TEST_QUEUE=$$queue cargo test --locked --no-fail-fast --test it -- --ignored crash_matrix::
	done
	run cargo test --locked --test it -- --ignored support::
	run env PROPTEST_CASES=5000 cargo test --locked --test it -- properties::
	run infra/image/check.sh
	run make --no-print-directory soak
	run cargo test --locked --test it -- --ignored infra::amqp
	run infra/check.sh tools
	run env KEYCARD=target/debug/keycard infra/check.sh all
	awk -f tests/summary.awk target/verify.log || status=1
	exit $$status
