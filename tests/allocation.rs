//! Memory that C++ asks for and does not get, at every point of a small run: the run ends with an error or does without, and
//! the next one answers as ever.
//!
//! The `operator new` of the program is the one below, and fails when it is told to, in the thread that runs. What ggml
//! allocates in C is left alone, for it ends the process: `ggml_malloc` says so, its threads and graph allocator do not look.
//! So is what Rust allocates. `VISIPRUNER_ALLOCATIONS` sets how many points are tried (`make faults`: all).
#![cfg(all(feature = "native", target_os = "linux", target_env = "gnu"))]

#[path = "common/mod.rs"]
mod common;

use std::cell::Cell;
use std::ffi::c_void;
use std::io::Write as _;
use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use common::process::{ARGUMENTS, complaint};
use common::random_model::{Arch, RandomLlm, RandomProjector};
use visipruner::engine::{
    Error, IMAGE_MARKERS, Image, Model, ModelOptions, Part, Projector, ProjectorOptions, Prompt, Request,
    Session, SessionOptions,
};
use visipruner::policy::PolicyConfig;
use visipruner::policy::fixed::Schedule;

/// Points that are tried.
const N_POINTS: usize = 250;

/// What a process is to try: the first point and the step to the next one; models in a folder.
const TASK: &str = "VISIPRUNER_ALLOCATION_TASK";

unsafe extern "C" {
    fn aligned_alloc(alignment: usize, n_bytes: usize) -> *mut c_void;
}

unsafe extern "C-unwind" {
    /// libstdc++'s `std::__throw_bad_alloc()`.
    #[link_name = "_ZSt17__throw_bad_allocv"]
    fn throw_bad_alloc() -> !;
}

thread_local! {
    /// Allocations until one fails; 0: none does.
    static LEFT: Cell<usize> = const { Cell::new(0) };
}

/// Memory that libstdc++'s `operator delete` takes back; NULL if it is this allocation's turn.
fn memory(alignment: usize, n_bytes: usize) -> *mut c_void {
    let left = LEFT.get();
    LEFT.set(left.saturating_sub(1));
    if left == 1 {
        return std::ptr::null_mut();
    }
    // SAFETY: the alignment is a power of two, the size a multiple of it.
    unsafe { aligned_alloc(alignment, n_bytes.max(1).next_multiple_of(alignment)) }
}

fn memory_or_throw(alignment: usize, n_bytes: usize) -> *mut c_void {
    let memory = memory(alignment, n_bytes);
    if memory.is_null() {
        // SAFETY: C++ has called, and catches it.
        unsafe { throw_bad_alloc() }
    }
    memory
}

/// `operator new(size_t)`
#[unsafe(no_mangle)]
extern "C-unwind" fn _Znwm(n_bytes: usize) -> *mut c_void {
    memory_or_throw(16, n_bytes)
}

/// `operator new[](size_t)`
#[unsafe(no_mangle)]
extern "C-unwind" fn _Znam(n_bytes: usize) -> *mut c_void {
    memory_or_throw(16, n_bytes)
}

/// `operator new(size_t, align_val_t)`
#[unsafe(no_mangle)]
extern "C-unwind" fn _ZnwmSt11align_val_t(n_bytes: usize, alignment: usize) -> *mut c_void {
    memory_or_throw(alignment, n_bytes)
}

/// `operator new(size_t, nothrow_t const &)`
#[unsafe(no_mangle)]
extern "C-unwind" fn _ZnwmRKSt9nothrow_t(n_bytes: usize, _: *const c_void) -> *mut c_void {
    memory(16, n_bytes)
}

/// A model and its projector.
struct Files(PathBuf);

impl Files {
    fn write(folder: &Path) {
        let llm = RandomLlm::new(Arch::Llama, 7);
        llm.write(folder.join("model.gguf"));
        RandomProjector::new(8, llm.n_embd()).write(folder.join("mmproj.gguf"));
    }

    /// Loads both, asks two questions about a picture, pruned, and lets go of everything.
    fn answers(&self) -> Result<String, Error> {
        let model = Model::load(self.0.join("model.gguf"), &ModelOptions::default(), |_| {
            Continue(())
        })?;
        let options = ProjectorOptions {
            n_threads: Some(1),
            ..ProjectorOptions::default()
        };
        let mut projector = Projector::load(self.0.join("mmproj.gguf"), &model, &options, |_| Continue(()))?;
        let schedule = Schedule {
            fusion_layer: 2,
            keep: 5,
            exit_from: 5,
            ..Schedule::default()
        };
        let options = SessionOptions {
            n_ctx: Some(128),
            n_threads: Some(1),
            policy: PolicyConfig::Fixed(schedule),
            ..SessionOptions::default()
        };
        let mut session = Session::new(&model, options)?;
        let mut answers = String::new();
        for question in ["<image> What?", "<image> Where is it?"] {
            let pixels = (0..40 * 30 * 3).map(|i| (i * 7 % 256) as u8).collect();
            let request = Request {
                images: vec![Image::from_rgb8(40, 30, pixels)?],
                n_predict: 3,
                ..Request::new(Prompt::Raw(Part::split(question, &IMAGE_MARKERS)))
            };
            let outcome = session.generate(Some(&mut projector), &request, |_| Continue(()))?;
            answers.push_str(&outcome.text);
        }
        Ok(answers)
    }
}

#[test]
fn a_run_without_memory_is_an_error() {
    let n_points = std::env::var("VISIPRUNER_ALLOCATIONS").map_or(N_POINTS, |n| n.parse().expect("a number"));
    let folder = tempfile::tempdir().expect("a folder");
    Files::write(folder.path());
    let counted = try_points(folder.path(), 0, 1);
    let said = String::from_utf8_lossy(&counted.stdout);
    let n_all = said
        .lines()
        .find_map(|line| line.strip_prefix("allocations ")?.parse::<usize>().ok());
    let n_all = n_all.unwrap_or_else(|| panic!("{said}\n{}", String::from_utf8_lossy(&counted.stderr)));
    let step = (n_all / n_points).max(1);
    let (mut next, mut died, mut n_tried) = (1, Vec::new(), 0);
    while next <= n_all {
        let output = try_points(folder.path(), next, step);
        let said = String::from_utf8_lossy(&output.stdout);
        let points: Vec<usize> = said
            .lines()
            .filter_map(|line| line.strip_prefix("point ")?.parse().ok())
            .collect();
        n_tried += points.len();
        if output.status.success() {
            break;
        }
        let last = *points
            .last()
            .unwrap_or_else(|| panic!("{said}\n{}", String::from_utf8_lossy(&output.stderr)));
        died.push(format!("{last}: {}", complaint(&output, 6)));
        next = last + step;
    }
    eprintln!(
        "{n_tried} of {n_all} allocations failed, {} ended the process",
        died.len()
    );
    assert!(n_tried > n_points / 2, "{n_tried}");
    assert!(died.is_empty(), "{}", died.join("\n"));
}

fn try_points(folder: &Path, first: usize, step: usize) -> Output {
    Command::new(std::env::current_exe().expect("this program"))
        .args(ARGUMENTS)
        .env(TASK, format!("{first} {step} {}", folder.display()))
        .output()
        .expect("it starts")
}

#[test]
#[ignore = "what it tries may end its process: run in one of its own by a_run_without_memory_is_an_error"]
fn in_a_process_of_its_own() {
    let task = std::env::var(TASK).expect("a task");
    let [first, step, folder] = task.splitn(3, ' ').collect::<Vec<_>>()[..] else {
        panic!("{task:?} is no task");
    };
    let [first, step] = [first, step].map(|n| n.parse::<usize>().expect("a number"));
    println!(); // ends what the harness has begun
    let files = Files(folder.into());
    let expected = files.answers().expect("with memory there is an answer");
    if first == 0 {
        LEFT.set(usize::MAX);
        files.answers().expect("with memory there is an answer");
        println!("allocations {}", usize::MAX - LEFT.replace(0));
        return;
    }
    for point in (first..).step_by(step) {
        println!("point {point}");
        std::io::stdout().flush().expect("prints");
        LEFT.set(point);
        let answers = files.answers();
        if LEFT.replace(0) > 0 {
            break; // there are no so many allocations
        }
        match answers {
            Ok(answers) => assert_eq!(answers, expected, "an allocation was done without"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        if point / step % 10 == 0 {
            assert_eq!(
                files.answers().expect("an answer"),
                expected,
                "after allocation {point}"
            );
        }
    }
}
