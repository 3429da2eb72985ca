//! Models with the true shape of known ones and random weights, to measure speed without downloading a model.
//!
//! The speed of a model does not depend on the values of its weights: every weight is read and multiplied, whatever it
//! is. What does matter is which rows run through which layers. Random weights decide nothing sensible there, so a
//! measurement gives a schedule itself ([`Schedule`](crate::policy::fixed::Schedule)).
//!
//! ```no_run
//! use std::ops::ControlFlow;
//! use visipruner::synth::{Shape, Synth};
//!
//! let shape = Shape::named("tinyllama-1.1b").expect("it is known");
//! let files = Synth::new(shape).write("/tmp", false, |_| ControlFlow::Continue(()))?;
//! println!("{} {}", files.model.display(), files.mmproj.display());
//! # Ok::<(), visipruner::synth::Error>(())
//! ```
//!
//! [`Shape`] has the sizes, `llm` and `mmproj` say which tensors a file has, `mix` which types they have, `blocks` makes
//! their weights.
#![forbid(unsafe_code)]

mod blocks;
mod file;
mod llm;
mod mix;
mod mmproj;
mod plan;
mod shapes;
mod vocabulary;

#[cfg(test)]
mod tests;

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub use mix::Mix;
pub use plan::Plan;
pub use shapes::{LlmSizes, ProjectorKind, SHAPES, Shape, VisionSizes};
pub use vocabulary::MIN_VOCAB;

use file::Part;

/// A pair of files that is to be made.
#[derive(Debug, Clone, Copy)]
pub struct Synth<'a> {
    shape: &'a Shape,
    n_layer: usize,
    mix: Mix,
    seed: u64,
}

/// The files that were written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The language model.
    pub model: PathBuf,
    /// Its projector.
    pub mmproj: PathBuf,
}

/// How far writing is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes written, of both files together.
    pub n_bytes: u64,
    /// Bytes that both files will have.
    pub n_bytes_total: u64,
}

/// What keeps files from being made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No layers, or more than the model has.
    #[error("{shape} has {n_layer} layers: {asked} is not possible, give 1 to {n_layer}")]
    Layers {
        /// The shape's name.
        shape: &'static str,
        /// Its layers.
        n_layer: usize,
        /// The layers asked for.
        asked: usize,
    },

    /// A file of that name is there, and is not to be replaced.
    #[error("{} is there already: give another folder, or let it be replaced", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },

    /// The operating system refused.
    #[error("cannot {action} {}, no half file is left behind", path.display())]
    Io {
        /// What was attempted: "create the folder", "write".
        action: &'static str,
        /// The folder or file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// The listener wanted no more.
    #[error("stopped, nothing is left behind")]
    Stopped,
}

impl Error {
    fn write(path: &Path, source: io::Error) -> Error {
        Error::Io {
            action: "write",
            path: path.to_owned(),
            source,
        }
    }
}

impl<'a> Synth<'a> {
    /// All layers, `Q4_K_M`, seed 0.
    pub fn new(shape: &'a Shape) -> Synth<'a> {
        Synth {
            shape,
            n_layer: shape.llm.n_layer,
            mix: Mix::Q4_K_M,
            seed: 0,
        }
    }

    /// Only the first `n_layer` layers of the language model. The projector stays whole.
    ///
    /// # Errors
    /// [`Error::Layers`]
    pub fn with_layers(self, n_layer: usize) -> Result<Synth<'a>, Error> {
        let n_layer_true = self.shape.llm.n_layer;
        if (1..=n_layer_true).contains(&n_layer) {
            Ok(Synth { n_layer, ..self })
        } else {
            Err(Error::Layers {
                shape: self.shape.name,
                n_layer: n_layer_true,
                asked: n_layer,
            })
        }
    }

    /// Another quantization of the language model. The projector is F16.
    pub fn with_mix(self, mix: Mix) -> Synth<'a> {
        Synth { mix, ..self }
    }

    /// Other random weights.
    pub fn with_seed(self, seed: u64) -> Synth<'a> {
        Synth { seed, ..self }
    }

    /// The language model's file.
    pub fn llm(&self) -> Plan {
        llm::plan(self)
    }

    /// The projector's file.
    pub fn mmproj(&self) -> Plan {
        mmproj::plan(self)
    }

    /// `general.name`
    fn name(&self) -> String {
        let Shape { name, llm, .. } = self.shape;
        if self.n_layer == llm.n_layer {
            format!("synthetic {name}")
        } else {
            format!("synthetic {name}, {} of {} layers", self.n_layer, llm.n_layer)
        }
    }

    /// `general.description`
    fn description(&self) -> String {
        format!(
            "random weights of seed {}: good for measuring speed only",
            self.seed
        )
    }

    /// Where the files go, in `folder`.
    pub fn files(&self, folder: &Path) -> Files {
        let shape = self.shape.name;
        let layers = if self.n_layer == self.shape.llm.n_layer {
            String::new()
        } else {
            format!("-{}-layers", self.n_layer)
        };
        let mix = self.mix.name();
        Files {
            model: folder.join(format!("synthetic-{shape}{layers}-{mix}.gguf")),
            mmproj: folder.join(format!("synthetic-{shape}-mmproj-F16.gguf")),
        }
    }

    /// Writes both files into `folder`, which is created if needed. Files get their names once both are complete;
    /// whatever goes wrong before that leaves nothing behind. `progress` may stop it.
    ///
    /// # Errors
    /// [`Error::Exists`] unless `overwrite`, [`Error::Io`], [`Error::Stopped`].
    pub fn write(
        &self,
        folder: impl AsRef<Path>,
        overwrite: bool,
        mut progress: impl FnMut(Progress) -> ControlFlow<()>,
    ) -> Result<Files, Error> {
        let folder = folder.as_ref();
        let files = self.files(folder);
        let existing = [&files.model, &files.mmproj]
            .into_iter()
            .find(|path| path.exists());
        if let Some(path) = existing.filter(|_| !overwrite) {
            return Err(Error::Exists { path: path.clone() });
        }
        fs::create_dir_all(folder).map_err(|source| Error::Io {
            action: "create the folder",
            path: folder.to_owned(),
            source,
        })?;
        let (llm, mmproj) = (self.llm(), self.mmproj());
        let n_bytes =
            |plan: &Plan, path: &Path| plan.file_bytes().map_err(|source| Error::write(path, source));
        let n_mmproj = n_bytes(&mmproj, &files.mmproj)?;
        let n_bytes_total = n_mmproj + n_bytes(&llm, &files.model)?;
        let mut wrote = |n_bytes| {
            progress(Progress {
                n_bytes,
                n_bytes_total,
            })
        };
        let mmproj = Part::write(files.mmproj, &mmproj, &mut wrote)?;
        let model = Part::write(files.model, &llm, &mut |n_bytes| wrote(n_mmproj + n_bytes))?;
        Ok(Files {
            mmproj: mmproj.name()?,
            model: model.name()?,
        })
    }
}
