//! The model, the pictures and the questions that are part of the program.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use tempfile::TempDir;
use visipruner::engine::Image;

use super::error::Error;
use super::image::{self, Background, ImageSource};

macro_rules! shipped {
    ($path:literal) => {
        include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/models/", $path))
    };
}

const MODEL: &[u8] = shipped!("tiny-llava-shapes-f16.gguf");
const PROJECTOR: &[u8] = shipped!("tiny-llava-shapes-mmproj-f16.gguf");
const POLICY: &[u8] = shipped!("tiny-llava-shapes.policy.toml");
const QUESTIONS: &[u8] = shipped!("demo/questions.json");
const PICTURES: [(&str, &[u8]); 3] = [
    ("shapes.png", shipped!("demo/shapes.png")),
    ("crosses.png", shipped!("demo/crosses.png")),
    ("trio.png", shipped!("demo/trio.png")),
];

/// The model's files in a folder of their own, which goes away with this value.
pub struct ModelFiles {
    folder: TempDir,
}

impl ModelFiles {
    /// Writes the files into the system's folder for temporary files, because llama.cpp reads models by path.
    ///
    /// # Errors
    /// [`Error::Write`]
    pub fn write() -> Result<Self, Error> {
        let folder = tempfile::Builder::new().prefix("visipruner-").tempdir();
        let folder = folder.map_err(|source| cannot_write(&std::env::temp_dir(), source))?;
        let files = Self { folder };
        for (path, content) in [(files.model(), MODEL), (files.projector(), PROJECTOR)] {
            fs::write(&path, content).map_err(|source| cannot_write(&path, source))?;
        }
        Ok(files)
    }

    /// The language model.
    pub fn model(&self) -> PathBuf {
        self.folder.path().join("tiny-llava-shapes.gguf")
    }

    /// Its projector.
    pub fn projector(&self) -> PathBuf {
        self.folder.path().join("mmproj-tiny-llava-shapes.gguf")
    }
}

fn cannot_write(path: &Path, source: std::io::Error) -> Error {
    Error::Write {
        what: "the demo's model to",
        path: path.to_owned(),
        source,
    }
}

/// The calibrated policy of the model, as TOML.
pub fn policy() -> &'static str {
    std::str::from_utf8(POLICY).expect("the policy file is text")
}

/// A picture and questions about it.
pub struct Scene {
    /// The picture's name.
    pub image: String,
    /// Questions that the model answers rightly.
    pub questions: Vec<String>,
}

/// The pictures with their questions.
pub fn scenes() -> Vec<Scene> {
    #[derive(Deserialize)]
    struct File {
        image: String,
        questions: Vec<Question>,
    }
    #[derive(Deserialize)]
    struct Question {
        question: String,
    }
    let files: Vec<File> = serde_json::from_slice(QUESTIONS).expect("the questions are a list of pictures");
    let scene = |file: File| Scene {
        image: file.image,
        questions: file
            .questions
            .into_iter()
            .map(|question| question.question)
            .collect(),
    };
    files.into_iter().map(scene).collect()
}

/// A shipped picture.
///
/// # Errors
/// None for the names that [`scenes`] gives.
pub fn picture(name: &str) -> Result<Image, Error> {
    let source = ImageSource::File(name.into());
    let bytes = PICTURES
        .iter()
        .find(|(known, _)| *known == name)
        .map_or(&[][..], |(_, bytes)| *bytes);
    image::from_bytes(bytes, &source, Background::WHITE)
}
