#!/usr/bin/env bash
# Installs what the native build needs and the machine lacks: a C++ compiler, cmake, libclang. Where it cannot, it says
# the one command to type.
set -euo pipefail

has() {
    command -v "$1" >/dev/null 2>&1
}

any() { # whether one of the patterns matches a file
    local pattern
    for pattern in "$@"; do
        if compgen -G "$pattern" >/dev/null; then
            return 0
        fi
    done
    return 1
}

# The library that bindgen loads, and clang's own headers (stddef.h), which some systems package apart.
has_libclang() {
    local developer llvm
    if [[ -n ${LIBCLANG_PATH:-} ]]; then
        return 0
    elif [[ $(uname) == Darwin ]]; then
        developer=$(xcode-select -p 2>/dev/null || true)
        llvm=$(brew --prefix llvm 2>/dev/null || true)
        any "$developer/usr/lib/libclang.dylib" "$developer/Toolchains/*/usr/lib/libclang.dylib" \
            "$llvm/lib/libclang.dylib"
    else
        any '/usr/lib/llvm-*/lib/libclang.so*' '/usr/lib/llvm-*/lib/libclang-[0-9]*.so*' '/usr/lib*/libclang.so*' \
            '/usr/lib/*/libclang.so*' '/usr/lib/*/libclang-[0-9]*.so*' &&
            any '/usr/lib*/clang/*/include/stddef.h' '/usr/lib/llvm-*/lib/clang/*/include/stddef.h'
    fi
}

missing=()
has c++ || missing+=(compiler)
has cmake || missing+=(cmake)
has_libclang || missing+=(libclang)
if ((${#missing[@]} == 0)); then
    exit 0
fi

# the packages that bring what is missing
packages() { # <name of the compiler's package> <of cmake's> <of libclang's>
    local what
    for what in "${missing[@]}"; do
        case $what in
            compiler) echo "$1" ;;
            cmake) echo "$2" ;;
            libclang) echo "$3" ;;
        esac
    done
}

if has apt-get; then
    mapfile -t names < <(packages g++ cmake libclang-dev)
    update=(apt-get update)
    install=(env DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${names[@]}")
    if ((EUID != 0)); then
        if ! has sudo; then
            echo "missing: ${missing[*]}. Type, as root: apt-get install ${names[*]}" >&2
            exit 1
        fi
        update=(sudo "${update[@]}")
        install=(sudo "${install[@]}")
    fi
    echo "installing: ${names[*]}"
    "${update[@]}" && "${install[@]}"
elif has brew; then
    if [[ " ${missing[*]} " == *' compiler '* ]]; then
        echo "missing: a C++ compiler. Type: xcode-select --install" >&2
        exit 1
    fi
    echo "installing with brew: ${missing[*]}"
    packages '' cmake llvm | xargs brew install
else
    echo "missing: ${missing[*]}. Install a C++ compiler, cmake and libclang with this system's package manager" \
        "(Fedora: dnf install gcc-c++ cmake clang-devel; Arch: pacman -S gcc cmake clang)" >&2
    exit 1
fi
