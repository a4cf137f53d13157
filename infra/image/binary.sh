#!/usr/bin/env bash
# Builds keycard for the image, in a profile of cargo's, into a directory that is laid out as the
# image is. The binary is static: it looks names up in files and by DNS with what glibc has within it.
#
#   infra/image/binary.sh DIRECTORY release|dev
set -euo pipefail
directory=$(realpath --canonicalize-missing "$1") profile=$2
cd "$(dirname "$0")/../.."

# Said to be for the machine's own system, the flags are not for what only runs while building.
target=$(rustc --print host-tuple)
RUSTFLAGS='-C target-feature=+crt-static' \
    cargo build --locked --bin keycard --profile "$profile" --target "$target"

umask 022
mkdir -p "$directory/usr/local/bin"
built=${CARGO_TARGET_DIR:-target}/$target/${profile/#dev/debug}/keycard
strip --output-file "$directory/usr/local/bin/keycard" "$built"
