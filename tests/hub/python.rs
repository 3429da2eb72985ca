//! The cache is the one of Python's `huggingface_hub`: laid out by hand, and, where it is installed, by itself.

use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};
use std::process::Command;

use visipruner::hub::Source;

use super::server::{Repo, sha256};
use super::{REPO, Setup, bytes, read};

const MODEL: &str = "q4/llava-Q4_K_M.gguf";
const PROJECTOR: &str = "mmproj-f16.gguf";

fn repo() -> Repo {
    Repo::new(5)
        .lfs(MODEL, &bytes(4000, 1))
        .lfs(PROJECTOR, &bytes(600, 2))
        .small("config.json", b"{}")
}

#[cfg(unix)]
#[test]
fn a_cache_that_python_has_left_is_understood() {
    use std::fs;
    use std::os::unix::fs::symlink;

    let setup = Setup::new();
    let repo = repo();
    let snapshot = setup.cached("snapshots").join(repo.commit());
    for folder in ["blobs", "refs"] {
        fs::create_dir_all(setup.cached(folder)).expect("a folder");
    }
    fs::create_dir_all(snapshot.join("q4")).expect("a folder");
    for (path, up, content) in [
        (MODEL, "../../..", bytes(4000, 1)),
        (PROJECTOR, "../..", bytes(600, 2)),
    ] {
        let blob = sha256(&content);
        fs::write(setup.cached("blobs").join(&blob), content).expect("writes");
        symlink(Path::new(up).join("blobs").join(blob), snapshot.join(path)).expect("links");
    }
    symlink("../../blobs/gone", snapshot.join("llava-Q2_K.gguf")).expect("links");
    fs::write(setup.cached("refs/main"), repo.commit()).expect("writes");

    let source = Source::parse(REPO).expect("a source");
    let files = source
        .fetch(&setup.offline(), |_| Continue(()))
        .expect("is there");
    assert_eq!(files.model, snapshot.join(MODEL));
    assert_eq!(files.projector, Some(snapshot.join(PROJECTOR)));
    let gone = source.clone().with_file("llava-Q2_K.gguf");
    assert!(gone.fetch(&setup.offline(), |_| Continue(())).is_err());

    setup.hub.put(REPO, repo);
    assert_eq!(setup.fetch(REPO).expect("is there"), files);
    assert!(setup.hub.seen().iter().all(|request| !request.is_store));
}

/// A Python that has `huggingface_hub`: the one of the checks against transformers, or the system's.
fn python() -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/transformers/venv/bin/python");
    let known = [
        std::env::var_os("VISIPRUNER_PYTHON").map(PathBuf::from),
        Some(ours),
        Some("python3".into()),
    ];
    known.into_iter().flatten().find(|python| {
        let asked = Command::new(python)
            .args(["-c", "import huggingface_hub"])
            .output();
        asked.is_ok_and(|output| output.status.success())
    })
}

#[test]
fn both_find_what_the_other_has_downloaded() {
    let Some(python) = python() else {
        eprintln!("skipped: no Python with huggingface_hub (set VISIPRUNER_PYTHON to one)");
        return;
    };
    let setup = Setup::new();
    setup.hub.put(REPO, repo());
    let download = |path: &str, is_offline: bool| {
        let code = "import sys; from huggingface_hub import hf_hub_download as get; print(get(sys.argv[1], sys.argv[2]))";
        let output = Command::new(&python)
            .args(["-c", code, REPO, path])
            .env("HF_ENDPOINT", setup.hub.endpoint())
            .env("HF_HUB_CACHE", &setup.options.cache)
            .env("HF_HOME", setup.folder.path())
            .env("HF_HUB_OFFLINE", if is_offline { "1" } else { "0" })
            .env("NO_PROXY", "127.0.0.1")
            .output()
            .expect("starts");
        let text = |bytes| String::from_utf8(bytes).expect("is text");
        assert!(output.status.success(), "{}", text(output.stderr));
        PathBuf::from(text(output.stdout).trim())
    };
    let projector = download(PROJECTOR, false);
    setup.hub.seen();
    let files = setup.fetch(REPO).expect("is fetched");
    assert_eq!(files.projector, Some(projector.clone()));
    let seen = setup.hub.seen();
    assert!(
        !seen.iter().any(|request| request.target.contains(PROJECTOR)),
        "{seen:?}"
    );
    assert_eq!(download(MODEL, true), files.model);
    assert_eq!(download(PROJECTOR, true), projector);
    assert_eq!(read(&files.model), bytes(4000, 1));
    // as does another download of what is there
    setup.hub.seen();
    assert_eq!(download(MODEL, false), files.model);
    assert!(setup.hub.seen().iter().all(|request| !request.is_store));
}
