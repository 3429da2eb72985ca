//! A hundred models, projectors, sessions, answers and stopped prompts leave no more memory in use than there was.
//! Under `make asan`, whose allocator does not count, whatever nothing points to any more is found instead.
#![cfg(all(feature = "native", target_os = "linux", target_env = "gnu"))]

#[path = "common/mod.rs"]
mod common;

use std::ops::ControlFlow::{self, Break, Continue};
use std::process::Command;

use common::process::ARGUMENTS;
use common::random_model::{Arch, RandomLlm, RandomProjector};
use tempfile::TempDir;
use visipruner::engine::{
    Error, Event, IMAGE_MARKERS, Image, Model, ModelOptions, Part, Projector, ProjectorOptions, Prompt,
    Request, Session, SessionOptions,
};
use visipruner::policy::PolicyConfig;
use visipruner::policy::fixed::Schedule;

const N: usize = 100;

/// Rounds after which what is made once and kept is there.
const N_FIRST: usize = 5;

/// Bytes that may be in use in the end and were not before: less than a single byte in each round comes to, for which glibc
/// takes 32.
const SPARE: usize = 1 << 10;

/// Has glibc keep nothing for the thread that freed it: what is kept counts as in use, and fills up over many rounds.
const COUNTED: (&str, &str) = ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0");

/// glibc's `struct mallinfo2`: ten numbers, of which the fifth and eighth (`hblkhd`, `uordblks`) are the bytes in use.
#[repr(C)]
struct MallInfo([usize; 10]);

unsafe extern "C" {
    fn mallinfo2() -> MallInfo;
}

fn bytes_in_use() -> usize {
    // SAFETY: no preconditions; glibc locks its arenas.
    let MallInfo(numbers) = unsafe { mallinfo2() };
    numbers[4] + numbers[7]
}

struct Files(TempDir);

impl Files {
    fn model(&self, name: &str, go_on: bool) -> Result<Model, Error> {
        Model::load(self.0.path().join(name), &ModelOptions::default(), |_| go(go_on))
    }

    fn projector(&self, model: &Model, go_on: bool) -> Result<Projector, Error> {
        let options = ProjectorOptions {
            n_threads: Some(1),
            ..ProjectorOptions::default()
        };
        Projector::load(self.0.path().join("mmproj.gguf"), model, &options, |_| go(go_on))
    }
}

fn go(on: bool) -> ControlFlow<()> {
    if on { Continue(()) } else { Break(()) }
}

fn session(model: &Model, policy: PolicyConfig) -> Session {
    let options = SessionOptions {
        n_ctx: Some(256),
        n_threads: Some(1),
        policy,
        ..SessionOptions::default()
    };
    Session::new(model, options).expect("a session")
}

fn pruned() -> PolicyConfig {
    PolicyConfig::Fixed(Schedule {
        fusion_layer: 2,
        keep: 5,
        exit_from: 5,
        ..Schedule::default()
    })
}

/// Asks about a picture until something happens.
fn ask(
    session: &mut Session,
    projector: &mut Projector,
    text: &str,
    until: fn(&Event<'_>) -> bool,
) -> Result<(), Error> {
    let pixels = (0..40 * 30 * 3).map(|i| (i * 7 % 256) as u8).collect();
    let request = Request {
        images: vec![Image::from_rgb8(40, 30, pixels)?],
        n_predict: 2,
        report_probes: true,
        ..Request::new(Prompt::Raw(Part::split(text, &IMAGE_MARKERS)))
    };
    session
        .generate(Some(projector), &request, |event| go(!until(&event)))
        .map(drop)
}

#[test]
fn a_hundred_of_everything_leave_nothing() {
    let status = Command::new(std::env::current_exe().expect("this program"))
        .args(ARGUMENTS)
        .env(COUNTED.0, COUNTED.1)
        .status()
        .expect("it starts");
    assert!(status.success(), "{status}");
}

#[test]
#[ignore = "its allocator is set when its process starts: run by a_hundred_of_everything_leave_nothing"]
fn in_a_process_of_its_own() {
    a_byte_is_noticed();
    let files = Files(tempfile::tempdir().expect("a folder"));
    let llm = RandomLlm::new(Arch::Llama, 7);
    llm.write(files.0.path().join("model.gguf"));
    RandomProjector::new(8, llm.n_embd()).write(files.0.path().join("mmproj.gguf"));
    std::fs::write(files.0.path().join("cut.gguf"), b"GGUF").expect("writes");
    let model = files.model("model.gguf", true).expect("a model");
    let mut projector = files.projector(&model, true).expect("a projector");

    leave_nothing("models", || {
        drop(files.model("model.gguf", true).expect("a model"))
    });
    leave_nothing("models that are stopped", || {
        _ = files.model("model.gguf", false).expect_err("is stopped")
    });
    leave_nothing("models that are none", || {
        _ = files.model("cut.gguf", true).expect_err("is none")
    });
    leave_nothing("projectors", || {
        drop(files.projector(&model, true).expect("a projector"))
    });
    leave_nothing("projectors that are stopped", || {
        assert!(files.projector(&model, false).is_err());
    });
    for policy in [PolicyConfig::Off, pruned()] {
        leave_nothing("sessions", || drop(session(&model, policy.clone())));
        leave_nothing("answers", || {
            let mut session = session(&model, policy.clone());
            for text in ["<image> What?", "<image> Where?"] {
                ask(&mut session, &mut projector, text, |_| false).expect("an answer");
            }
        });
        leave_nothing("requests that are stopped", || {
            let mut session = session(&model, policy.clone());
            let stops: [fn(&Event<'_>) -> bool; 3] = [
                |event| matches!(event, Event::Encode { done: 1.., .. }),
                |event| matches!(event, Event::Prefill(_)),
                |event| matches!(event, Event::Text(_)),
            ];
            for stop in stops {
                ask(&mut session, &mut projector, "<image> What?", stop).expect("it is stopped");
            }
        });
        let mut session = session(&model, policy.clone());
        leave_nothing("prompts that are too long", || {
            let long = format!("<image>{}", " a".repeat(400));
            ask(&mut session, &mut projector, &long, |_| false).expect_err("it is too long");
        });
    }
}

fn a_byte_is_noticed() {
    let before = bytes_in_use();
    if before == 0 {
        eprintln!("this allocator does not count: what is left is for its own look at leaks");
        return;
    }
    let byte = std::hint::black_box(Box::new(1_u8));
    assert!(bytes_in_use() > before);
    drop(byte);
}

/// After the first rounds there is as much memory in use as after all.
fn leave_nothing(what: &str, mut round: impl FnMut()) {
    for _ in 0..N_FIRST {
        round();
    }
    let before = bytes_in_use();
    for _ in 0..N {
        round();
    }
    let after = bytes_in_use();
    let each = after.saturating_sub(before) / N;
    eprintln!("{what}: {each} bytes each");
    assert!(
        after <= before + SPARE,
        "{what}: {each} bytes each are in use afterwards"
    );
}
