//! The models of a folder: which files belong together.

use std::path::{Path, PathBuf};

use super::super::error::Error;
use super::super::paths::Paths;
use super::stem;

/// The models of a folder, by name: files, and folders with a model and its projector.
///
/// # Errors
/// A folder that cannot be read, and one without models.
pub fn models_in(folder: &Path) -> Result<Vec<(String, Paths)>, Error> {
    let mut found = Vec::new();
    let entries = entries(folder)?;
    for path in &entries {
        if path.is_dir() {
            let inside = self::entries(path)?;
            if let Some(model) = inside.iter().find(|path| is_model(path)) {
                let projector = inside.iter().find(|path| is_projector(path));
                found.push((name_of(path), Paths::new(model.clone(), projector.cloned())));
            }
        } else if is_model(path) {
            let name = stem(path);
            let projector = entries
                .iter()
                .find(|other| is_projector(other) && is_named_after(other, &name));
            found.push((name, Paths::new(path.clone(), projector.cloned())));
        }
    }
    if found.is_empty() {
        return Err(Error::NoModels {
            folder: folder.to_owned(),
        });
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |source| Error::ReadFolder {
        folder: folder.to_owned(),
        source,
    };
    let entries = std::fs::read_dir(folder).map_err(unreadable)?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    paths.sort();
    Ok(paths)
}

fn name_of(folder: &Path) -> String {
    folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The file of a model, or the first part of one that is split.
fn is_model(path: &Path) -> bool {
    let name = stem(path);
    let is_later_part = name
        .rsplit_once("-of-")
        .is_some_and(|(before, _)| !before.ends_with("-00001") && has_number(before));
    is_gguf(path) && !name.contains("mmproj") && !is_later_part
}

fn has_number(name: &str) -> bool {
    name.rsplit_once('-')
        .is_some_and(|(_, number)| number.len() == 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_projector(path: &Path) -> bool {
    is_gguf(path) && stem(path).contains("mmproj")
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf")
}

/// Whether a projector is called after a model: its name without what says how each was quantized.
fn is_named_after(projector: &Path, model: &str) -> bool {
    let name = stem(projector);
    let bare = name.replace("-mmproj", "").replace("mmproj-", "");
    let bare = without_type(&bare);
    bare == without_type(model)
}

fn without_type(name: &str) -> &str {
    match name.rsplit_once(['-', '.']) {
        Some((bare, ty)) if is_type(ty) => bare,
        _ => name,
    }
}

fn is_type(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let number = word.strip_prefix("iq").or_else(|| word.strip_prefix('q'));
    ["f16", "f32", "bf16"].contains(&word.as_str())
        || number.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_of_a_folder_find_their_projectors() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = [
            "a-Q4_K_M.gguf",
            "a-mmproj-f16.gguf",
            "mmproj-b.gguf",
            "b.gguf",
            "c-00001-of-00002.gguf",
            "c-00002-of-00002.gguf",
            "notes.txt",
        ];
        for name in names {
            std::fs::write(folder.path().join(name), "").expect("writes");
        }
        let inside = folder.path().join("d");
        std::fs::create_dir(&inside).expect("a folder");
        for name in ["weights.gguf", "mmproj.gguf"] {
            std::fs::write(inside.join(name), "").expect("writes");
        }
        let file = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        let found: Vec<(String, String, Option<String>)> = models_in(folder.path())
            .expect("there are models")
            .into_iter()
            .map(|(id, paths)| (id, file(&paths.model), paths.projector.as_deref().map(file)))
            .collect();
        let expected = [
            ("a-Q4_K_M", "a-Q4_K_M.gguf", Some("a-mmproj-f16.gguf")),
            ("b", "b.gguf", Some("mmproj-b.gguf")),
            ("c-00001-of-00002", "c-00001-of-00002.gguf", None),
            ("d", "weights.gguf", Some("mmproj.gguf")),
        ];
        let expected = expected
            .map(|(id, model, projector)| (id.to_owned(), model.to_owned(), projector.map(str::to_owned)));
        assert_eq!(found, expected);
        assert!(models_in(&folder.path().join("nothing")).is_err());
    }
}
