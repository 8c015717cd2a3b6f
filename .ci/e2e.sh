#!/usr/bin/env bash
# Everything that needs root, containers or servers from the system's packages, on a new machine too.
# usage: .ci/e2e.sh PYTHON [PYTEST_ARGUMENT ...]     PYTHON: of an environment with the development requirements
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
python=$(realpath --no-symlinks "$1")
shift

.ci/containers.sh >/dev/null
command -v nginx >/dev/null || {
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends nginx
} >&2
python3 -m pip --python "$python" install --quiet --require-hashes --no-deps --requirement requirements-e2e.lock
PATH=$(dirname "$python"):$PATH exec "$python" -m pytest -m e2e --timeout 600 tests/e2e "$@"
