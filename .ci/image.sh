#!/usr/bin/env bash
# Build the image from this checkout, its labels from version and revision.
# usage: .ci/image.sh [BUILD_FLAG ...]     ENGINE: docker (where one answers) or podman; IMAGE: its name (flagjob);
#                                          SOURCE: where the project is to be read on the web, if it is
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."

if [ -z "${ENGINE:-}" ]; then
    ENGINE=podman
    if docker info >/dev/null 2>&1; then ENGINE=docker; fi
fi
version=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' job/__init__.py)
revision=$(git rev-parse --quiet --verify HEAD || echo unknown)
export DOCKER_BUILDKIT=1 # docker's older builder knows neither mounts nor secrets
created=$(git log -1 --format=%cI 2>/dev/null || date -u +%Y-%m-%dT%H:%M:%SZ)
exec "$ENGINE" build "$@" --tag "${IMAGE:-flagjob}" \
    --build-arg VERSION="$version" --build-arg REVISION="$revision" --build-arg CREATED="$created" \
    --build-arg SOURCE="${SOURCE:-}" --build-arg DOCUMENTATION="${SOURCE:+$SOURCE/blob/$revision/README.md}" .
