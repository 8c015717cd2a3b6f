#!/usr/bin/env bash
# Make this machine able to build and run containers: programs from Debian, and a base image made from Debian's packages
# that stands in for the official slim Python image where no image registry can be reached. Quick when all is there.
# Prints the name of the base image on standard output; everything else goes to standard error.
set -euo pipefail

base=localhost/python-standin:3.13-trixie-1 # count up when what is built below changes
export DEBIAN_FRONTEND=noninteractive
CONTAINERS_CONF=$(dirname "$(realpath "$0")")/containers.conf
export CONTAINERS_CONF

fail() {
    printf '%s: %s\n' "$0" "$1" >&2
    exit 1
}

install_programs() {
    local missing=()
    for program in buildah debootstrap podman runc; do command -v "$program" >/dev/null || missing+=("$program"); done
    ((${#missing[@]} == 0)) && return
    apt-get update -qq
    apt-get install -qq "${missing[@]}"
}

debian_mirror() { # as this machine is set up
    # shellcheck disable=SC2016 # apt fills these in, not the shell
    local format='$(ORIGIN) $(LABEL) $(REPO_URI)'
    apt-get indextargets --format "$format" 'Created-By: Packages' |
        awk '$1 == "Debian" && $2 == "Debian" && !found++ { print $3 }'
}

build_base() { # like the official image: pip, certificates, `python`, no bytecode
    local mirror
    mirror=$(debian_mirror)
    [ -n "$mirror" ] || { apt-get update -qq && mirror=$(debian_mirror); }
    [ -n "$mirror" ] || fail "no Debian mirror among apt's sources"
    root=$(mktemp -d)
    trap 'rm -rf "$root"' EXIT
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-pip trixie "$root" "$mirror"
    ln -s python3 "$root/usr/bin/python"
    find "$root" -xdev -name __pycache__ -type d -prune -exec rm -rf {} +
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar -C "$root" -c . | podman import - "$base"
}

{
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        fail "needs root on Debian, to install packages and to mount file systems"
    fi
    install_programs
    podman image exists "$base" || build_base
} >&2
printf '%s\n' "$base"
