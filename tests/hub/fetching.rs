//! What is fetched, and what is found again.

use std::ops::ControlFlow::Continue;

use visipruner::hub::{Progress, Source};

use super::server::{Repo, sha256};
use super::{REPO, Setup, bytes, names, read};

/// A repository of several quantizations and projectors.
fn repo(no: u8) -> Repo {
    Repo::new(no)
        .small("README.md", b"# LLaVA")
        .lfs("llava-Q4_K_M.gguf", &bytes(3000, 4))
        .lfs("llava-Q8_0.gguf", &bytes(5000, 8))
        .lfs("mmproj-llava-Q8_0.gguf", &bytes(700, 1))
        .lfs("mmproj-llava-f16.gguf", &bytes(900, 2))
        .small("llava.policy.toml", b"policy = \"off\"\n")
}

#[test]
fn a_model_with_its_projector_and_policy() {
    let setup = Setup::new();
    let repo = repo(1);
    let commit = repo.commit().to_owned();
    setup.hub.put(REPO, repo);
    let files = setup.fetch(REPO).expect("is fetched");
    let snapshot = setup.cached("snapshots").join(&commit);
    assert_eq!(files.model, snapshot.join("llava-Q4_K_M.gguf"));
    assert_eq!(files.projector, Some(snapshot.join("mmproj-llava-Q8_0.gguf")));
    assert_eq!(read(&files.model), bytes(3000, 4));
    assert_eq!(read(&files.projector.expect("a projector")), bytes(700, 1));
    assert_eq!(
        names(&snapshot),
        ["llava-Q4_K_M.gguf", "llava.policy.toml", "mmproj-llava-Q8_0.gguf"]
    );
    assert_eq!(read(&setup.cached("refs/main")), commit.as_bytes());
    assert!(setup.blobs().contains(&sha256(&bytes(3000, 4))));
    assert_eq!(setup.blobs().len(), 3);
    #[cfg(unix)]
    assert_eq!(
        std::fs::read_link(&files.model).expect("a link"),
        std::path::Path::new("../../blobs").join(sha256(&bytes(3000, 4)))
    );
}

#[test]
fn quantizations_files_and_models_alone() {
    let mut setup = Setup::new();
    setup
        .hub
        .put(REPO, repo(1).lfs("q2/llava-Q2_K.gguf", &bytes(100, 9)));
    let file = |path: &std::path::Path| {
        path.file_name()
            .expect("a name")
            .to_str()
            .expect("text")
            .to_owned()
    };
    let files = setup.fetch(&format!("{REPO}:q8_0")).expect("is fetched");
    assert_eq!(file(&files.model), "llava-Q8_0.gguf");
    let source = Source::parse(REPO)
        .expect("a source")
        .with_file("q2/llava-Q2_K.gguf");
    let files = source
        .fetch(&setup.options, |_| Continue(()))
        .expect("is fetched");
    assert!(files.model.ends_with("q2/llava-Q2_K.gguf"));
    assert_eq!(read(&files.model), bytes(100, 9));
    assert_eq!(
        file(&files.projector.expect("one around it")),
        "mmproj-llava-Q8_0.gguf"
    );
    setup.options.with_projector = false;
    assert_eq!(setup.fetch(REPO).expect("is fetched").projector, None);
}

#[test]
fn all_parts_of_a_split_model() {
    let setup = Setup::new();
    let part = |no: u32| format!("q8/llava-Q8_0-{no:05}-of-00003.gguf");
    let repo = (1..=3).fold(Repo::new(2), |repo, no| repo.lfs(&part(no), &bytes(2000, no)));
    setup.hub.put(REPO, repo.clone());
    let files = setup.fetch(REPO).expect("is fetched");
    assert!(files.model.ends_with(part(1)), "{files:?}");
    for no in 1..=3 {
        let path = files.model.with_file_name(part(no).trim_start_matches("q8/"));
        assert_eq!(read(&path), bytes(2000, no));
    }
    let source = Source::parse(REPO).expect("a source");
    let offline = source
        .fetch(&setup.offline(), |_| Continue(()))
        .expect("is there");
    assert_eq!(offline, files);

    std::fs::remove_file(files.model.with_file_name("llava-Q8_0-00002-of-00003.gguf")).expect("is removed");
    let error = source
        .fetch(&setup.offline(), |_| Continue(()))
        .expect_err("fails")
        .to_string();
    assert!(
        error.contains("q8/llava-Q8_0-00002-of-00003.gguf is not in the cache"),
        "{error}"
    );
}

#[test]
fn nothing_is_downloaded_twice() {
    let setup = Setup::new();
    setup.hub.put(REPO, repo(1));
    let first = setup.fetch(REPO).expect("is fetched");
    setup.hub.seen();
    assert_eq!(setup.fetch(REPO).expect("is there"), first);
    let seen = setup.hub.seen();
    assert_eq!(seen.len(), 1, "{seen:?}");
    assert!(seen[0].target.ends_with("/revision/main"));

    // another commit with the same contents: the names are new
    setup.hub.put(REPO, repo(2));
    let second = setup.fetch(REPO).expect("is fetched");
    assert_ne!(second.model, first.model);
    assert_eq!(read(&second.model), read(&first.model));
    let seen = setup.hub.seen();
    assert!(
        seen.iter()
            .all(|request| !request.is_store && request.method != "GET" || request.target.ends_with("main")),
        "{seen:?}"
    );
}

#[test]
fn offline_asks_nobody() {
    let setup = Setup::new();
    setup.hub.put(REPO, repo(1));
    let source = Source::parse(REPO).expect("a source");
    let error = source
        .fetch(&setup.offline(), |_| Continue(()))
        .expect_err("fails")
        .to_string();
    assert!(
        error.contains("user/llava-GGUF is not in the cache") && error.contains("offline"),
        "{error}"
    );
    let files = setup.fetch(REPO).expect("is fetched");
    setup.hub.seen();
    let mut n_said = 0;
    let offline = source.fetch(&setup.offline(), |_| {
        n_said += 1;
        Continue(())
    });
    assert_eq!(offline.expect("is there"), files);
    assert_eq!((setup.hub.seen(), n_said), (Vec::new(), 0));
    let other = Source::parse(&format!("{REPO}:Q8_0")).expect("a source");
    let error = other
        .fetch(&setup.offline(), |_| Continue(()))
        .expect_err("fails")
        .to_string();
    assert!(
        error.contains("user/llava-GGUF:Q8_0 is not in the cache"),
        "{error}"
    );
}

#[test]
fn a_hub_that_does_not_answer_is_no_obstacle() {
    let mut setup = Setup::new();
    setup.hub.put(REPO, repo(1));
    let files = setup.fetch(REPO).expect("is fetched");
    let closed = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = closed.local_addr().expect("an address");
    drop(closed);
    let unreachable = |setup: &Setup| {
        let mut said = Vec::new();
        let fetched = setup.fetch_with(REPO, |progress| {
            if let Progress::FromCache { error } = progress {
                said.push(error.to_string());
            }
            Continue(())
        });
        (fetched, said)
    };
    setup.options.endpoint = format!("http://{address}");
    let (fetched, said) = unreachable(&setup);
    assert_eq!(fetched.expect("is there"), files);
    assert!(said[0].contains("cannot reach") && said.len() == 1, "{said:?}");

    setup.options.endpoint = setup.hub.endpoint();
    setup.hub.always(503, "503 Service Unavailable");
    let (fetched, said) = unreachable(&setup);
    assert_eq!(fetched.expect("is there"), files);
    assert!(said[0].contains("503"), "{said:?}");

    setup.options.cache = setup.folder.path().join("other");
    let (fetched, said) = unreachable(&setup);
    assert!(fetched.expect_err("fails").is_unreachable() && said.is_empty());
}

#[test]
fn what_comes_is_told_byte_by_byte() {
    let setup = Setup::new();
    let content = bytes(1_000_000, 5);
    setup.hub.put(REPO, Repo::new(1).lfs("a b+c.gguf", &content));
    let (mut asked, mut came, mut checked) = (0, Vec::new(), Vec::new());
    let files = setup.fetch_with(REPO, |progress| {
        match progress {
            Progress::Asking => asked += 1,
            Progress::Downloading { file, done, total } => {
                assert_eq!((file, total), ("a b+c.gguf", 1_000_000));
                came.push(done);
            }
            Progress::Checking { done, .. } => checked.push(done),
            other => panic!("{other:?}"),
        }
        Continue(())
    });
    assert_eq!(read(&files.expect("is fetched").model), content);
    assert_eq!(asked, 2);
    for said in [&came, &checked] {
        assert!(said.is_sorted() && said.last() == Some(&1_000_000), "{said:?}");
    }
    assert!(came[0] == 0 && came.len() > 3, "{came:?}");
}
