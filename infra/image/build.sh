#!/usr/bin/env bash
# Builds the image into an archive, target/image/keycard.tar, with this machine's Rust, Node.js and
# buildah. No registry of images is asked, unless BASE_IMAGE names one.
#
#   infra/image/build.sh                     as it is to be deployed
#   infra/image/build.sh dev                 not optimised, in a fraction of the time
#   infra/image/build.sh release --build-arg BASE_IMAGE=...    and other arguments of buildah's
set -euo pipefail
cd "$(dirname "$0")/../.."
profile=${1:-release}
shift $(($# > 0))

directory=$PWD/target/image
images=(buildah --root "$directory/storage" --runroot "$directory/run" --storage-driver vfs)
trap 'rm -rf "$directory"/{storage,run,binary,authorities}' EXIT

infra/image/binary.sh "$directory/binary/out" "$profile"
infra/image/authorities.sh "$directory/authorities/out"

version=$(cargo pkgid | sed 's/.*[#@]//')
revision=$(git describe --always --abbrev=40 --exclude='*' --dirty)
# The same sources make the same image: its times are its commit's.
"${images[@]}" bud --quiet --isolation chroot --file infra/image/Containerfile \
    --timestamp "$(git log -1 --format=%ct)" \
    --build-arg "VERSION=$version" --build-arg "REVISION=$revision" \
    --build-context "binary=$directory/binary" --build-context "authorities=$directory/authorities" \
    --tag "keycard:$version" "$@" . >/dev/null
rm -f "$directory/keycard.tar"
"${images[@]}" push --quiet --disable-compression=false \
    "keycard:$version" "oci-archive:$directory/keycard.tar:keycard:$version"
echo "image: keycard:$version of $revision in target/image/keycard.tar, $(du -h "$directory/keycard.tar" | cut -f1)"
