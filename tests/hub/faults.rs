//! What goes wrong on the way.

use std::ops::ControlFlow::{Break, Continue};

use visipruner::hub::{Error, Progress};

use super::server::{Fault, Repo, sha256};
use super::{REPO, Setup, bytes, read};

const FILE: &str = "llava.gguf";

fn setup(content: &[u8]) -> Setup {
    let setup = Setup::new();
    setup.hub.put(REPO, Repo::new(7).lfs(FILE, content));
    setup
}

/// The ranges that the store was asked for.
fn ranges(setup: &Setup) -> Vec<Option<String>> {
    let seen = setup.hub.seen().into_iter();
    seen.filter(|request| request.is_store)
        .map(|request| request.range)
        .collect()
}

#[test]
fn a_connection_that_breaks_off_is_taken_up_again() {
    let content = bytes(400_000, 1);
    let setup = setup(&content);
    setup.hub.fail(
        FILE,
        &[
            Fault::BreakAfter(150_000),
            Fault::BreakAfter(0),
            Fault::BreakAfter(100_000),
        ],
    );
    let mut reasons = Vec::new();
    let files = setup.fetch_with(REPO, |progress| {
        if let Progress::Retrying { file, reason } = progress {
            assert_eq!(file, FILE);
            reasons.push(reason.to_owned());
        }
        Continue(())
    });
    assert_eq!(read(&files.expect("is fetched").model), content);
    assert!(!reasons.is_empty());
    let from = |n: usize| Some(format!("bytes={n}-"));
    assert_eq!(
        ranges(&setup),
        [None, from(150_000), from(150_000), from(250_000)]
    );
    assert_eq!(setup.blobs(), [sha256(&content)]);
}

#[test]
fn one_that_breaks_off_again_and_again_is_taken_up_the_next_time() {
    let content = bytes(50_000, 2);
    let setup = setup(&content);
    let mut faults = vec![Fault::BreakAfter(20_000)];
    faults.extend([Fault::BreakAfter(0); 4]);
    setup.hub.fail(FILE, &faults);
    let error = setup.fetch(REPO).expect_err("breaks off");
    assert!(
        matches!(
            error,
            Error::BrokeOff {
                done: 20_000,
                total: 50_000,
                ..
            }
        ),
        "{error}"
    );
    let digest = sha256(&content);
    assert_eq!(setup.blobs(), [format!("{digest}.incomplete")]);
    assert!(!setup.cached("refs").exists() && !setup.cached("snapshots").exists());
    ranges(&setup);

    let files = setup.fetch(REPO).expect("is fetched");
    assert_eq!(read(&files.model), content);
    assert_eq!(ranges(&setup), [Some("bytes=20000-".to_owned())]);
    assert_eq!(setup.blobs(), [digest]);
}

#[test]
fn a_store_that_is_busy_is_asked_again() {
    let content = bytes(1000, 3);
    let setup = setup(&content);
    setup.hub.fail(FILE, &[Fault::Busy]);
    assert_eq!(read(&setup.fetch(REPO).expect("is fetched").model), content);
    assert_eq!(ranges(&setup).len(), 2);
}

#[test]
fn a_store_without_ranges_begins_again() {
    let content = bytes(60_000, 4);
    let setup = setup(&content);
    setup
        .hub
        .fail(FILE, &[Fault::BreakAfter(40_000), Fault::IgnoreRange]);
    assert_eq!(read(&setup.fetch(REPO).expect("is fetched").model), content);
    assert_eq!(ranges(&setup), [None, Some("bytes=40000-".to_owned())]);
}

#[test]
fn damaged_bytes_get_no_name() {
    let content = bytes(5000, 5);
    let setup = setup(&content);
    setup.hub.fail(FILE, &[Fault::Damage]);
    let error = setup.error(REPO);
    assert!(
        error.contains("arrived damaged") && error.contains(&sha256(&content)),
        "{error}"
    );
    assert_eq!(setup.blobs(), Vec::<String>::new());
    assert!(!setup.cached("snapshots").exists());
    assert_eq!(read(&setup.fetch(REPO).expect("is fetched").model), content);
}

#[test]
fn a_beginning_that_is_not_of_this_file_is_thrown_away() {
    let content = bytes(5000, 6);
    for beginning in [bytes(2000, 99), bytes(5000, 99), bytes(9000, 99)] {
        let setup = setup(&content);
        let blobs = setup.cached("blobs");
        std::fs::create_dir_all(&blobs).expect("a folder");
        std::fs::write(blobs.join(format!("{}.incomplete", sha256(&content))), &beginning).expect("writes");
        assert_eq!(read(&setup.fetch(REPO).expect("is fetched").model), content);
        assert_eq!(setup.blobs(), [sha256(&content)]);
    }
}

#[test]
fn half_a_content_under_a_whole_ones_name_is_fetched_again() {
    let content = bytes(5000, 7);
    let setup = setup(&content);
    let blobs = setup.cached("blobs");
    std::fs::create_dir_all(&blobs).expect("a folder");
    std::fs::write(blobs.join(sha256(&content)), &content[..2000]).expect("writes");
    assert_eq!(read(&setup.fetch(REPO).expect("is fetched").model), content);
}

#[test]
fn a_content_that_is_gone_is_fetched_again() {
    let content = bytes(5000, 8);
    let setup = setup(&content);
    setup.fetch(REPO).expect("is fetched");
    std::fs::remove_file(setup.cached("blobs").join(sha256(&content))).expect("is removed");
    assert_eq!(read(&setup.fetch(REPO).expect("is fetched").model), content);
}

#[test]
fn what_the_caller_stops_is_kept() {
    let content = bytes(2_000_000, 9);
    let setup = setup(&content);
    let stopped = setup.fetch_with(REPO, |progress| match progress {
        Progress::Downloading { done: 500_000.., .. } => Break(()),
        _ => Continue(()),
    });
    let error = stopped.expect_err("is stopped");
    assert!(matches!(error, Error::Stopped { .. }), "{error}");
    let [incomplete] = &setup.blobs()[..] else {
        panic!("{:?}", setup.blobs());
    };
    assert_eq!(incomplete, &format!("{}.incomplete", sha256(&content)));
    let n = read(&setup.cached("blobs").join(incomplete)).len();
    assert!((500_000..2_000_000).contains(&n), "{n}");
    ranges(&setup);
    assert_eq!(read(&setup.fetch(REPO).expect("is fetched").model), content);
    assert_eq!(ranges(&setup), [Some(format!("bytes={n}-"))]);

    let at_once = setup.fetch_with("user/other", |_| Break(()));
    assert!(matches!(at_once, Err(Error::Stopped { .. })));
}

#[test]
fn two_at_the_same_time_download_once() {
    let content = bytes(3_000_000, 10);
    let setup = setup(&content);
    let fetched = std::thread::scope(|scope| {
        let fetch = || scope.spawn(|| setup.fetch(REPO).expect("is fetched"));
        let running = [fetch(), fetch(), fetch()];
        running.map(|thread| thread.join().expect("ends"))
    });
    assert!(fetched.iter().all(|files| read(&files.model) == content));
    assert_eq!(ranges(&setup), [None]);
}

#[test]
fn many_that_find_the_same_contents_get_in_nobodys_way() {
    let setup = Setup::new();
    for no in 1..20 {
        let repo = Repo::new(no)
            .lfs(FILE, &bytes(100, 1))
            .lfs("mmproj.gguf", &bytes(50, 2));
        setup
            .hub
            .put(REPO, repo.small("a.policy.toml", b"policy = \"off\"\n"));
        let fetched = std::thread::scope(|scope| {
            let running = [(); 8].map(|()| scope.spawn(|| setup.fetch(REPO).expect("is fetched")));
            running.map(|thread| thread.join().expect("ends"))
        });
        for files in &fetched {
            assert_eq!(files, &fetched[0]);
            assert_eq!(read(&files.model), bytes(100, 1));
        }
    }
    let files = setup.fetch(REPO).expect("is there");
    let beside = super::names(files.model.parent().expect("a folder"));
    assert_eq!(beside, ["a.policy.toml", FILE, "mmproj.gguf"]);
    assert_eq!(setup.blobs().len(), 3);
    assert_eq!(super::names(&setup.cached("refs")), ["main"]);
}

#[test]
fn another_process_is_waited_for_until_the_caller_has_enough() {
    let content = bytes(1000, 11);
    let setup = setup(&content);
    let locks = setup.options.cache.join(".locks/models--user--llava-GGUF");
    std::fs::create_dir_all(&locks).expect("a folder");
    let lock = std::fs::File::create(locks.join(format!("{}.lock", sha256(&content)))).expect("a file");
    lock.lock().expect("is locked");
    let mut n_waited = 0;
    let stopped = setup.fetch_with(REPO, |progress| {
        n_waited += u32::from(matches!(progress, Progress::Waiting { file: FILE }));
        if n_waited < 3 { Continue(()) } else { Break(()) }
    });
    assert!(matches!(stopped, Err(Error::Stopped { .. })));
    drop(lock);
    assert_eq!(read(&setup.fetch(REPO).expect("is fetched").model), content);
}
