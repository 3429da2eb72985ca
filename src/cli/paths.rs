//! Where models are: on this machine, or at Hugging Face, from where they are downloaded.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use visipruner::hub::{Options, Progress, Source, Token};

use super::args::{HubArgs, ModelArgs};
use super::error::{Error, in_one_line};
use super::interrupt::Interrupt;
use super::terminal::Terminal;
use super::units;

/// Where the files of a model are.
#[derive(Debug, Clone)]
pub struct Paths {
    /// The language model.
    pub model: PathBuf,
    /// Its projector.
    pub projector: Option<PathBuf>,
    /// The repository that was searched for a projector.
    pub searched: Option<String>,
}

impl Paths {
    /// Files on this machine.
    pub fn new(model: PathBuf, projector: Option<PathBuf>) -> Self {
        Self {
            model,
            projector,
            searched: None,
        }
    }

    /// The flags that name them.
    pub fn as_args(&self) -> ModelArgs {
        ModelArgs {
            model: Some(self.model.clone()),
            mmproj: self.projector.clone(),
            ..ModelArgs::default()
        }
    }

    /// Fails where pictures are to be seen without a projector.
    ///
    /// # Errors
    /// [`Error::NoProjector`], with the files beside the model that are called like projectors, and
    /// [`Error::NoProjectorInRepository`].
    pub fn require_projector(&self) -> Result<(), Error> {
        match (&self.projector, &self.searched) {
            (Some(_), _) => Ok(()),
            (None, Some(repo)) => Err(Error::NoProjectorInRepository { repo: repo.clone() }),
            (None, None) => Err(Error::NoProjector {
                found: projectors_beside(&self.model),
            }),
        }
    }
}

/// The files that the flags name; what has to be downloaded is.
///
/// # Errors
/// [`Error::Hub`], also for Ctrl-C.
pub fn find(args: &ModelArgs, terminal: &mut Terminal) -> Result<Paths, Error> {
    match (&args.model, &args.hf_repo) {
        (_, Some(repo)) => {
            let source = Source::parse(repo)?;
            let source = match &args.hf_file {
                Some(file) => source.with_file(file),
                None => source,
            };
            fetch(&source, args.mmproj.clone(), &args.hub, terminal)
        }
        // by the flags' rules there is one
        (model, None) => Ok(Paths::new(model.clone().unwrap_or_default(), args.mmproj.clone())),
    }
}

/// The files of a model at Hugging Face; `projector` is one that is there already.
///
/// # Errors
/// As [`find`].
pub fn fetch(
    source: &Source,
    projector: Option<PathBuf>,
    args: &HubArgs,
    terminal: &mut Terminal,
) -> Result<Paths, Error> {
    let is_searched = projector.is_none() && !args.no_mmproj;
    let options = options(args, is_searched)?;
    let interrupt = Interrupt::listen();
    let mut announced = String::new();
    let files = source.fetch(&options, |progress| {
        show(&progress, source, &mut announced, terminal);
        if interrupt.is_pressed() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    });
    terminal.clear();
    let files = files?;
    Ok(Paths {
        model: files.model,
        projector: projector.or(files.projector),
        searched: is_searched.then(|| source.repo().to_owned()),
    })
}

/// What the environment says, and over it the flags.
fn options(args: &HubArgs, with_projector: bool) -> Result<Options, Error> {
    let options = Options::from_env()?;
    Ok(Options {
        token: match &args.hf_token {
            Some(token) => Some(Token::new(token)?),
            None => options.token,
        },
        is_offline: args.offline || options.is_offline,
        with_projector,
        ..options
    })
}

/// Each file is announced once, `announced` being the last one, and then has a bar.
fn show(progress: &Progress<'_>, source: &Source, announced: &mut String, terminal: &mut Terminal) {
    match *progress {
        Progress::Asking => terminal.busy("asking Hugging Face"),
        Progress::Waiting { .. } => terminal.busy("waiting for another download"),
        Progress::Downloading { file, done, total } => {
            if announced != file {
                file.clone_into(announced);
                let rest = if done > 0 {
                    format!(", {} of it there", units::bytes(done))
                } else {
                    String::new()
                };
                let repo = source.repo();
                terminal.say(format_args!(
                    "downloading {file} of {repo} ({}{rest})",
                    units::bytes(total)
                ));
            }
            terminal.bytes("downloading", done, total);
        }
        Progress::Retrying { .. } => terminal.busy("broke off, trying again"),
        Progress::Checking { done, total, .. } => terminal.bytes("checking", done, total),
        Progress::FromCache { error } => {
            terminal.warn(format_args!(
                "{}: what was downloaded before is taken",
                in_one_line(error)
            ));
        }
        _ => {}
    }
}

fn projectors_beside(model: &Path) -> Vec<PathBuf> {
    let folder = model.parent().filter(|folder| !folder.as_os_str().is_empty());
    let Ok(entries) = std::fs::read_dir(folder.unwrap_or(Path::new("."))) else {
        return Vec::new();
    };
    let is_projector = |path: &PathBuf| {
        let is_gguf = path.extension().is_some_and(|extension| extension == "gguf");
        is_gguf
            && path
                .file_name()
                .is_some_and(|name| name.to_string_lossy().contains("mmproj"))
    };
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    let mut found: Vec<_> = paths.filter(is_projector).collect();
    found.sort();
    found
}
