#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# Installs with apt what building and testing restorer needs, and only what is missing. Does nothing where
# all is there, nor without apt or root: the build then says itself what it misses.
# usage: setup-debian.sh [COMMAND...]   (further commands needed, named like their packages)
set -eu

missing=""
need() { # PACKAGE COMMAND...: asks for PACKAGE unless COMMAND succeeds
    package=$1
    shift
    "$@" >/dev/null 2>&1 || missing="$missing $package"
}
has() { command -v "$1"; }
has_compiler() { has cc && has make && has ld; }
header() { echo "#include <$1>" | cc -E -x c -; }
python_header() { test -e "$(python3 -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h"; }

need build-essential has_compiler
need python3 has python3
need python3-venv python3 -c 'import ensurepip, venv'
need python3-dev python_header
need libzstd-dev header zstd.h
need liblz4-dev header lz4.h
need libxxhash-dev header xxhash.h
need liblmdb-dev header lmdb.h
need sqlite3 has sqlite3
for tool in "$@"; do
    need "$tool" has "$tool"
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
    echo "restorer: not installed:$missing; as root on Debian: apt-get install$missing" >&2
    exit 0
fi
export DEBIAN_FRONTEND=noninteractive
apt-get -qq update
# shellcheck disable=SC2086 # a list of words
apt-get -qq install -y --no-install-recommends $missing >/dev/null
