#!/usr/bin/env bash
# Keeps the patches on llama.cpp: see patches/README.md. In patches/work (git-ignored) they are git commits, one each,
# on top of a commit with the pristine source.
set -euo pipefail

readonly patches=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
readonly root=$(dirname "$patches")
readonly work=$patches/work
readonly pin=$root/vendor/upstream.toml

# What build/stage.rs stages, which is also all that a patch may touch.
readonly needed=(CMakeLists.txt LICENSE cmake ggml include src tools/mtmd vendor)

# Every export is the same to the byte, whoever makes it and however their git is configured.
readonly author='visipruner <visipruner@localhost>'
readonly date='Thu, 1 Jan 2026 00:00:00 +0000'
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1
export GIT_AUTHOR_NAME=visipruner GIT_AUTHOR_EMAIL=visipruner@localhost GIT_AUTHOR_DATE=$date
export GIT_COMMITTER_NAME=visipruner GIT_COMMITTER_EMAIL=visipruner@localhost GIT_COMMITTER_DATE=$date
# git must never take our own repository for the scratch tree inside it
export GIT_CEILING_DIRECTORIES=$patches
unset GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE

usage() {
    cat >&2 <<USAGE
usage: patches/tool.sh <command>
  apply           make patches/work anew: the pristine source and one commit per patch
  edit <patch>    'apply', then stop at that patch: change files, 'git commit --amend', 'git rebase --continue'
  export          write the commits of patches/work back as *.patch and series
  source          print the folder with llama.cpp's source
  check           fail unless the patches apply strictly, re-export byte by byte, and agree with README, series, pin
  bump <version>  move the pin to that version of llama-cpp-sys-2 and re-apply the patches on its source
USAGE
    exit 2
}

fail() {
    echo "patches/tool.sh: $*" >&2
    exit 1
}

pinned() { # key -> its value in vendor/upstream.toml
    sed -n "s/^$1 *= *\"\(.*\)\"\$/\1/p" "$pin"
}

base_line() {
    echo "Base: $(pinned package) $(pinned version), sha256 $(pinned sha256)"
}

series() {
    sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$patches/series"
}

# The folder with the pinned source; as in build/source.rs, a source of the user's own comes first.
upstream() {
    if [[ -n ${VISIPRUNER_LLAMA_CPP:-} ]]; then
        echo "$VISIPRUNER_LLAMA_CPP"
    elif [[ -f $root/vendor/llama.cpp/CMakeLists.txt ]]; then
        echo "$root/vendor/llama.cpp"
    else
        cargo metadata --format-version 1 --locked --manifest-path "$root/Cargo.toml" | python3 -c '
import json, os, sys
package = next(p for p in json.load(sys.stdin)["packages"] if p["name"] == sys.argv[1])
print(os.path.join(os.path.dirname(package["manifest_path"]), "llama.cpp"))' "$(pinned package)"
    fi
}

in_tree() { # <tree> git arguments...
    git -C "$1" -c core.autocrlf=false -c commit.gpgsign=false "${@:2}"
}

make_pristine() { # <tree> <source>
    local tree=$1 source=$2 path
    rm -rf "$tree"
    mkdir -p "$tree"
    for path in "${needed[@]}"; do
        [[ -e $source/$path ]] || fail "$source is not llama.cpp's source: it has no $path"
        mkdir -p "$tree/$(dirname "$path")"
        cp -R "$source/$path" "$tree/$path"
    done
    git init --quiet "$tree"
    [[ $(in_tree "$tree" rev-parse --show-toplevel) == "$tree" ]] || fail "$tree did not become a git repository"
    commit_all "$tree" "llama.cpp of $(pinned package) $(pinned version)"
    in_tree "$tree" tag pristine
}

commit_all() { # <tree> <message>
    in_tree "$1" add --all --force .
    in_tree "$1" commit --quiet --no-verify --message "$2"
}

apply_series() { # <tree> [git am arguments...]
    local tree=$1 name n=0
    for name in $(series); do
        [[ -f $patches/$name ]] || fail "series names $name, which does not exist"
        in_tree "$tree" am --quiet --keep-cr --whitespace=nowarn "${@:2}" "$patches/$name" ||
            fail "$name does not apply to $(pinned package) $(pinned version), in $tree"
        n=$((n + 1))
        # a patch that git skipped leaves no commit, or an empty one
        [[ $(in_tree "$tree" rev-list --count pristine..HEAD) == "$n" ]] || fail "$name was skipped by git am"
        ! in_tree "$tree" diff --quiet HEAD~1 HEAD || fail "$name changed nothing"
    done
}

# A patch is named after its subject: "build: attach visipruner sources" is build_attach_visipruner_sources.patch.
name_of() { # <tree> <commit>
    local subject
    subject=$(in_tree "$1" log -1 --format=%s "$2" | tr '[:upper:]' '[:lower:]' | tr -cs 'a-z0-9\n' '_')
    echo "${subject%_}.patch"
}

# Writes the commits of a tree to a folder, with the series.
export_series() { # <tree> <folder>
    local tree=$1 folder=$2 commit name
    : >"$folder/series.names"
    for commit in $(in_tree "$tree" rev-list --reverse pristine..HEAD); do
        name=$(name_of "$tree" "$commit")
        in_tree "$tree" format-patch -1 --stdout --zero-commit --no-signature --full-index --no-renames "$commit" |
            sed -e "1,/^\$/ { s/^From: .*/From: $author/; s/^Date: .*/Date: $date/; /^ <.*@.*>\$/d; }" \
                -e "1,/^---\$/ s/^Base: .*/$(base_line)/" >"$folder/$name"
        echo "$name" >>"$folder/series.names"
    done
}

require_work() {
    [[ -d $work/.git ]] || fail "there is no patches/work; type 'patches/tool.sh apply' first"
    [[ ! -d $work/.git/rebase-merge && ! -d $work/.git/rebase-apply ]] ||
        fail "patches/work is in the middle of a rebase; finish it: cd patches/work; git rebase --continue"
    [[ -z $(in_tree "$work" status --porcelain) ]] || fail "patches/work has uncommitted changes"
}

cmd_apply() {
    if [[ -d $work/.git ]] && ! (in_tree "$work" diff --quiet HEAD 2>/dev/null); then
        fail "patches/work has uncommitted changes; commit and export them, or remove the folder"
    fi
    make_pristine "$work" "$(upstream)"
    apply_series "$work"
    echo "patches/work: $(in_tree "$work" rev-list --count pristine..HEAD) patches applied"
}

cmd_edit() {
    local name=${1:-} commit
    [[ -n $name ]] || usage
    series | grep -qx "$(basename "$name")" || fail "series does not name $name"
    cmd_apply
    commit=$(in_tree "$work" rev-list --reverse pristine..HEAD | sed -n "$(series | grep -nx "$(basename "$name")" | cut -d: -f1)p")
    GIT_SEQUENCE_EDITOR="sed -i.orig '1 s/^pick/edit/'" in_tree "$work" rebase --quiet --interactive "$commit~1"
    cat <<NEXT
Now, in patches/work: change files; git add -u; git commit --amend --no-edit; git rebase --continue.
Then: patches/tool.sh export
NEXT
}

cmd_export() {
    require_work
    local folder
    folder=$(mktemp -d)
    export_series "$work" "$folder"
    rm -f "$patches"/*.patch
    cp "$folder"/*.patch "$patches"
    { sed -n '/^#/p' "$patches/series"; cat "$folder/series.names"; } >"$folder/series"
    cp "$folder/series" "$patches/series"
    rm -rf "$folder"
    echo "exported:"
    series
}

# The rows of README's table as "name files...".
readme_rows() {
    sed -n 's/^| *`\([a-z0-9_]*\.patch\)` *| *\([^|]*\)|.*/\1 \2/p' "$patches/README.md" | tr -d '`,' | sed 's/ *$//'
}

check_pin() {
    local lock
    lock=$(python3 - "$root/Cargo.lock" "$(pinned package)" <<'PY'
import re, sys
text = open(sys.argv[1]).read()
block = re.search(r'name = "%s"\nversion = "(.*)"\nsource = .*\nchecksum = "(.*)"' % re.escape(sys.argv[2]), text)
print(*block.groups() if block else ("absent", "absent"))
PY
    )
    [[ $lock == "$(pinned version) $(pinned sha256)" ]] ||
        fail "vendor/upstream.toml pins $(pinned version) $(pinned sha256), but Cargo.lock has $lock"
    grep -q "^$(pinned package) = \"=$(pinned version)\"\$" "$root/Cargo.toml" ||
        fail "Cargo.toml does not ask for $(pinned package) =$(pinned version)"
}

check_version() { # <tree>
    local part version=
    for part in MAJOR MINOR PATCH; do
        version+=.$(sed -n "s/^set(LLAMA_VERSION_$part \([0-9]*\))\$/\1/p" "$1/CMakeLists.txt")
    done
    [[ ${version#.} == "$(pinned llama_cpp_version | sed 's/-dev$//')" ]] ||
        fail "vendor/upstream.toml says llama.cpp $(pinned llama_cpp_version), the source says ${version#.}"
}

check_headers() {
    local name field
    for name in $(series); do
        for field in 'Why:' 'Calls:' 'Base:' 'Remove when:'; do
            sed '/^---$/q' "$patches/$name" | grep -q "^$field ." || fail "$name: the header has no '$field'"
        done
        grep -qxF "$(base_line)" "$patches/$name" || fail "$name: its Base is not '$(base_line)'; export again"
    done
}

check_lists() { # <folder of the re-export>
    diff <(series) "$1/series.names" >/dev/null || fail "series does not list the patches by their subjects' names: $(diff <(series) "$1/series.names" | tr '\n' ' ')"
    diff <(series | sort) <(cd "$patches" && ls -- *.patch | sort) >&2 || fail "series and the *.patch files disagree"
    local name
    diff <(readme_rows) <(for name in $(series); do
        echo "$name" $(sed -n 's,^+++ b/,,p' "$patches/$name")
    done) >&2 || fail "the table in patches/README.md and the patches disagree (name, files, in the order of series)"
}

cmd_check() {
    local tree name
    check_pin
    check_headers
    # not local: the trap outlives this function
    scratch=$(cd "$(mktemp -d)" && pwd -P)
    trap 'rm -rf "$scratch"' EXIT
    tree=$scratch/tree
    mkdir "$scratch/export"
    GIT_CEILING_DIRECTORIES=$scratch make_pristine "$tree" "$(unset VISIPRUNER_LLAMA_CPP; upstream)"
    check_version "$tree"
    apply_series "$tree"
    export_series "$tree" "$scratch/export"
    check_lists "$scratch/export"
    for name in $(series); do
        cmp -s "$patches/$name" "$scratch/export/$name" ||
            fail "$name differs from its re-export (context that drifted, or edited by hand): $(diff "$patches/$name" "$scratch/export/$name" | head -5 | tr '\n' ' ')"
    done
    echo "patches: $(series | wc -l | tr -d ' ') apply strictly and re-export byte by byte"
}

cmd_source() {
    upstream
}

# With the old source in the same repository git can merge where context moved.
cmd_bump() {
    local version=${1:-} package
    [[ -n $version ]] || usage
    package=$(pinned package)
    cmd_apply
    python3 - "$root" "$package" "$version" <<'PY'
import pathlib, re, sys
root, package, version = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
manifest = root / "Cargo.toml"
manifest.write_text(re.sub(r'(?m)^%s = "=.*"$' % re.escape(package), f'{package} = "={version}"', manifest.read_text()))
PY
    (cd "$root" && cargo update --quiet --package "$package")
    python3 - "$root" "$package" "$version" <<'PY'
import pathlib, re, sys
root, package, version = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
lock = (root / "Cargo.lock").read_text()
sha256 = re.search(r'name = "%s"\nversion = "%s"\nsource = .*\nchecksum = "(.*)"' % (re.escape(package), re.escape(version)), lock).group(1)
pin = root / "vendor" / "upstream.toml"
text = re.sub(r'(?m)^version = ".*"$', f'version = "{version}"', pin.read_text())
pin.write_text(re.sub(r'(?m)^sha256 = ".*"$', f'sha256 = "{sha256}"', text))
PY
    local source path
    source=$(upstream)
    in_tree "$work" checkout --quiet -B bump pristine
    for path in "${needed[@]}"; do
        rm -rf "${work:?}/$path"
        cp -R "$source/$path" "$work/$path"
    done
    commit_all "$work" "llama.cpp of $package $version"
    in_tree "$work" tag --force pristine >/dev/null
    echo "Cargo.toml, Cargo.lock and vendor/upstream.toml now pin $package $version (set llama_cpp_version by hand if it moved)."
    if ! (apply_series "$work" --3way); then
        cat >&2 <<NEXT
In patches/work: resolve the conflict; git add -u; git am --continue; then apply the patches that come after it in
series with 'git am --3way'; then patches/tool.sh export and check.
NEXT
        exit 1
    fi
    echo "All patches apply; now: patches/tool.sh export, patches/tool.sh check, make test."
}

case ${1:-} in
    apply | edit | export | source | check | bump) "cmd_$1" "${@:2}" ;;
    *) usage ;;
esac
