#!/usr/bin/env bash
# Builds target/stock/stock-eval: the unpatched llama.cpp of the pinned source, with the options that build.rs recorded
# for our own build (which must have run before). Incremental.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
out=$root/target/stock

host=$(rustc -vV | sed -n 's/^host: //p')
case $host in
    *-darwin) options=$root/target/native/$host-metal/options.cmake ;;
    *) options=$root/target/native/$host/options.cmake ;;
esac
if [[ ! -f $options ]]; then
    echo "tests/stock/build.sh: $options is missing; type 'cargo build' first" >&2
    exit 1
fi

args=(-DCMAKE_BUILD_TYPE=Release -DLLAMA_CPP="$(env -u VISIPRUNER_LLAMA_CPP "$root/patches/tool.sh" source)")
if [[ ! -f $out/build/CMakeCache.txt ]] && command -v ninja >/dev/null; then
    args+=(-G Ninja)
fi
if command -v ccache >/dev/null; then
    args+=(-DCMAKE_C_COMPILER_LAUNCHER=ccache -DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
fi

# llama.cpp asks git for a commit, and would find ours
export GIT_DIR=$out/no-git
mkdir -p "$out"
cmake -C "$options" -S "$root/tests/stock" -B "$out/build" "${args[@]}" >"$out/configure.log" 2>&1 || {
    cat "$out/configure.log" >&2
    exit 1
}
cmake --build "$out/build" --target stock-eval --parallel "${JOBS:-$(getconf _NPROCESSORS_ONLN)}"
ln -sf build/stock-eval "$out/stock-eval"
