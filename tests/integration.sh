#!/usr/bin/env bash
# Runs the integration tests that depend on PostgreSQL or on the queue:
#
#   tests/integration.sh 17 postgres    on PostgreSQL 17, which carries the queue as well
#   tests/integration.sh 17 amqp        on PostgreSQL 17 and RabbitMQ
#   tests/integration.sh 17 postgres logins:: ledger::    of these modules only
#
# What only RabbitMQ can do is tested in modules named amqp. Some modules depend
# on neither; the soak is run for itself.
set -euo pipefail
cd "$(dirname "$0")/.."

version=$1 queue=$2
shift 2
others=(architecture:: contract:: demo:: documents:: properties:: queue::amqp:: soak:: store::
    support::)
[[ $queue == amqp ]] || others+=(amqp::)

echo "== PostgreSQL $version, queue: $queue"
KEYCARD_TEST_POSTGRES=$version KEYCARD_TEST_QUEUE=$queue \
    cargo test --locked --no-fail-fast --test it -- "$@" "${others[@]/#/--skip=}"
