#!/usr/bin/env bash
# A virtual environment with the Python packages of a test: tests/venv.sh <folder> <requirements.txt>. Exit code 69 says that
# this machine cannot have them; what needs them may then be left out.
set -euo pipefail

folder=$1
requirements=$2

unavailable() {
    echo "$*" >&2
    exit 69
}

has() {
    command -v "$1" >/dev/null 2>&1
}

if [[ $folder/installed -nt $requirements ]]; then
    exit 0
fi

has python3 || unavailable 'there is no python3'
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    unavailable "the packages need Python 3.11 or later, this is $(python3 --version)"

# Debian has what makes virtual environments in a package of its own
if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
    as_root=()
    ((EUID == 0)) || as_root=(sudo -n)
    if ! has apt-get || ! { ((EUID == 0)) || sudo -n true 2>/dev/null; }; then
        unavailable 'Python makes no virtual environments here (Debian: apt-get install python3-venv)'
    fi
    echo 'installing: python3-venv'
    { "${as_root[@]}" apt-get update &&
        "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3-venv; } >/dev/null ||
        unavailable 'python3-venv cannot be installed'
fi

python3 -m venv --clear "$folder"
pip=("$folder/bin/python" -m pip --disable-pip-version-check --quiet)
if ! "${pip[@]}" install -r "$requirements"; then
    somewhere=$(mktemp -d)
    trap 'rm -rf "$somewhere"' EXIT
    # whether it is the packages, or the way to any
    if ! "${pip[@]}" download --retries 1 --no-cache-dir --no-deps --dest "$somewhere" pip 2>/dev/null; then
        unavailable 'no package index of Python is reached'
    fi
    exit 1
fi
touch "$folder/installed"
