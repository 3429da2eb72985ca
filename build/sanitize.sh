#!/usr/bin/env bash
# Builds llama.cpp, our C++ and tests under sanitizers, and runs them: build/sanitize.sh asan|tsan [ARGUMENT OF TESTS...]
# What upstream does and cannot be set right here stands in build/sanitizers/*.txt, each line with its reason.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
kind=${1:?asan or tsan?}
shift

lists=$PWD/build/sanitizers
cargo_flags=()
host=$(rustc -vV | sed -n 's/^host: //p')
# shellcheck source=build/sanitizers/native.sh
source "$lists/native.sh"
export CARGO_INCREMENTAL=0 CARGO_TARGET_DIR=$PWD/target/sanitize/$kind

case $kind in
asan)
    export RUSTFLAGS='-Clink-arg=-lasan -Clink-arg=-lubsan'
    export ASAN_OPTIONS="detect_stack_use_after_return=1:strict_string_checks=1:allocator_may_return_null=1${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
    export LSAN_OPTIONS="suppressions=$lists/leaks.txt:print_suppressions=0"
    # Rust's main program does not begin with the runtime: it is loaded first, for tests, not for the compiler
    preload=$("${CC:-cc}" -print-file-name=libasan.so)
    export "CARGO_TARGET_$(tr a-z- A-Z_ <<<"$host")_RUNNER=env LD_PRELOAD=$preload"
    tests=(--lib --test engine --test leaks --test oracle_prefill --test shipped_model)
    ;;
tsan)
    # all of Rust is instrumented, its standard library too: what that synchronizes would be taken for races. The runtime is
    # the one that comes with Rust, for C++ too
    [[ -d $(rustc --print sysroot)/lib/rustlib/src/rust/library ]] ||
        { echo 'the source of the standard library is missing: rustup component add rust-src' >&2 && exit 1; }
    export RUSTC_BOOTSTRAP=1 RUSTFLAGS='-Zsanitizer=thread'
    cargo_flags=(-Zbuild-std)
    flags='-fsanitize=thread -fno-omit-frame-pointer'
    export VISIPRUNER_NATIVE_DIR=$CARGO_TARGET_DIR/native
    # OpenMP's runtime is not instrumented; ggml's own threads are. They spin while they wait for each other, which takes its
    # time where several tests share the processors
    export RUST_TEST_THREADS=1
    export VISIPRUNER_CMAKE_ARGS="-DGGML_OPENMP=OFF '-DCMAKE_C_FLAGS=$flags' '-DCMAKE_CXX_FLAGS=$flags' $fast"
    # in files, as nobody listens to what the servers of tests say
    reports=$CARGO_TARGET_DIR/reports
    rm -rf "$reports"
    mkdir -p "$reports"
    trap 'find "$reports" -type f -exec cat {} +' EXIT
    export TSAN_OPTIONS="halt_on_error=1:second_deadlock_stack=1:log_path=$reports/report:suppressions=$lists/threads.txt${TSAN_OPTIONS:+:$TSAN_OPTIONS}"
    # what has threads of its own: the server, its clients that go away, and requests that are stopped; but for an answer of 1,500
    # tokens and prompts of 1,000, which take a quarter of an hour here
    set -- server:: serve:: stopping:: --skip serve::a_model_that_answers_stays \
        --skip stopping::a_prompt_that_does_not_fit "$@"
    tests=(--lib --test engine --test cli)
    ;;
*)
    echo "asan or tsan, not $kind" >&2
    exit 1
    ;;
esac

"${CARGO:-cargo}" test "${cargo_flags[@]}" --target "$host" "${tests[@]}" -- "$@"
