use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::de::IgnoredAny;
use toml::Spanned;

use super::unknown::{self, owners};
use super::{PolicyChoice, PolicyConfig, PolicyError, PolicyName, PolicyOverrides};
use crate::policy::composed::Composition;

impl PolicyOverrides {
    /// Reads a policy file's text.
    ///
    /// # Errors
    /// [`PolicyError::File`] with the line, for what is not TOML, for unknown keys and for unknown words.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        if let Some((start, field)) = unknown_key(text) {
            return Err(in_line(text, start, unknown::field(&field).to_string()));
        }
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            in_line(text, start, error.message().replace('\n', " "))
        })
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// [`PolicyError::Read`] if the file cannot be read, else as [`from_toml`](Self::from_toml).
    pub fn from_file(path: &Path) -> Result<Self, PolicyError> {
        let text = fs::read_to_string(path).map_err(|source| PolicyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_toml(&text).map_err(|error| match error {
            PolicyError::File { line, message, .. } => PolicyError::File {
                path: Some(path.to_owned()),
                line,
                message,
            },
            other => other,
        })
    }

    /// The policy that results from these fields over `base`, validated.
    ///
    /// Another policy than the base's starts from that policy's defaults; one that the base has as a part starts from
    /// that part. Over `off`, fields that only one policy has choose that policy, even if its name is not given;
    /// those of `visipruner` choose it, whoever else has them.
    ///
    /// # Errors
    /// [`PolicyError::WrongPolicy`] for a field of another policy, [`PolicyError::Ambiguous`] for fields over `off` that
    /// several policies have, [`PolicyError::Missing`] for a field without a default, and as
    /// [`PolicyConfig::validate`].
    pub fn apply(&self, base: &PolicyConfig) -> Result<PolicyConfig, PolicyError> {
        let choice = match self.policy {
            Some(choice) => choice,
            None if *base == PolicyConfig::Off => self.implied()?,
            None => base.name(),
        };
        self.check_fields(choice)?;
        let config = match choice {
            PolicyChoice::One(name) => name.read(base, self)?,
            PolicyChoice::Composed { before, within } => {
                let (before, within) = (before.read(base, self)?, within.read(base, self)?);
                PolicyConfig::Composed(Composition::new(before, within)?)
            }
        };
        config.validate()?;
        Ok(config)
    }

    /// The policy that these fields belong to.
    fn implied(&self) -> Result<PolicyChoice, PolicyError> {
        let given = self.given();
        let Some(&first) = given.first() else {
            return Ok(PolicyName::Off.into());
        };
        let all = PolicyName::ALL.iter().copied();
        let fitting: Vec<PolicyName> = all
            .filter(|name| given.iter().all(|field| name.fields().contains(field)))
            .collect();
        match fitting[..] {
            [name] => Ok(name.into()),
            _ if fitting.contains(&PolicyName::VisiPruner) => Ok(PolicyName::VisiPruner.into()),
            // Which of them is wrong is said about the first one's policy.
            [] => Ok(owners(first).first().copied().unwrap_or(PolicyName::Off).into()),
            _ => Err(PolicyError::Ambiguous {
                field: first,
                owners: fitting,
            }),
        }
    }

    fn check_fields(&self, in_force: PolicyChoice) -> Result<(), PolicyError> {
        let is_known = |field: &str| in_force.parts().any(|name| name.fields().contains(&field));
        match self.given().into_iter().find(|field| !is_known(field)) {
            Some(field) => Err(PolicyError::WrongPolicy {
                field,
                owners: owners(field),
                in_force,
            }),
            None => Ok(()),
        }
    }
}

/// The first key that no policy has, and where it stands. What is no TOML has no keys.
fn unknown_key(text: &str) -> Option<(usize, String)> {
    let keys: BTreeMap<Spanned<String>, IgnoredAny> = toml::from_str(text).ok()?;
    let is_known = |key: &str| key == "policy" || PolicyOverrides::FIELDS.contains(&key);
    let keys = keys.into_keys().map(|key| (key.span().start, key.into_inner()));
    keys.filter(|(_, key)| !is_known(key)).min()
}

fn in_line(text: &str, start: usize, message: String) -> PolicyError {
    let line = 1 + text.bytes().take(start).filter(|&byte| byte == b'\n').count();
    PolicyError::File {
        path: None,
        line,
        message,
    }
}
