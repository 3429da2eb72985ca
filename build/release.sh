#!/usr/bin/env bash
# Makes target/dist/visipruner-TARGET.tar.xz, in the layout of cargo-dist: one folder with the program, llama.cpp's libraries, of
# which ggml takes at run time the one for the processor at hand, completions, man pages and licences; and its checksum.
# FEATURES names further features of cargo. Linux on x86-64.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$root"
target=$(rustc -vV | sed -n 's/^host: //p')
dist=$root/target/dist
name=visipruner-$target
folder=$dist/$name

fail() {
    echo "build/release.sh: $*" >&2
    exit 1
}
[[ $target == x86_64-unknown-linux-gnu ]] || fail "only archives for x86_64-unknown-linux-gnu are made here, not for $target"

export VISIPRUNER_NATIVE_DIR=$dist/native VISIPRUNER_GGML_NATIVE=off CARGO_PROFILE_RELEASE_DEBUG=false
# (the last one: libraries and program find each other in the folder where they are)
export VISIPRUNER_CMAKE_ARGS="-DBUILD_SHARED_LIBS=ON -DGGML_BACKEND_DL=ON -DGGML_CPU_ALL_VARIANTS=ON -DCMAKE_BUILD_RPATH_USE_ORIGIN=ON"
cargo_build=(cargo build --release --locked --target-dir "$dist" --bin visipruner ${FEATURES:+--features "$FEATURES"})
"${cargo_build[@]}"
# the folder of the libraries that it was linked with
libraries=$("${cargo_build[@]}" --quiet --message-format json | python3 -c '
import json, sys
messages = map(json.loads, sys.stdin)
built = [m for m in messages if m["reason"] == "build-script-executed" and "visipruner" in m["package_id"]]
folders = {path.removeprefix("native=") for m in built for path in m["linked_paths"]}
print("\n".join(folder for folder in sorted(folders) if folder.endswith("/build/bin")))')
[[ -d $libraries ]] || fail "no folder of libraries: $libraries"

rm -rf "$folder"
mkdir -p "$folder"/{completions,licenses,man}
cp README.md CHANGELOG.md LICENSE-MIT LICENSE-APACHE "$folder/"
cp "$dist/release/visipruner" "$folder/"

for library in "$libraries"/lib*.so; do
    file=$(objdump -p "$library" | awk '$1 == "SONAME" { print $2 }')
    install -m 755 "$library" "$folder/${file:-$(basename "$library")}"
done
strip --strip-unneeded "$folder/visipruner" "$folder"/lib*.so*

for shell in bash zsh fish powershell; do
    case $shell in
        bash) file=visipruner.bash ;;
        zsh) file=_visipruner ;;
        fish) file=visipruner.fish ;;
        powershell) file=_visipruner.ps1 ;;
    esac
    "$folder/visipruner" generate completions $shell >"$folder/completions/$file"
done
"$folder/visipruner" generate man "$folder/man"

cp vendor/LICENSE.llama.cpp "$folder/licenses/llama.cpp.txt"
build/licenses.py "$target" "${FEATURES:-}" >"$folder/licenses/rust-packages.txt"

# what it needs from the system
allowed='^(ld-linux-x86-64\.so\.2|lib(c|dl|gcc_s|gomp|m|pthread|rt|stdc\+\+)\.so\.[0-9]+)$'
for file in "$folder/visipruner" "$folder"/lib*.so*; do
    objdump -p "$file" | awk '$1 == "NEEDED" { print $2 }' | while read -r needed; do
        [[ -f $folder/$needed || $needed =~ $allowed ]] || fail "$(basename "$file") needs $needed, which few machines have"
    done
    run_path=$(objdump -p "$file" | awk '$1 ~ /^R(UN)?PATH$/ { print $2 }')
    [[ -z $run_path || $run_path =~ ^(\$ORIGIN:?)+$ ]] || fail "$(basename "$file") looks for libraries in $run_path"
done

cd "$dist"
# the same files make the same archive
time=$(git -C "$root" log -1 --format=%ct)
tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$time" -cJf "$name.tar.xz" "$name"
sha256sum --binary "$name.tar.xz" | tee "$name.tar.xz.sha256"

# in a folder of its own, with nothing around it
bare=$(mktemp -d)
trap 'rm -rf "$bare"' EXIT
tar -xJf "$name.tar.xz" -C "$bare"
cd "$bare/$name"
env -i ./visipruner --version
env -i ./visipruner demo
