//! The name of a policy, or of two that act together.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{PolicyError, PolicyName};

/// One policy, or two: `visipruner`, `divprune+visipruner`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum PolicyChoice {
    /// One.
    One(PolicyName),
    /// Two.
    Composed {
        /// Acts before layer 0.
        before: PolicyName,
        /// Acts between layers.
        within: PolicyName,
    },
}

impl PolicyChoice {
    /// Both, this one first.
    ///
    /// # Errors
    /// [`PolicyError::Composition`] unless this one acts before layer 0 and the other one between layers.
    pub fn followed_by(self, other: Self) -> Result<Self, PolicyError> {
        match (self, other) {
            (Self::One(before), Self::One(within))
                if before.acts_before_model() && !within.acts_before_model() && within != PolicyName::Off =>
            {
                Ok(Self::Composed { before, within })
            }
            _ => Err(composition(format!("{self}+{other}"))),
        }
    }

    /// The policies that it names.
    pub fn parts(self) -> impl Iterator<Item = PolicyName> {
        let (first, second) = match self {
            Self::One(name) => (name, None),
            Self::Composed { before, within } => (before, Some(within)),
        };
        std::iter::once(first).chain(second)
    }
}

fn composition(value: String) -> PolicyError {
    let those = |before: bool| {
        let names = PolicyName::ALL.iter().filter(|&&name| name != PolicyName::Off);
        let names = names.filter(|name| name.acts_before_model() == before);
        names.map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
    };
    PolicyError::Composition {
        value,
        before: those(true),
        within: those(false),
    }
}

impl From<PolicyName> for PolicyChoice {
    fn from(name: PolicyName) -> Self {
        Self::One(name)
    }
}

impl fmt::Display for PolicyChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(name) => name.fmt(f),
            Self::Composed { before, within } => f.pad(&format!("{before}+{within}")),
        }
    }
}

impl FromStr for PolicyChoice {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let names = text
            .split('+')
            .map(|word| word.trim().parse::<PolicyName>())
            .collect::<Result<Vec<_>, _>>()?;
        match names[..] {
            [name] => Ok(name.into()),
            [before, within] => Self::One(before).followed_by(Self::One(within)),
            _ => Err(composition(text.to_owned())),
        }
    }
}

impl TryFrom<String> for PolicyChoice {
    type Error = PolicyError;

    fn try_from(text: String) -> Result<Self, PolicyError> {
        text.parse()
    }
}

impl From<PolicyChoice> for String {
    fn from(choice: PolicyChoice) -> Self {
        choice.to_string()
    }
}
