use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;

use thiserror::Error;

use super::{PolicyChoice, PolicyName};

/// What is wrong with a policy. Every message is one line that says what to change.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A value is outside its range.
    #[error("{field} is {value}, but must be {range}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// The values it may have, in words.
        range: String,
    },
    /// A word is not among those that a field knows.
    #[error("{field} is {value:?}, but must be one of: {expected}")]
    UnknownKeyword {
        /// The field.
        field: &'static str,
        /// The word that was given.
        value: String,
        /// The words it knows, separated by commas.
        expected: String,
    },
    /// A field that must be there is not.
    #[error("{field} is missing: {reason}")]
    Missing {
        /// The field.
        field: &'static str,
        /// Why it is needed.
        reason: &'static str,
    },
    /// A field of one policy was given for another one.
    #[error(
        "{field} belongs to {}, but the policy in force is {in_force}: leave it out, or choose {}",
        PolicyName::listed(owners),
        if owners.len() == 1 { PolicyName::listed(owners) } else { String::from("one of them") }
    )]
    WrongPolicy {
        /// The field.
        field: &'static str,
        /// The policies that have this field.
        owners: Vec<PolicyName>,
        /// The policy that would run.
        in_force: PolicyChoice,
    },
    /// Fields were given without a policy, and several policies have them.
    #[error(
        "{field} belongs to {}: say which one with policy",
        PolicyName::listed(owners)
    )]
    Ambiguous {
        /// One of the fields.
        field: &'static str,
        /// The policies that have all of them.
        owners: Vec<PolicyName>,
    },
    /// A layer that the model does not have, perhaps by default.
    #[error(
        "{field} is {value}, but must be from {min} to {max} in this model: choose layers of it with {field}"
    )]
    NoSuchLayer {
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
        /// The first layer that it may name.
        min: usize,
        /// The last one.
        max: usize,
    },
    /// A field that no policy has.
    #[error("unknown field `{field}`: {hint}")]
    UnknownField {
        /// The field, as it was written.
        field: String,
        /// Which one may be meant, or which there are.
        hint: String,
    },
    /// Two policies that do not go together.
    #[error(
        "the policies {value} do not go together: one that acts before the model ({before}) can be followed by one that \
         acts in it ({within})"
    )]
    Composition {
        /// What was given.
        value: String,
        /// The policies that may come first.
        before: String,
        /// The policies that may come second.
        within: String,
    },
    /// A budget is neither a count nor a share.
    #[error(
        "{value:?} is not a budget: give a number of vision tokens, for example 64, or a share of all of them, \
         from 0% to 100%, for example 12.5%"
    )]
    Budget {
        /// What was given.
        value: String,
    },
    /// What a policy that a program brings itself has to say.
    #[error("{0}")]
    Custom(String),
    /// A schedule is not of the form F/K/E.
    #[error(
        "the schedule {value:?} is not of the form F/K/E, for example 18/10/28: fusion layer, tokens kept, first layer without vision"
    )]
    Schedule {
        /// What was given.
        value: String,
    },
    /// A policy file is not TOML, or has a key or value that no policy has.
    #[error("{}line {line}: {message}", .path.as_ref().map_or(String::from("policy, "), |p| format!("policy file {}, ", p.display())))]
    File {
        /// The file, if it was one.
        path: Option<PathBuf>,
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
    /// A policy file cannot be read.
    #[error("cannot read the policy file {}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
}

impl PolicyName {
    /// Policies, in words.
    pub(super) fn listed(names: &[Self]) -> String {
        let words: Vec<&str> = names.iter().map(|name| name.as_str()).collect();
        let noun = if words.len() == 1 { "policy" } else { "policies" };
        format!("the {noun} {}", words.join(", "))
    }
}

/// Fails unless `value` is a number within `range`; an upper end of `f64::MAX` means "or more".
pub(in crate::policy) fn check_range(
    field: &'static str,
    value: f64,
    range: RangeInclusive<f64>,
) -> Result<(), PolicyError> {
    if range.contains(&value) {
        return Ok(());
    }
    let (low, high) = range.into_inner();
    let range = if high == f64::MAX {
        format!("{low} or more")
    } else {
        format!("from {low} to {high}")
    };
    Err(out_of_range(field, value, range))
}

/// Fails unless `value` lies from `min` to `max`; without `max` there is no upper end.
pub(in crate::policy) fn check_count(
    field: &'static str,
    value: usize,
    min: usize,
    max: Option<usize>,
) -> Result<(), PolicyError> {
    if value >= min && max.is_none_or(|max| value <= max) {
        return Ok(());
    }
    let range = match max {
        Some(max) => format!("from {min} to {max}"),
        None => format!("{min} or more"),
    };
    Err(out_of_range(field, value, range))
}

fn out_of_range(field: &'static str, value: impl Display, range: String) -> PolicyError {
    PolicyError::OutOfRange {
        field,
        value: value.to_string(),
        range,
    }
}
