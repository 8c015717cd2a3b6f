#!/usr/bin/env bash
# Everything that needs root, containers or servers from the system's packages, on a new machine too.
# usage: .ci/e2e.sh PYTHON [PYTEST_ARGUMENT ...]     PYTHON: of an environment with the development requirements
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
python=$(realpath --no-symlinks "$1")
shift

.ci/containers.sh >/dev/null
missing=()
command -v nginx >/dev/null || missing+=(nginx)
command -v promtool >/dev/null || missing+=(prometheus)
command -v prometheus-pushgateway >/dev/null || missing+=(prometheus-pushgateway)
command -v docker-compose >/dev/null || missing+=(docker-compose)
command -v squid >/dev/null || missing+=(squid)
command -v dnsmasq >/dev/null || missing+=(dnsmasq-base)
command -v iptables >/dev/null || missing+=(iptables)
command -v ip >/dev/null || missing+=(iproute2)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
command -v rclone >/dev/null || missing+=(rclone)
command -v fusermount3 >/dev/null || missing+=(fuse3)
command -v fuse-overlayfs >/dev/null || missing+=(fuse-overlayfs)
command -v systemd-analyze >/dev/null || missing+=(systemd)
command -v strace >/dev/null || missing+=(strace)
command -v jq >/dev/null || missing+=(jq)
[[ -e /usr/share/i18n/locales/de_DE ]] || missing+=(locales)
command -v chromium >/dev/null || missing+=(chromium fonts-liberation)
if ((${#missing[@]})); then # the tests start what they need themselves: at this run level no package starts its service
    apt-get update -qq
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends "${missing[@]}"
fi >&2
python3 -m pip --python "$python" install --quiet --require-hashes --no-deps --requirement requirements-e2e.lock

programs=$(dirname "$python")
checkov=$programs/../checkov
if ! cmp --quiet requirements-checkov.lock "$checkov/installed.lock"; then
    "$python" -m venv --clear --without-pip "$checkov"
    python3 -m pip --python "$checkov/bin/python" install --quiet --require-hashes --no-deps --only-binary=:all: \
        --requirement requirements-checkov.lock
    cp requirements-checkov.lock "$checkov/installed.lock"
fi
PATH=$programs:$PATH:$checkov/bin exec "$python" -m pytest -m e2e --timeout 600 tests/e2e "$@"
