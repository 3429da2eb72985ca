//! The engine from end to end, on small random models: answers, events, cancellation, and what bad input gets.
#![cfg(feature = "native")]

mod answers;
mod before_model;
mod cache;
#[path = "../common/mod.rs"]
mod common;
mod devices;
#[cfg(feature = "lab")]
mod inspecting;
mod memory;
mod pruning;
mod quantize;
mod refusals;
mod remembering;
mod stopping;

use std::ops::ControlFlow::{self, Break, Continue};
use std::path::{Path, PathBuf};

use common::devices::{Device, test_device};
use common::random_model::{Arch, RandomLlm, RandomProjector};
use serde_json::{Value, json};
use tempfile::TempDir;
use visipruner::engine::{
    self, CancelHandle, Constraint, Error, Event, FlashAttention, IMAGE_MARKERS, Image, KvType, Model,
    ModelOptions, Outcome, Part, Projector, ProjectorOptions, Prompt, Request, Sampling, Session,
    SessionOptions, StopReason,
};
use visipruner::policy::PolicyConfig;
use visipruner::policy::config::VisiPrunerConfig;
use visipruner::policy::dense_staged::DenseStaged;
use visipruner::policy::fixed::Schedule;

/// A raw prompt with places for images.
fn marked(text: &str) -> Prompt {
    Prompt::Raw(Part::split(text, &IMAGE_MARKERS))
}

/// A random model and its projector, on disk and loaded.
struct Pair {
    folder: TempDir,
    model: Model,
    projector: Projector,
}

impl Pair {
    /// Qwen2-VL with a projector of its own kind, the others with LLaVA's.
    fn of_kind(arch: Arch) -> Self {
        if arch == Arch::Qwen2Vl {
            Self::with_projector(arch, |n_embd| RandomProjector::qwen2vl(8, n_embd))
        } else {
            Self::new(arch)
        }
    }

    fn new(arch: Arch) -> Self {
        Self::with_projector(arch, |n_embd| RandomProjector::new(8, n_embd))
    }

    fn with_projector(arch: Arch, projector: impl FnOnce(usize) -> RandomProjector) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let llm = RandomLlm::new(arch, 7);
        llm.write(folder.path().join("model.gguf"));
        projector(llm.n_embd()).write(folder.path().join("mmproj.gguf"));
        let model = load(&folder.path().join("model.gguf")).expect("the model loads");
        let projector =
            load_projector(&folder.path().join("mmproj.gguf"), &model).expect("the projector loads");
        Self {
            folder,
            model,
            projector,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn session(&self, options: SessionOptions) -> Session {
        Session::new(
            &self.model,
            SessionOptions {
                n_threads: Some(1),
                ..options
            },
        )
        .expect("a session")
    }
}

fn load(path: &Path) -> Result<Model, Error> {
    Model::load(path, &ModelOptions::default(), |_| Continue(()))
}

fn load_projector(path: &Path, model: &Model) -> Result<Projector, Error> {
    let options = ProjectorOptions {
        n_threads: Some(1),
        ..ProjectorOptions::default()
    };
    Projector::load(path, model, &options, |_| Continue(()))
}

/// A picture of coloured noise.
fn picture(width: u32, height: u32, seed: u32) -> Image {
    let mut state = seed.wrapping_mul(2_654_435_761).max(1);
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    let data = (0..width as usize * height as usize * 3)
        .map(|_| byte())
        .collect();
    Image::from_rgb8(width, height, data).expect("a picture")
}

fn question() -> Request {
    Request {
        images: vec![picture(40, 30, 1)],
        n_predict: 12,
        report_logits: true,
        report_probes: true,
        ..Request::new(marked("Look at this: <image> What colour is it? It is"))
    }
}

fn fixed(fusion_layer: usize, keep: usize, exit_from: usize) -> PolicyConfig {
    PolicyConfig::Fixed(Schedule {
        fusion_layer,
        keep,
        exit_from,
        ..Schedule::default()
    })
}

fn ignore(_: Event<'_>) -> ControlFlow<()> {
    Continue(())
}

fn with_policy(policy: PolicyConfig) -> SessionOptions {
    SessionOptions {
        policy,
        ..SessionOptions::default()
    }
}

/// Answers to [`question`].
trait Asked {
    fn answer(&mut self, projector: &mut Projector) -> Outcome;
}

impl Asked for Session {
    fn answer(&mut self, projector: &mut Projector) -> Outcome {
        self.generate(Some(projector), &question(), ignore)
            .expect("an answer")
    }
}
