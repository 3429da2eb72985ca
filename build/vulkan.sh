#!/usr/bin/env bash
# Installs what a build with Vulkan needs and the machine lacks, for a machine without a graphics card, too: glslc, the
# loader, Mesa's software device (lavapipe); and puts headers into target/vulkan-sdk that are new enough for the pinned
# llama.cpp, which those of Debian 12 are not. VULKAN_SDK=target/vulkan-sdk/usr makes the build take them.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/.."
sdk=target/vulkan-sdk

has() {
    command -v "$1" >/dev/null 2>&1
}

missing=()
has glslc || missing+=(glslc)
compgen -G '/usr/lib*/libvulkan.so' >/dev/null || compgen -G '/usr/lib/*/libvulkan.so' >/dev/null || missing+=(libvulkan-dev)
compgen -G '/usr/share/vulkan/icd.d/*.json' >/dev/null || compgen -G '/etc/vulkan/icd.d/*.json' >/dev/null ||
    missing+=(mesa-vulkan-drivers)
if ((${#missing[@]} > 0)); then
    if ! has apt-get || ((EUID != 0)); then
        echo "missing: ${missing[*]}. Type, as root: apt-get install ${missing[*]} (other systems call them alike)" >&2
        exit 1
    fi
    echo "installing: ${missing[*]}"
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends "${missing[@]}"
fi

# Packages of Debian 13. They hold headers only: nothing of them runs, and the loader stays the system's.
mirror=${DEBIAN_MIRROR:-http://deb.debian.org/debian}
packages=(
    "pool/main/v/vulkan-loader/libvulkan-dev_1.4.309.0-1_amd64.deb
        8d329d465e16168afff58b1bd0dd6db46aac2cc3f56054a481b25a04e90b345a"
    "pool/main/s/spirv-headers/spirv-headers_1.6.1+1.4.309.0-1_all.deb
        dc18db866d63680351c40ac6b6bece34cb52da64a7799ce1cc4f16f6bff4d064"
)

unpack() { # <.deb> <folder>
    local name
    name=$(ar t "$1" | grep '^data\.tar')
    case $name in
        *.xz) ar p "$1" "$name" | tar -xJ -C "$2" ./usr/include ./usr/share/cmake ;;
        *.zst) ar p "$1" "$name" | tar --zstd -x -C "$2" ./usr/include ./usr/share/cmake ;;
        *) echo "$1: cannot unpack $name" >&2 && return 1 ;;
    esac
}

stamp=$sdk/$(printf '%s' "${packages[*]}" | sha256sum | cut -c1-16)
if [[ ! -e $stamp ]]; then
    rm -rf "$sdk"
    mkdir -p "$sdk"
    for package in "${packages[@]}"; do
        read -r path sha256 <<<"${package//$'\n'/ }"
        file=$sdk/${path##*/}
        echo "fetching $mirror/$path"
        curl --fail --silent --show-error --location --retry 3 --output "$file" "$mirror/$path"
        echo "$sha256  $file" | sha256sum --check --quiet
        unpack "$file" "$sdk"
        rm "$file"
    done
    touch "$stamp"
fi
