#!/usr/bin/env bash
# Lets a target look for inputs that break a promise: fuzz/run.sh TARGET SECONDS [OPTION OF LIBFUZZER...]
# Needs cargo-fuzz; no nightly compiler, as RUSTC_BOOTSTRAP lets the stable one do what that takes.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
target=${1:?which target? one of: $(cd fuzz/targets && echo *.rs)}
seconds=${2:-3600}
shift $(($# < 2 ? $# : 2))

if ! command -v cargo-fuzz >/dev/null; then
    echo "cargo-fuzz is missing: cargo install cargo-fuzz" >&2
    exit 1
fi

features=()
case $target in
templates | http | calls)
    # llama.cpp and our C++ are looked at, too
    features=(--features native)
    # shellcheck source=build/sanitizers/native.sh
    source build/sanitizers/native.sh
    # ggml keeps its backends and devices to the end
    export ASAN_OPTIONS=detect_leaks=0
    ;;
esac

mkdir -p "fuzz/corpus/$target"
export RUSTC_BOOTSTRAP=1 CARGO_TARGET_DIR=$PWD/target/fuzz
exec cargo fuzz run --target x86_64-unknown-linux-gnu "${features[@]}" "$target" \
    "fuzz/corpus/$target" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -dict="fuzz/dictionaries/$target.dict" -timeout=30 -rss_limit_mb=4096 "$@"
