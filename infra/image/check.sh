#!/usr/bin/env bash
# Builds the image and runs keycard from it: for `make verify`. The binary is as static as the one
# that is deployed, but not optimised, which would take longer than everything else here.
set -euo pipefail
cd "$(dirname "$0")/../.."

infra/image/build.sh dev
if ! problem=$(unshare --mount --pid --fork mount -t tmpfs none /mnt 2>&1); then
    echo "image: NOT CHECKED: what is in it and whether it runs: as root and where mounts are allowed only ($problem)" >&2
    exit
fi
cargo test --locked --test it -- --ignored infra::image
