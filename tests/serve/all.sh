#!/usr/bin/env bash
# What other programs make of `visipruner serve`: the last part of all tests, on the program that cargo built for them. Where the
# packages cannot be had, it says so.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

venv=target/serve/venv
export VISIPRUNER=${CARGO_TARGET_DIR:-target}/debug/visipruner

skip() {
    echo "SKIPPED: $1 (the reason is above)"
}

status=0
tests/venv.sh "$venv" tests/serve/requirements.txt || status=$?
case $status in
    0) ;;
    69)
        skip 'visipruner serve against clients, bad requests, and tests of llama-server'
        exit 0
        ;;
    *) exit "$status" ;;
esac

make --no-print-directory serve-clients serve-bad
"$venv/bin/python" tests/serve/llama_server/run.py || status=$?
if ((status == 69)); then
    skip 'tests of llama-server against visipruner serve'
    exit 0
fi
exit "$status"
