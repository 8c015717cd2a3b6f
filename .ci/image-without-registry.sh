#!/usr/bin/env bash
# Build the image where there is neither engine service nor image registry: with podman, on the stand-in base.
# usage: IMAGE=NAME .ci/image-without-registry.sh
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."

base=$(.ci/containers.sh)
CONTAINERS_CONF=$PWD/.ci/containers.conf
export CONTAINERS_CONF
secrets=$(mktemp -d)
trap 'rm -rf "$secrets"' EXIT

# pip in the build reaches the package index as pip on this machine does; its environment goes before its files.
: >"$secrets/pip.crt"
{
    echo '[global]'
    python3 -m pip config list |
        sed -nE "s/^[^.]*\.(cert|index-url|proxy|timeout|trusted-host)='(.*)'$/\1 = \2/p" | awk '!seen[$1]++'
} >"$secrets/pip.conf"
authorities=$(sed -n 's/^cert = //p' "$secrets/pip.conf")
if [ -n "$authorities" ]; then
    cp "$authorities" "$secrets/pip.crt"
    sed -i 's,^cert = .*,cert = /run/pip.crt,' "$secrets/pip.conf"
fi

ENGINE=podman .ci/image.sh --isolation chroot --layers=false --network host --build-arg PYTHON_IMAGE="$base" \
    --secret id=pip.conf,src="$secrets/pip.conf" --secret id=pip.crt,src="$secrets/pip.crt"
