#!/usr/bin/env bash
# What users get from the packed crate alone, without network and with vendored registries: a program that depends on it, by path
# and by version, `cargo install`, and the documentation as docs.rs builds it. PROFILE=release for optimized ones.
# Further arguments go to `cargo package`. Downloads what it vendors, once, before.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
profile=${PROFILE:-debug}
# crates.io takes 10 MiB
readonly most_bytes=$((10 * 1024 * 1024 * 95 / 100))

say() { echo "== $*"; }
fail() {
    echo "tests/package.sh: $*" >&2
    exit 1
}

work=$(mktemp -d "${TMPDIR:-/tmp}/visipruner-package.XXXXXX")
trap 'rm -rf "$work"' EXIT

say "pack"
cd "$root"
cargo package --quiet --no-verify --target-dir "$work/packed" "$@"
packed=$(echo "$work"/packed/package/visipruner-*.crate)
bytes=$(wc -c <"$packed")
echo "$(basename "$packed"): $bytes bytes"
((bytes <= most_bytes)) || fail "the package has more than $most_bytes bytes, of the 10 MiB that crates.io takes"
tar -xzf "$packed" -C "$work"
package=$(echo "$work"/visipruner-*)
version=${package##*-}

vendor() { # of the package in this folder, for it
    mkdir -p .cargo
    cargo vendor --quiet --locked vendor-registry
    cat >.cargo/config.toml <<'END'
[source.crates-io]
replace-with = "vendored"

[source.vendored]
directory = "vendor-registry"
END
}

# from here on nothing is downloaded, nor found where it was downloaded before
offline() {
    env RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}" CARGO_HOME="$work/home" CARGO_NET_OFFLINE=true \
        CARGO_TARGET_DIR="$PWD/target" CARGO_PROFILE_DEV_DEBUG=false CARGO_INCREMENTAL=0 "$@"
}

say "a program that depends on it by path"
program=$work/program
mkdir -p "$program/src"
write_manifest() { # where visipruner comes from
    cat >"$program/Cargo.toml" <<END
[package]
name = "program"
version = "0.0.0"
edition = "2024"

[dependencies]
visipruner = { $1, default-features = false, features = ["native"] }
END
}
write_manifest "path = \"$package\""
cat >"$program/src/main.rs" <<'END'
use std::ops::ControlFlow::Continue;

use visipruner::engine::{
    Image, Model, ModelOptions, Projector, ProjectorOptions, Prompt, Request, Session, SessionOptions,
};
use visipruner::policy::PolicyConfig;
use visipruner::policy::config::VisiPrunerConfig;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let models = std::env::args().nth(1).ok_or("where are the models?")?;
    let file = |name: &str| format!("{models}/tiny-llava-shapes-{name}.gguf");
    let model = Model::load(&file("f16"), &ModelOptions::default(), |_| Continue(()))?;
    let mut projector = Projector::load(&file("mmproj-f16"), &model, &ProjectorOptions::default(), |_| Continue(()))?;
    let policy = PolicyConfig::VisiPruner(VisiPrunerConfig::default());
    let mut session = Session::new(&model, SessionOptions { policy, ..SessionOptions::default() })?;
    let grey = Image::from_rgb8(112, 112, vec![128; 112 * 112 * 3])?;
    let request = Request { images: vec![grey], ..Request::new(Prompt::chat("Is there a star?")) };
    let outcome = session.generate(Some(&mut projector), &request, |_| Continue(()))?;
    println!("{}", outcome.text);
    Ok(())
}
END
cp "$package/Cargo.lock" "$program/"
cd "$program"
cargo update --quiet --workspace
vendor
flags=()
[[ $profile == debug ]] || flags=(--profile "$profile")
answer() {
    offline cargo build --quiet --frozen "${flags[@]}"
    [[ -n $("target/$profile/program" "$package/models" 2>/dev/null) ]] || fail "the program answers nothing"
}
answer

say "a program that depends on it by version"
mkdir vendor-registry/visipruner
tar -xzf "$packed" -C vendor-registry/visipruner --strip-components 1
echo "{\"files\":{},\"package\":\"$(sha256sum "$packed" | cut -d' ' -f1)\"}" >vendor-registry/visipruner/.cargo-checksum.json
write_manifest "version = \"=$version\""
offline cargo update --quiet --workspace
answer

say "cargo install"
cd "$package"
vendor
[[ $profile == debug ]] && flags=(--debug)
offline cargo install --quiet --path . --locked --offline --root "$work/installed" "${flags[@]}"
installed=$work/installed/bin/visipruner
[[ $("$installed" --version) == "visipruner $version" ]] || fail "visipruner --version says $("$installed" --version)"
"$installed" demo -p "What color is the star?"

say "documentation as docs.rs builds it"
features=$(cargo metadata --no-deps --format-version 1 | python3 -c '
import json, sys
print(",".join(json.load(sys.stdin)["packages"][0]["metadata"]["docs"]["rs"]["features"]))')
DOCS_RS=1 RUSTDOCFLAGS='-D warnings' offline cargo doc --quiet --no-deps --lib --locked --no-default-features --features "$features"
[[ -f target/doc/visipruner/engine/struct.Session.html ]] || fail "the documentation lacks engine::Session"

say "all is well"
