//! Applies unified diffs, strictly: every context line must match, and for the pinned source at the very line
//! that the diff names. Neither `git apply` (which skips files silently inside a git-ignored folder) nor GNU
//! `patch` (which accepts drifted context) is needed.

use std::collections::BTreeMap;

/// Where a hunk may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Placement {
    /// At the line that it names.
    Exact,
    /// There, else wherever its context matches, if that is one place only.
    UniqueContext,
}

/// What a patch does to one file.
#[derive(Debug, PartialEq, Eq)]
pub struct FileDiff {
    /// Path from the root of the source tree, with `/`.
    pub path: String,
    /// Whether the patch makes the file.
    pub creates: bool,
    hunks: Vec<Hunk>,
}

#[derive(Debug, PartialEq, Eq)]
struct Hunk {
    /// First line in the old file, 1-based; for a hunk without old lines, the line after which it goes.
    old_start: usize,
    old: Vec<String>,
    new: Vec<String>,
}

/// Reads a diff as `git format-patch` writes it: text above, between and below the hunks is skipped.
///
/// # Errors
/// A malformed hunk, or something other than a change or creation of text files (a rename, a deletion, a binary).
pub fn parse(diff: &str) -> Result<Vec<FileDiff>, String> {
    let mut files: Vec<FileDiff> = Vec::new();
    let mut lines = diff.split_inclusive('\n').peekable();
    while let Some(line) = lines.next() {
        if line.starts_with("deleted file")
            || line.starts_with("rename ")
            || line.starts_with("GIT binary patch")
        {
            return Err(format!(
                "'{}' is not supported: patches change or add text files",
                line.trim_end()
            ));
        }
        if let Some(from) = line.strip_prefix("--- ") {
            let to = lines.next_if(|next| next.starts_with("+++ "));
            if let Some(to) = to {
                files.push(file_diff(
                    from.trim_end(),
                    to.trim_start_matches("+++ ").trim_end(),
                )?);
            }
        } else if line.starts_with("@@ ") {
            let file = files
                .last_mut()
                .ok_or_else(|| format!("hunk without a file: '{}'", line.trim_end()))?;
            file.hunks.push(hunk(line.trim_end(), &mut lines)?);
        }
    }
    if files.is_empty() {
        return Err("no changes in it".to_owned());
    }
    Ok(files)
}

fn file_diff(from: &str, to: &str) -> Result<FileDiff, String> {
    let path = to
        .strip_prefix("b/")
        .ok_or_else(|| format!("unexpected new file name '{to}'"))?;
    Ok(FileDiff {
        path: path.to_owned(),
        creates: from == "/dev/null",
        hunks: Vec::new(),
    })
}

fn hunk<'a>(
    header: &str,
    lines: &mut std::iter::Peekable<impl Iterator<Item = &'a str>>,
) -> Result<Hunk, String> {
    let malformed = || format!("malformed hunk '{header}'");
    let mut fields = header.split(' ').skip(1);
    let (old_start, n_old) = fields
        .next()
        .and_then(|range| line_range(range, '-'))
        .ok_or_else(malformed)?;
    let (_, n_new) = fields
        .next()
        .and_then(|range| line_range(range, '+'))
        .ok_or_else(malformed)?;

    let (mut old, mut new): (Vec<String>, Vec<String>) = (Vec::new(), Vec::new());
    while old.len() < n_old || new.len() < n_new {
        let line = lines.next().ok_or_else(malformed)?;
        let (kind, text) = line.split_at_checked(1).ok_or_else(malformed)?;
        match kind {
            " " => {
                old.push(text.to_owned());
                new.push(text.to_owned());
            }
            "-" => old.push(text.to_owned()),
            "+" => new.push(text.to_owned()),
            // a context line that is empty and lost its blank on the way
            "\n" => {
                old.push("\n".to_owned());
                new.push("\n".to_owned());
            }
            _ => return Err(malformed()),
        }
        if lines.next_if(|next| next.starts_with("\\ No newline")).is_some() {
            // a context line stands in both
            for side in [&mut old, &mut new] {
                if let Some(last) = side.last_mut().filter(|last| *last == text) {
                    last.truncate(last.trim_end_matches('\n').len());
                }
            }
        }
    }
    if old.len() != n_old || new.len() != n_new {
        return Err(malformed());
    }
    Ok(Hunk { old_start, old, new })
}

/// `-12,7` or `-12` (one line), with the sign given.
fn line_range(field: &str, sign: char) -> Option<(usize, usize)> {
    let range = field.strip_prefix(sign)?;
    match range.split_once(',') {
        Some((start, count)) => Some((start.parse().ok()?, count.parse().ok()?)),
        None => Some((range.parse().ok()?, 1)),
    }
}

impl FileDiff {
    /// The file with all hunks applied.
    ///
    /// # Errors
    /// Names the first hunk that does not fit, and the line.
    pub fn apply(&self, text: &str, placement: Placement) -> Result<String, String> {
        let mut lines: Vec<&str> = text.split_inclusive('\n').collect();
        // from the bottom up, so that line numbers of the old file stay valid
        for (i_hunk, hunk) in self.hunks.iter().enumerate().rev() {
            let start = hunk.position(&lines, placement).map_err(|reason| {
                format!(
                    "{}: hunk {} of {} {reason}",
                    self.path,
                    i_hunk + 1,
                    self.hunks.len()
                )
            })?;
            lines.splice(start..start + hunk.old.len(), hunk.new.iter().map(String::as_str));
        }
        Ok(lines.concat())
    }
}

impl Hunk {
    /// The index of the first line to replace.
    fn position(&self, lines: &[&str], placement: Placement) -> Result<usize, String> {
        let named = if self.old.is_empty() {
            self.old_start
        } else {
            self.old_start.saturating_sub(1)
        };
        match placement {
            _ if self.fits(lines, named) => Ok(named),
            Placement::Exact => Err(self.misfit(lines, named)),
            Placement::UniqueContext => {
                let mut fitting = (0..=lines.len()).filter(|start| self.fits(lines, *start));
                match (fitting.next(), fitting.next()) {
                    (Some(start), None) => Ok(start),
                    (None, _) => Err(format!("(line {}) fits nowhere", self.old_start)),
                    (Some(_), Some(_)) => Err(format!("(line {}) fits in several places", self.old_start)),
                }
            }
        }
    }

    fn fits(&self, lines: &[&str], start: usize) -> bool {
        lines
            .get(start..start + self.old.len())
            .is_some_and(|present| present.iter().eq(self.old.iter()))
    }

    fn misfit(&self, lines: &[&str], start: usize) -> String {
        let at = (0..self.old.len())
            .find(|i| lines.get(start + i).is_none_or(|line| *line != self.old[*i]))
            .unwrap_or_default();
        let expected = self.old.get(at).map_or("", |line| without_newline(line));
        match lines.get(start + at) {
            Some(found) => format!(
                "does not fit at line {}: expected '{expected}', found '{}'",
                start + at + 1,
                without_newline(found)
            ),
            None => format!(
                "does not fit at line {}: expected '{expected}', the file ends before",
                start + at + 1
            ),
        }
    }
}

/// Blanks at the end of a line count, and are shown.
fn without_newline(line: &str) -> &str {
    line.strip_suffix('\n').unwrap_or(line)
}

/// Applies one patch to files that `read` gives (`None`: there is no such file) and that earlier patches changed.
///
/// # Errors
/// Names the file and the hunk.
pub fn apply(
    diff: &str,
    placement: Placement,
    changed: &mut BTreeMap<String, String>,
    read: impl Fn(&str) -> Result<Option<String>, String>,
) -> Result<(), String> {
    for file in parse(diff)? {
        let present = match changed.get(&file.path) {
            Some(text) => Some(text.clone()),
            None => read(&file.path)?,
        };
        let text = match (present, file.creates) {
            (Some(text), false) => text,
            (None, true) => String::new(),
            (Some(_), true) => {
                return Err(format!("{}: is to be created but exists already", file.path));
            }
            (None, false) => return Err(format!("{}: there is no such file", file.path)),
        };
        let patched = file.apply(&text, placement)?;
        changed.insert(file.path, patched);
    }
    Ok(())
}
