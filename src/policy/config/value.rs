//! Values of fields: how they are written, and how those of several sources become one.

use std::str::FromStr;

use super::{ExitCount, Layer0, PolicyError, ShallowMask, Stages, TokensThresholdUnit, VisualSelfAttention};
use crate::policy::budget::{Budget, Budgets};

/// What a value looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FieldKind {
    /// A whole number, 0 or more.
    Whole,
    /// Whole numbers with commas between them.
    WholeList,
    /// Any number.
    Number,
    /// True or false.
    Switch,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Text of its own form, such as a budget.
    Text,
}

/// A type that a field may have.
pub(super) trait FieldValue: Sized {
    /// What its values look like.
    const KIND: FieldKind;

    /// The value of a field, from one word.
    fn read(field: &'static str, text: &str) -> Result<Self, PolicyError>;
}

/// Types whose own form says what is wrong.
macro_rules! own_form {
    ($($type:ty: $kind:expr;)+) => {
        $(impl FieldValue for $type {
            const KIND: FieldKind = $kind;

            fn read(_field: &'static str, text: &str) -> Result<Self, PolicyError> {
                text.parse()
            }
        })+
    };
}

own_form! {
    Stages: FieldKind::Text;
    Budget: FieldKind::Text;
    Budgets: FieldKind::Text;
    TokensThresholdUnit: FieldKind::Word(Self::WORDS);
    ExitCount: FieldKind::Word(Self::WORDS);
    Layer0: FieldKind::Word(Self::WORDS);
    ShallowMask: FieldKind::Word(Self::WORDS);
    VisualSelfAttention: FieldKind::Word(Self::WORDS);
}

/// Types of the standard library, with what their values are in words.
macro_rules! plain {
    ($($type:ty: $kind:expr, $words:literal;)+) => {
        $(impl FieldValue for $type {
            const KIND: FieldKind = $kind;

            fn read(field: &'static str, text: &str) -> Result<Self, PolicyError> {
                plain(field, text, $words)
            }
        })+
    };
}

plain! {
    usize: FieldKind::Whole, "a whole number, 0 or more";
    u64: FieldKind::Whole, "a whole number, 0 or more";
    f64: FieldKind::Number, "a number";
    bool: FieldKind::Switch, "true or false";
}

impl FieldValue for Vec<usize> {
    const KIND: FieldKind = FieldKind::WholeList;

    fn read(field: &'static str, text: &str) -> Result<Self, PolicyError> {
        text.split(',')
            .map(|number| plain(field, number, "whole numbers, 0 or more"))
            .collect()
    }
}

fn plain<T: FromStr>(field: &'static str, text: &str, words: &str) -> Result<T, PolicyError> {
    text.trim().parse().map_err(|_| PolicyError::OutOfRange {
        field,
        value: text.to_owned(),
        range: words.to_owned(),
    })
}

/// A policy's own value of a field, made from what was given for it.
pub(in crate::policy) trait ValueOf<Given>: Sized {
    /// Fails if the policy takes fewer values than the field has.
    fn of(field: &'static str, given: &Given) -> Result<Self, PolicyError>;
}

impl<T: Clone> ValueOf<T> for T {
    fn of(_field: &'static str, given: &T) -> Result<Self, PolicyError> {
        Ok(given.clone())
    }
}

impl<T: Clone> ValueOf<T> for Option<T> {
    fn of(_field: &'static str, given: &T) -> Result<Self, PolicyError> {
        Ok(Some(given.clone()))
    }
}

impl ValueOf<Budgets> for Vec<Budget> {
    fn of(_field: &'static str, given: &Budgets) -> Result<Self, PolicyError> {
        Ok(given.0.clone())
    }
}

/// What is given wins over what was there, that over the default.
pub(in crate::policy) fn in_force<Given, T: ValueOf<Given> + Clone>(
    field: &'static str,
    given: Option<&Given>,
    base: Option<&T>,
    default: Option<T>,
    reason: &'static str,
) -> Result<T, PolicyError> {
    match given {
        Some(given) => T::of(field, given),
        None => base
            .cloned()
            .or(default)
            .ok_or(PolicyError::Missing { field, reason }),
    }
}
