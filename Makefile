SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help setup test verify

# Most tests wait for a server or a clock; on two cores eight of them keep both busy.
export RUST_TEST_THREADS ?= 8
export CARGO_TERM_COLOR ?= $(if $(CI),never,auto)

help: ## this list
	awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-8s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install what all the tests need (root, or a user with sudo)
	tests/setup.sh verify

# PostgreSQL 15 carries the whole suite. Security advisories are not checked:
# they are a database to be downloaded, and the tests run without a network.
test: ## format, licences, lints, documentation, and every test
	tests/setup.sh test
	cargo fmt --check
	target/tools/bin/cargo-deny --offline check --hide-inclusion-graph bans licenses sources
	cargo clippy --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked
	status=0
	cargo test --locked --no-fail-fast 2>&1 | tee target/test.log || status=$$?
	awk -f tests/summary.awk target/test.log || status=1
	exit $$status

# Queue, stores and contract do not touch PostgreSQL.
verify: ## the integration tests again, against PostgreSQL 16, 17 and 18
	tests/setup.sh verify
	status=0
	: >target/verify.log
	for version in 16 17 18; do
		echo "== PostgreSQL $$version"
		KEYCARD_TEST_POSTGRES=$$version cargo test --locked --no-fail-fast --test it -- \
			--skip queue:: --skip store:: --skip contract:: 2>&1 \
			| tee --append target/verify.log || status=$$?
	done
	awk -f tests/summary.awk target/verify.log || status=1
	exit $$status
