//! A policy with its fields in one argument: `fastv:rank_layers=1,keep=25%`.

use std::path::PathBuf;
use std::str::FromStr;

use visipruner::policy::config::PolicyChoice;
use visipruner::policy::{PolicyError, PolicyOverrides};

/// A policy that is asked for, with the fields that are set for it.
#[derive(Debug, Clone, PartialEq)]
pub struct PolicySpec {
    /// Its name, if it is given by name.
    pub choice: Option<PolicyChoice>,
    /// The policy file that it starts from instead of the model's own.
    pub file: Option<PathBuf>,
    /// Names and values of fields, as they were written; none twice.
    pub fields: Vec<(String, String)>,
}

impl PolicySpec {
    /// The policy that a file holds.
    pub fn of_file(path: PathBuf) -> Self {
        Self {
            choice: None,
            file: Some(path),
            fields: Vec::new(),
        }
    }

    /// The policy that goes with a model.
    pub fn of_model() -> Self {
        Self {
            choice: None,
            file: None,
            fields: Vec::new(),
        }
    }

    /// This policy with more fields, which win over those that it has.
    pub fn with(&self, fields: &[(String, String)]) -> Self {
        let is_set = |name: &String| fields.iter().any(|(other, _)| other == name);
        let kept = self.fields.iter().filter(|(name, _)| !is_set(name));
        Self {
            fields: kept.chain(fields).cloned().collect(),
            ..self.clone()
        }
    }

    /// The fields, read as they are written.
    ///
    /// # Errors
    /// A message that names the field, for fields that no policy has and for values that a field cannot have.
    pub fn overrides(&self) -> Result<PolicyOverrides, String> {
        let mut overrides = PolicyOverrides {
            policy: self.choice,
            ..PolicyOverrides::default()
        };
        for (field, value) in &self.fields {
            overrides.set(field, value).map_err(|error| match error {
                PolicyError::UnknownField { field, hint } => {
                    format!("{field:?} is not a field of a policy: {hint}")
                }
                error => format!("{field} cannot be {value:?} ({error})"),
            })?;
        }
        Ok(overrides)
    }
}

/// `NAME` or `NAME:FIELD=VALUE,FIELD=VALUE,...`. A part without `=` goes on with the list of the field before it:
/// `pyramiddrop:rank_layers=1,4,keep=50%,25%`.
impl FromStr for PolicySpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, fields) = text.split_once(':').unwrap_or((text, ""));
        let choice = name
            .trim()
            .parse()
            .map_err(|error: PolicyError| error.to_string())?;
        let mut read: Vec<(String, String)> = Vec::new();
        for part in fields.split(',').filter(|_| !fields.is_empty()) {
            match (part.split_once('='), read.last_mut()) {
                (Some((field, value)), _) => {
                    let field = field.trim().replace('-', "_");
                    if read.iter().any(|(name, _)| *name == field) {
                        return Err(format!("{field} is given twice"));
                    }
                    read.push((field, value.trim().to_owned()));
                }
                (None, Some((_, list))) => *list = format!("{list},{}", part.trim()),
                (None, None) => return Err(format!("{part:?} is not of the form FIELD=VALUE")),
            }
        }
        let spec = Self {
            choice: Some(choice),
            file: None,
            fields: read,
        };
        spec.overrides().map(|_| spec)
    }
}

#[cfg(test)]
mod tests {
    use visipruner::policy::PolicyConfig;

    use super::*;

    fn policy(text: &str) -> PolicyConfig {
        let overrides = text.parse::<PolicySpec>().unwrap().overrides().unwrap();
        overrides.apply(&PolicyConfig::Off).unwrap()
    }

    /// Each against the policy file that says the same.
    #[test]
    fn every_kind_of_field_can_be_set() {
        for (spec, file) in [
            ("off", "policy = 'off'"),
            (
                "fastv:rank_layers=1,keep=25%",
                "policy = 'fastv'\nrank_layers = [1]\nkeep = ['25%']",
            ),
            (
                "pyramiddrop:rank-layers=1,4,keep=50%,16",
                "policy = 'pyramiddrop'\nrank_layers = [1, 4]\nkeep = ['50%', 16]",
            ),
            (
                "visipruner:stages=shallow,deep,mid_deep_layer=3,layer_threshold=0.5,layer0=half,evict_shallow_kv=true",
                "policy = 'visipruner'\nstages = ['shallow', 'deep']\nmid_deep_layer = 3\nlayer_threshold = 0.5\n\
                 layer0 = 'half'\nevict_shallow_kv = true",
            ),
            (
                "random+vtw:budget=12,policy_seed=7,exit_from=4",
                "policy = 'random+vtw'\nbudget = 12\npolicy_seed = 7\nexit_from = 4",
            ),
        ] {
            let expected = PolicyOverrides::from_toml(file)
                .unwrap()
                .apply(&PolicyConfig::Off)
                .unwrap();
            assert_eq!(policy(spec), expected, "{spec}");
        }
    }

    #[test]
    fn later_fields_win() {
        let spec: PolicySpec = "uniform:budget=8".parse().unwrap();
        let swept = spec.with(&[("budget".to_owned(), "50%".to_owned())]);
        assert_eq!(swept.fields, [("budget".to_owned(), "50%".to_owned())]);
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (spec, part) in [
            ("fastvv", "fastvv"),
            ("fastv:25%", "FIELD=VALUE"),
            ("fastv:kept=3", "\"kept\" is not a field"),
            ("fastv:keep=many", "keep cannot be \"many\""),
            ("vtw:exit_from=x", "exit_from cannot be \"x\""),
            ("vtw:exit_from=1,exit_from=2", "exit_from is given twice"),
        ] {
            let error = spec.parse::<PolicySpec>().unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
