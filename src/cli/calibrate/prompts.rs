//! The questions that are calibrated with: a file's, the flags', or those that come with the program.

use visipruner::engine::{Image, Prompt};
use visipruner::eval::{self, Question, QuestionFile, Scoring, check_images, select};

use crate::cli::args::MarkerArg;
use crate::cli::args::calibrate::CalibratePromptArgs;
use crate::cli::embedded;
use crate::cli::error::Error;
use crate::cli::image::{self, Background};
use crate::cli::questions;
use crate::cli::terminal::Terminal;

/// Questions about pictures.
pub struct Prompts {
    /// In the order in which they are asked.
    pub list: Vec<AskedPrompt>,
    /// Where they come from, for the reader.
    pub source: String,
}

/// A question.
pub struct AskedPrompt {
    /// What names it in messages.
    pub name: String,
    /// The number of its pictures; questions with the same pictures have the same.
    pub picture: usize,
    /// Where its pictures are.
    pub images: Pictures,
    /// The question, with places for its pictures.
    pub prompt: Prompt,
}

/// Pictures that are read when they are needed, or were read from flags.
pub enum Pictures {
    /// To be read.
    Files(Vec<eval::ImageSource>),
    /// Read.
    Read(Image),
}

impl Prompts {
    /// Reads the questions, and looks for their pictures.
    ///
    /// # Errors
    /// Files that cannot be read; [`Error::CannotCalibrate`] if no question has a picture, or if there is but one.
    pub fn read(
        args: &CalibratePromptArgs,
        background: Background,
        terminal: &mut Terminal,
    ) -> Result<Self, Error> {
        let prompts = match &args.questions {
            Some(path) => {
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                Self {
                    list: from_file(args, path, terminal)?,
                    source: format!("questions of {file}"),
                }
            }
            None if args.images.is_empty() => Self {
                list: shipped()?,
                source: String::from("the questions that come with the program"),
            },
            None => Self {
                list: from_flags(args, background)?,
                source: format!(
                    "{} questions about {} pictures",
                    args.texts.len(),
                    args.images.len()
                ),
            },
        };
        // With one question nothing can be held out, nor can thresholds lie between anything.
        if prompts.list.len() < 2 {
            return Err(Error::CannotCalibrate {
                n_questions: prompts.list.len(),
                reason: "there must be two or more with a picture, and a few dozen are better",
            });
        }
        Ok(prompts)
    }

    /// Of each question the number of its pictures.
    pub fn pictures(&self) -> Vec<usize> {
        self.list.iter().map(|prompt| prompt.picture).collect()
    }
}

fn from_file(
    args: &CalibratePromptArgs,
    path: &std::path::Path,
    terminal: &mut Terminal,
) -> Result<Vec<AskedPrompt>, Error> {
    let file = QuestionFile {
        questions: path.to_owned(),
        format: args.format,
        image_dir: args.image_dir.clone(),
        annotations: args.annotations.clone(),
        without_answers: true,
        scoring: Scoring::default(),
    };
    let questions = select(file.read()?, args.shuffle, args.limit);
    check_images(&questions)?;
    let n_all = questions.len();
    let with_picture: Vec<Question> = questions
        .into_iter()
        .filter(|question| !question.images.is_empty())
        .collect();
    if with_picture.len() < n_all {
        terminal.warn(format_args!(
            "{} of {n_all} questions have no picture and are left out",
            n_all - with_picture.len()
        ));
    }
    let mut seen: Vec<Vec<eval::ImageSource>> = Vec::new();
    let prompt = |question: Question| {
        let known = seen.iter().position(|images| *images == question.images);
        let picture = known.unwrap_or_else(|| {
            seen.push(question.images.clone());
            seen.len() - 1
        });
        AskedPrompt {
            name: question.id,
            picture,
            images: Pictures::Files(question.images),
            prompt: args.marker.chat(&question.prompt),
        }
    };
    let prompts: Vec<_> = with_picture.into_iter().map(prompt).collect();
    for prompt in &prompts {
        let Pictures::Files(images) = &prompt.images else {
            continue;
        };
        questions::check(&prompt.name, &prompt.prompt, images.len())?;
    }
    Ok(prompts)
}

fn from_flags(args: &CalibratePromptArgs, background: Background) -> Result<Vec<AskedPrompt>, Error> {
    let texts = args.escape.read_all(&args.texts)?;
    let mut prompts = Vec::new();
    for (picture, source) in image::sources(&args.images)?.iter().enumerate() {
        let read = image::read(source, background)?;
        prompts.extend(about(picture, &source.to_string(), &read, &texts, &args.marker));
    }
    for prompt in &prompts {
        questions::check(&prompt.name, &prompt.prompt, 1)?;
    }
    Ok(prompts)
}

fn shipped() -> Result<Vec<AskedPrompt>, Error> {
    let mut prompts = Vec::new();
    for (picture, scene) in embedded::scenes().iter().enumerate() {
        let read = embedded::picture(&scene.image)?;
        prompts.extend(about(
            picture,
            &scene.image,
            &read,
            &scene.questions,
            &MarkerArg::default(),
        ));
    }
    Ok(prompts)
}

fn about(
    picture: usize,
    name: &str,
    image: &Image,
    texts: &[String],
    marker: &MarkerArg,
) -> Vec<AskedPrompt> {
    let prompt = |text: &String| AskedPrompt {
        name: format!("{text:?} about {name}"),
        picture,
        images: Pictures::Read(image.clone()),
        prompt: marker.chat(text),
    };
    texts.iter().map(prompt).collect()
}
