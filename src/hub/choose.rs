//! Which files of a repository make a model. The rules are llama.cpp's (`common/download.cpp` of the version that is built),
//! except that `F16` does not mean `BF16` where both are there.

use super::error::Error;
use super::source::{Source, Wanted};
use crate::policy::FILE_SUFFIX;

/// What is taken where no quantization is asked for, if the repository has it; else its first model.
const USUAL: [&str; 2] = ["Q4_K_M", "Q8_0"];
const GGUF: &str = ".gguf";
const PROJECTOR: &str = "mmproj";
/// Parts of names that GGUF files have which are no language models.
const NO_MODEL: [&str; 6] = [PROJECTOR, "imatrix", "mtp-", "eagle3-", "dflash-", "dspark-"];

/// Files of a repository.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Chosen {
    /// The language model, in all its parts, the first one first.
    pub model: Vec<String>,
    /// Its projector, if there is one and it is wanted.
    pub projector: Option<String>,
    /// Policy files beside the model, of which one may be its own.
    pub policies: Vec<String>,
}

impl Chosen {
    /// Every file.
    pub fn files(&self) -> impl Iterator<Item = &str> {
        let files = self.model.iter().chain(&self.projector).chain(&self.policies);
        files.map(String::as_str)
    }
}

/// The files of the model that `source` names, among the paths that its repository has.
///
/// # Errors
/// [`Error::NoModel`], [`Error::Incomplete`]
pub(super) fn choose(source: &Source, mut paths: Vec<String>, with_projector: bool) -> Result<Chosen, Error> {
    paths.sort();
    let model = model(source, &paths)?;
    let projector = with_projector.then(|| projector(&paths, model)).flatten();
    Ok(Chosen {
        model: parts(source, &paths, model)?,
        projector: projector.map(str::to_owned),
        policies: policies(&paths, model).map(str::to_owned).collect(),
    })
}

fn model<'a>(source: &Source, paths: &'a [String]) -> Result<&'a str, Error> {
    let (found, wanted) = match source.wanted() {
        Wanted::File(file) => {
            let found = paths.iter().map(String::as_str).find(|path| path == file);
            (found, format!("file {file}"))
        }
        Wanted::Quantization(tag) => (with_quantization(paths, tag), format!("model called {tag}")),
        Wanted::Usual => {
            let usual = USUAL.iter().find_map(|tag| with_quantization(paths, tag));
            (usual.or_else(|| models(paths).next()), "model".to_owned())
        }
    };
    found.ok_or_else(|| Error::NoModel {
        repo: source.repo().to_owned(),
        wanted,
        found: models(paths).map(str::to_owned).collect(),
    })
}

/// The first model with `tag` in its name, as a whole word if there is such a one.
fn with_quantization<'a>(paths: &'a [String], tag: &str) -> Option<&'a str> {
    let tag = tag.to_ascii_lowercase();
    let named = |is_whole: bool| {
        let tag = tag.clone();
        models(paths).find(move |path| is_named(&path.to_ascii_lowercase(), &tag, is_whole))
    };
    named(true).or_else(|| named(false))
}

/// Whether `tag` stands in `path` before a `.` or `-`, and as a whole word also behind one or a `/`.
fn is_named(path: &str, tag: &str, is_whole: bool) -> bool {
    path.match_indices(tag).any(|(start, _)| {
        let before = path[..start].chars().next_back();
        let is_begin = before.is_none_or(|c| ['-', '.', '/'].contains(&c));
        path[start + tag.len()..].starts_with(['.', '-']) && (is_begin || !is_whole)
    })
}

/// Language models, of split ones the first part.
fn models(paths: &[String]) -> impl Iterator<Item = &str> {
    let is_first = |path: &&str| Name::of(path).is_some_and(|name| name.no == 1);
    let is_model = |path: &&str| {
        let (_, file) = folder_and_file(path);
        !NO_MODEL.iter().any(|word| file.contains(word))
    };
    paths.iter().map(String::as_str).filter(is_model).filter(is_first)
}

/// All parts of a model whose first part is `first`.
fn parts(source: &Source, paths: &[String], first: &str) -> Result<Vec<String>, Error> {
    let Some(name) = Name::of(first).filter(|name| name.count > 1) else {
        return Ok(vec![first.to_owned()]);
    };
    let part = |no| {
        let path = format!("{}-{no:05}-of-{:05}{GGUF}", name.stem, name.count);
        if paths.contains(&path) {
            Ok(path)
        } else {
            Err(Error::Incomplete {
                repo: source.repo().to_owned(),
                missing: path,
            })
        }
    };
    (1..=name.count).map(part).collect()
}

/// The projector for `model`: the deepest in its folder or in one around it, and there the one with the nearest number of bits.
fn projector<'a>(paths: &'a [String], model: &str) -> Option<&'a str> {
    let (folder, _) = folder_and_file(model);
    let bits = bits(model);
    let key = |path: &&str| {
        let (around, _) = folder_and_file(path);
        (std::cmp::Reverse(around.len()), self::bits(path).abs_diff(bits))
    };
    let belongs = |path: &&str| {
        let (around, _) = folder_and_file(path);
        path.ends_with(GGUF) && path.contains(PROJECTOR) && folder.starts_with(around)
    };
    // the first of several that are as near
    paths.iter().map(String::as_str).filter(belongs).min_by_key(key)
}

fn policies<'a>(paths: &'a [String], model: &str) -> impl Iterator<Item = &'a str> {
    let (folder, _) = folder_and_file(model);
    let is_beside = move |path: &&str| path.ends_with(FILE_SUFFIX) && folder_and_file(path).0 == folder;
    paths.iter().map(String::as_str).filter(is_beside)
}

/// `a/b/` and `c` of `a/b/c`
fn folder_and_file(path: &str) -> (&str, &str) {
    path.split_at(path.rfind('/').map_or(0, |slash| slash + 1))
}

/// What the name of a GGUF file says.
struct Name<'a> {
    /// Without the number of its part.
    stem: &'a str,
    /// From 1 on.
    no: u32,
    /// Of a whole model 1.
    count: u32,
}

impl<'a> Name<'a> {
    fn of(path: &'a str) -> Option<Self> {
        let stem = path.strip_suffix(GGUF)?;
        Some(Self::part(stem).unwrap_or(Self {
            stem,
            no: 1,
            count: 1,
        }))
    }

    /// `x-00001-of-00003`
    fn part(stem: &'a str) -> Option<Self> {
        let number = |text: &str| {
            let is_number = text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
            is_number.then(|| text.parse().ok()).flatten()
        };
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (stem, no) = rest.rsplit_once('-')?;
        Some(Self {
            stem,
            no: number(no)?,
            count: number(count)?,
        })
    }
}

/// Bits per weight, as the name says: 4 of `x-Q4_K_M.gguf`, 16 of `x.bf16.gguf`, 0 where it says nothing.
fn bits(path: &str) -> u32 {
    let stem = Name::of(path).map_or(path, |name| name.stem);
    let tag = stem.rsplit_once(['-', '.']).map_or("", |(_, tag)| tag);
    let is_tag = tag
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let from_digit = tag.trim_start_matches(|c: char| !c.is_ascii_digit());
    let digits: String = from_digit.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok().filter(|_| is_tag).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(source: &str, paths: &[&str]) -> Result<Chosen, Error> {
        let source = Source::parse(source).expect("a source");
        choose(&source, paths.iter().map(|&path| path.to_owned()).collect(), true)
    }

    #[track_caller]
    fn assert_chosen(source: &str, paths: &[&str], model: &str, projector: Option<&str>) {
        let chosen = chosen(source, paths).expect("a model");
        assert_eq!(
            (chosen.model[0].as_str(), chosen.projector.as_deref()),
            (model, projector)
        );
    }

    #[test]
    fn the_quantization() {
        let all = [
            "m-BF16.gguf",
            "m-F16.gguf",
            "m-IQ4_XS.gguf",
            "m-Q2_K.gguf",
            "m-Q4_K_M.gguf",
            "m-Q8_0.gguf",
        ];
        for (source, model) in [
            ("u/r", "m-Q4_K_M.gguf"),
            ("u/r:q8_0", "m-Q8_0.gguf"),
            ("u/r:F16", "m-F16.gguf"),
            ("u/r:bf16", "m-BF16.gguf"),
            // not a whole word, as llama.cpp takes it
            ("u/r:Q4_XS", "m-IQ4_XS.gguf"),
        ] {
            assert_chosen(source, &all, model, None);
        }
        assert_chosen("u/r", &["m-F16.gguf", "m-Q8_0.gguf"], "m-Q8_0.gguf", None);
        assert_chosen("u/r", &["b.gguf", "a.gguf"], "a.gguf", None);
        assert_chosen("u/r", &["m.Q4_K_M.gguf", "a.gguf"], "m.Q4_K_M.gguf", None);
        assert_chosen(
            "u/r:Q4_K_M",
            &["Q4_K_M/m-Q4_K_M-00001-of-00001.gguf"],
            "Q4_K_M/m-Q4_K_M-00001-of-00001.gguf",
            None,
        );
        for tag in ["Q4_K", "Q3", "gguf"] {
            let error = chosen(&format!("u/r:{tag}"), &all).expect_err("none");
            assert!(
                matches!(&error, Error::NoModel { found, .. } if found.len() == all.len()),
                "{tag}: {error}"
            );
        }
    }

    #[test]
    fn what_is_no_language_model() {
        let others = [
            "mmproj-m-Q4_K_M.gguf",
            "imatrix-Q4_K_M.gguf",
            "mtp-m-Q4_K_M.gguf",
            "eagle3-Q4_K_M.gguf",
            "m-Q4_K_M.safetensors",
        ];
        assert!(matches!(chosen("u/r", &others), Err(Error::NoModel { found, .. }) if found.is_empty()));
        let mut all = others.to_vec();
        all.push("z.gguf");
        assert_chosen("u/r", &all, "z.gguf", Some("mmproj-m-Q4_K_M.gguf"));
    }

    #[test]
    fn the_projector_with_the_nearest_bits_in_the_nearest_folder() {
        let m = |model: &str, projectors: &[&str]| {
            let paths = [&[model], projectors].concat();
            chosen("u/r", &paths).expect("a model").projector
        };
        let near = ["mmproj-F32.gguf", "mmproj-Q8_0.gguf", "mmproj-f16.gguf"];
        assert_eq!(m("m-Q4_K_M.gguf", &near).as_deref(), Some("mmproj-Q8_0.gguf"));
        assert_eq!(m("m-F16.gguf", &near).as_deref(), Some("mmproj-f16.gguf"));
        assert_eq!(m("m-F32.gguf", &near).as_deref(), Some("mmproj-F32.gguf"));
        // as near: the first
        assert_eq!(
            m("m-Q4_0.gguf", &["m-mmproj-f16.gguf", "mmproj-BF16.gguf"]).as_deref(),
            Some("m-mmproj-f16.gguf")
        );
        let folders = [
            "a/b/mmproj-f32.gguf",
            "a/mmproj-q4_0.gguf",
            "b/mmproj-q4_0.gguf",
            "mmproj-q4_0.gguf",
        ];
        assert_eq!(
            m("a/b/c/m-Q4_0.gguf", &folders).as_deref(),
            Some("a/b/mmproj-f32.gguf")
        );
        assert_eq!(
            m("a/m-Q4_0.gguf", &folders).as_deref(),
            Some("a/mmproj-q4_0.gguf")
        );
        assert_eq!(m("c/m-Q4_0.gguf", &folders).as_deref(), Some("mmproj-q4_0.gguf"));
        assert_eq!(m("m-Q4_0.gguf", &["b/mmproj-q4_0.gguf"]), None);
    }

    #[test]
    fn policies_stand_beside_the_model() {
        let paths = [
            "q/m-Q4_0.gguf",
            "q/m.policy.toml",
            "m.policy.toml",
            "q/a/m.policy.toml",
            "q/x.toml",
        ];
        assert_eq!(
            chosen("u/r", &paths).expect("a model").policies,
            ["q/m.policy.toml"]
        );
    }

    #[test]
    fn all_parts_or_none() {
        let parts = [
            "m-Q8_0-00002-of-00002.gguf",
            "m-Q8_0-00001-of-00002.gguf",
            "m-Q8_0-00001-of-00003.gguf",
        ];
        let source = Source::parse("u/r").expect("a source").with_file(parts[0]);
        let paths = |n: usize| parts[..n].iter().map(|&part| part.to_owned()).collect::<Vec<_>>();
        let chosen = choose(&source, paths(3), true).expect("a model");
        assert_eq!(chosen.model, [parts[1], parts[0]]);
        let error = choose(&source, paths(1), true).expect_err("half a model");
        assert!(matches!(error, Error::Incomplete { missing, .. } if missing == parts[1]));
    }

    #[test]
    fn bits_of_names() {
        for (path, n) in [
            ("m-Q4_K_M.gguf", 4),
            ("m.bf16.gguf", 16),
            ("a-b/m.gguf", 0),
            ("m-NVFP4-00001-of-00002.gguf", 4),
            ("llava-1.5.gguf", 5),
            ("m-x.gguf", 0),
            ("m-Q99999999999.gguf", 0),
            ("m.gguf", 0),
        ] {
            assert_eq!(bits(path), n, "{path}");
        }
    }
}
