//! What the files of a model say before they are loaded: its shape, and the policy that goes with it.

use std::path::{Path, PathBuf};

use visipruner::engine::model_shape;
use visipruner::gguf::{self, Gguf, LlmShape, ProjectorShape};
use visipruner::policy::presets::{self, Resolved};
use visipruner::policy::shape::ModelShape;
use visipruner::policy::{FILE_SUFFIX, PolicyError, PolicyOverrides};

use super::args::{ModelArgs, PolicyArgs};
use super::error::Error;
use super::paths::{self, Paths};
use super::terminal::Terminal;

/// A model's files, with their metadata read and checked.
pub struct Files {
    /// The language model.
    pub model: (Gguf, LlmShape),
    /// Its projector.
    pub projector: Option<(Gguf, ProjectorShape)>,
    paths: Paths,
}

/// The policy in force, and where it comes from.
pub struct ChosenPolicy {
    /// The policy.
    pub resolved: Resolved,
    /// The policy file that it was read from.
    pub file: Option<PathBuf>,
}

impl Files {
    /// Finds both files, downloaded if they have to be, and reads their headers. No weights are read.
    ///
    /// # Errors
    /// [`Error::Gguf`] for files that are missing, damaged, something else, or do not belong together; [`Error::Hub`] for those
    /// that could not be downloaded; [`Error::NoProjector`] where `has_pictures` and there is none.
    pub fn open(args: &ModelArgs, has_pictures: bool, terminal: &mut Terminal) -> Result<Self, Error> {
        let paths = paths::find(args, terminal)?;
        if has_pictures {
            paths.require_projector()?;
        }
        Self::read(paths)
    }

    /// Reads the headers of both files.
    ///
    /// # Errors
    /// [`Error::Gguf`]
    pub fn read(paths: Paths) -> Result<Self, Error> {
        let model = gguf::open_llm(&paths.model)?;
        let projector = paths.projector.as_ref().map(gguf::open_projector).transpose()?;
        if let Some(projector) = &projector {
            gguf::check_pair((&model.0, &model.1), (&projector.0, &projector.1))?;
        }
        Ok(Self {
            model,
            projector,
            paths,
        })
    }

    /// Fails where pictures are to be seen without a projector.
    ///
    /// # Errors
    /// As [`Paths::require_projector`].
    pub fn require_projector(&self) -> Result<(), Error> {
        self.paths.require_projector()
    }

    /// Where they are.
    pub fn paths(&self) -> &Paths {
        &self.paths
    }

    /// The language model's file.
    pub fn model_path(&self) -> &Path {
        &self.paths.model
    }

    /// The projector's file.
    pub fn projector_path(&self) -> Option<&Path> {
        self.paths.projector.as_deref()
    }

    /// The sizes that policies ask for.
    pub fn shape(&self) -> ModelShape {
        model_shape(&self.model.1, self.n_tokens_per_image())
    }

    /// Whether tokens can be dropped between the layers of a model of this architecture; `None` without an engine.
    pub fn can_be_cut(&self) -> Option<bool> {
        #[cfg(feature = "native")]
        return Some(visipruner::engine::supported_archs().contains(&self.model.1.arch));
        #[cfg(not(feature = "native"))]
        return None;
    }

    /// Vision tokens of an image, where it is the same number for every image.
    pub fn n_tokens_per_image(&self) -> Option<usize> {
        let (_, projector) = self.projector.as_ref()?;
        projector.n_tokens_per_image.map(|n| n as usize)
    }

    /// The policy for this model: its preset, over it a policy file (the one given, else one that stands beside the
    /// model), over it single flags.
    ///
    /// # Errors
    /// [`PolicyError`] for a file that cannot be read and for fields that cannot be used with this model.
    pub fn policy(&self, args: &PolicyArgs) -> Result<ChosenPolicy, PolicyError> {
        self.policy_from(args.policy_file.as_deref(), &args.overrides())
    }

    /// As [`Files::policy`], for a policy file and fields from elsewhere.
    ///
    /// # Errors
    /// As [`Files::policy`].
    pub fn policy_from(
        &self,
        file: Option<&Path>,
        fields: &PolicyOverrides,
    ) -> Result<ChosenPolicy, PolicyError> {
        let file = file.map_or_else(
            || policy_file_beside(self.model.0.path()),
            |path| Some(path.to_owned()),
        );
        let overrides = file.as_deref().map(PolicyOverrides::from_file).transpose()?;
        let resolved = presets::resolve(&self.shape(), overrides.as_ref(), fields)?;
        Ok(ChosenPolicy { resolved, file })
    }
}

/// A file of text, without the byte order mark that some editors begin it with.
///
/// # Errors
/// A file that cannot be read, or is no UTF-8.
pub fn read_text(path: &Path) -> std::io::Result<String> {
    let text = std::fs::read_to_string(path)?;
    Ok(text.strip_prefix('\u{feff}').map(str::to_owned).unwrap_or(text))
}

/// `x.policy.toml` beside `x.gguf`, beside `x-00001-of-00003.gguf`, or beside `x-Q4_K_M.gguf`: thresholds hold for every
/// quantization of a model.
fn policy_file_beside(model: &Path) -> Option<PathBuf> {
    let stem = model.file_stem()?.to_str()?;
    let whole = without_part(stem);
    [stem, whole, without_quantization(whole)]
        .into_iter()
        .map(|name| model.with_file_name(format!("{name}{FILE_SUFFIX}")))
        .find(|path| path.is_file())
}

/// `llava` of `llava-00001-of-00003`
pub fn without_part(stem: &str) -> &str {
    let is_number = |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts = stem.rsplit_once("-of-").and_then(|(rest, count)| {
        let (name, no) = rest.rsplit_once('-')?;
        (is_number(no) && is_number(count)).then_some(name)
    });
    parts.unwrap_or(stem)
}

/// `llava-1.5` of `llava-1.5-Q4_K_M`, and other names as they are.
pub fn without_quantization(stem: &str) -> &str {
    let plain = stem
        .rsplit_once(['-', '.'])
        .filter(|(_, suffix)| is_quantization(suffix));
    plain.map_or(stem, |(plain, _)| plain)
}

/// `Q4_K_M`, `q8_0`, `IQ2_XS`, `f16`, `BF16`
fn is_quantization(suffix: &str) -> bool {
    let suffix = suffix.to_ascii_lowercase();
    let digits = ["iq", "tq", "q", "bf", "f"]
        .into_iter()
        .find_map(|prefix| suffix.strip_prefix(prefix));
    digits.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_file_is_found_beside_every_quantization() {
        let folder = tempfile::tempdir().expect("a folder");
        let policy = folder.path().join("llava-1.5.policy.toml");
        std::fs::write(&policy, "policy = \"off\"").expect("writes");
        let beside = |model: &str| policy_file_beside(&folder.path().join(model));
        for model in [
            "llava-1.5.gguf",
            "llava-1.5-Q4_K_M.gguf",
            "llava-1.5.q8_0.gguf",
            "llava-1.5-f16.gguf",
            "llava-1.5-IQ2_XS.gguf",
            "llava-1.5-00001-of-00003.gguf",
            "llava-1.5-Q4_K_M-00001-of-00003.gguf",
        ] {
            assert_eq!(beside(model).as_ref(), Some(&policy), "{model}");
        }
        assert_eq!(beside("llava-1.5-chat.gguf"), None);
        assert_eq!(beside("llava-1.gguf"), None);
    }

    #[test]
    fn a_byte_order_mark_is_no_text() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("q.txt");
        for (written, text) in [
            ("\u{feff}What?\n", "What?\n"),
            ("a\u{feff}", "a\u{feff}"),
            ("", ""),
        ] {
            std::fs::write(&path, written).expect("writes");
            assert_eq!(read_text(&path).expect("reads"), text);
        }
    }

    #[test]
    fn the_exact_name_comes_first() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = [
            "m.policy.toml",
            "m-f16.policy.toml",
            "m-f16-00001-of-00002.policy.toml",
        ];
        for name in names {
            std::fs::write(folder.path().join(name), "").expect("writes");
        }
        for model in ["m-f16", "m-f16-00001-of-00002"] {
            assert_eq!(
                policy_file_beside(&folder.path().join(format!("{model}.gguf"))),
                Some(folder.path().join(format!("{model}.policy.toml")))
            );
        }
    }
}
