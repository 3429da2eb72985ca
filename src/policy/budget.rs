//! How many vision tokens are kept: a count, or a share of all vision tokens of the prompt.

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::PolicyError;
use super::config::error::check_range;

/// A count (`64`) or a share of all vision tokens of the prompt, over all images (`12.5%`).
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Budget {
    /// So many tokens. More than there are keeps all.
    Count(usize),
    /// So many percent, from 0 to 100.
    Percent(f64),
}

impl Budget {
    /// The tokens that are kept of `n_vision`: never more. A share is rounded to the nearest token, halves up; a share
    /// above 0 is at least one token.
    pub fn of(self, n_vision: usize) -> usize {
        match self {
            Self::Count(n) => n.min(n_vision),
            Self::Percent(percent) if percent > 0.0 => {
                let n = (percent / 100.0 * n_vision as f64).round() as usize;
                n.max(1).min(n_vision)
            }
            Self::Percent(_) => 0,
        }
    }

    /// Whether nothing is kept, whatever the prompt.
    pub fn is_zero(self) -> bool {
        self == Self::Count(0) || self == Self::Percent(0.0)
    }

    pub(super) fn validate(self, field: &'static str) -> Result<(), PolicyError> {
        match self {
            Self::Count(_) => Ok(()),
            Self::Percent(percent) => check_range(field, percent, 0.0..=100.0),
        }
    }
}

impl fmt::Display for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(percent) => write!(f, "{percent}%"),
        }
    }
}

impl FromStr for Budget {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let text = text.trim();
        let number = match text.strip_suffix('%') {
            Some(percent) => percent.trim_end().parse().ok().map(Self::Percent),
            None => text.parse().ok().map(Self::Count),
        };
        let is_share =
            |budget: &Self| !matches!(budget, Self::Percent(percent) if !(0.0..=100.0).contains(percent));
        number.filter(is_share).ok_or_else(|| PolicyError::Budget {
            value: text.to_owned(),
        })
    }
}

impl Serialize for Budget {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(n) => serializer.serialize_u64(*n as u64),
            Self::Percent(_) => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Budget {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(BudgetVisitor)
    }
}

struct BudgetVisitor;

impl Visitor<'_> for BudgetVisitor {
    type Value = Budget;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number of tokens (64) or a share of all vision tokens (\"12.5%\")")
    }

    fn visit_u64<E: de::Error>(self, n: u64) -> Result<Budget, E> {
        let n = usize::try_from(n);
        n.map(Budget::Count)
            .map_err(|_| E::invalid_value(de::Unexpected::Other("a number beyond all prompts"), &self))
    }

    fn visit_i64<E: de::Error>(self, n: i64) -> Result<Budget, E> {
        let count = u64::try_from(n).map_err(|_| E::invalid_value(de::Unexpected::Signed(n), &self))?;
        self.visit_u64(count)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Budget, E> {
        text.parse().map_err(E::custom)
    }
}

/// One budget, or several separated by commas; in a file one budget or a list.
#[derive(Debug, Clone, PartialEq)]
pub struct Budgets(pub Vec<Budget>);

impl FromStr for Budgets {
    type Err = PolicyError;

    fn from_str(list: &str) -> Result<Self, PolicyError> {
        list.split(',')
            .map(str::parse)
            .collect::<Result<_, _>>()
            .map(Self)
    }
}

impl fmt::Display for Budgets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&listed(&self.0))
    }
}

impl<'de> Deserialize<'de> for Budgets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ListVisitor;

        impl<'de> Visitor<'de> for ListVisitor {
            type Value = Budgets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}, or a list of them", Expected(&BudgetVisitor))
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Budgets, E> {
                BudgetVisitor.visit_u64(n).map(|budget| Budgets(vec![budget]))
            }

            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Budgets, E> {
                BudgetVisitor.visit_i64(n).map(|budget| Budgets(vec![budget]))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Budgets, E> {
                BudgetVisitor.visit_str(text).map(|budget| Budgets(vec![budget]))
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Budgets, A::Error> {
                let mut budgets = Vec::new();
                while let Some(budget) = list.next_element()? {
                    budgets.push(budget);
                }
                Ok(Budgets(budgets))
            }
        }

        deserializer.deserialize_any(ListVisitor)
    }
}

/// What a visitor expects, in words.
struct Expected<'a>(&'a dyn de::Expected);

impl fmt::Display for Expected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Values with commas between them.
pub(super) fn listed<T: ToString>(values: &[T]) -> String {
    let words: Vec<String> = values.iter().map(ToString::to_string).collect();
    words.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_round_to_tokens_and_never_to_nothing() {
        for (percent, n_vision, expected) in [
            (50.0, 576, 288),
            (12.5, 576, 72),
            (12.5, 64, 8),
            (9.8, 576, 56),
            (50.0, 5, 3),
            (0.1, 64, 1),
            (0.0, 64, 0),
            (100.0, 7, 7),
            (100.0, 0, 0),
            (0.1, 0, 0),
        ] {
            assert_eq!(
                Budget::Percent(percent).of(n_vision),
                expected,
                "{percent}% of {n_vision}"
            );
        }
        assert_eq!((Budget::Count(64).of(576), Budget::Count(64).of(5)), (64, 5));
    }

    #[test]
    fn texts_round_trip() {
        for text in ["0", "64", "12.5%", "100%"] {
            assert_eq!(text.parse::<Budget>().unwrap().to_string(), text);
        }
        assert_eq!(" 9.8 % ".parse::<Budget>().unwrap(), Budget::Percent(9.8));
        assert_eq!("300, 50%".parse::<Budgets>().unwrap().to_string(), "300,50%");
        for text in ["", "-1", "1.5", "101%", "-1%", "nan%", "half", "%"] {
            let error = text.parse::<Budget>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!(
                    "{text:?} is not a budget: give a number of vision tokens, for example 64, or a share of all of them, \
                     from 0% to 100%, for example 12.5%"
                )
            );
        }
    }

    #[test]
    fn files_have_numbers_and_shares() {
        #[derive(Debug, Deserialize, PartialEq)]
        struct File {
            keep: Budgets,
        }
        let read = |text: &str| toml::from_str::<File>(text).map(|file| file.keep.0);
        assert_eq!(read("keep = 64").unwrap(), [Budget::Count(64)]);
        assert_eq!(read("keep = '5%'").unwrap(), [Budget::Percent(5.0)]);
        assert_eq!(
            read("keep = [3, '5%']").unwrap(),
            [Budget::Count(3), Budget::Percent(5.0)]
        );
        for bad in ["keep = -1", "keep = 1.5", "keep = [true]", "keep = 'some'"] {
            assert!(read(bad).is_err(), "{bad}");
        }
        let json = serde_json::to_string(&[Budget::Count(3), Budget::Percent(12.5)]).unwrap();
        assert_eq!(json, "[3,\"12.5%\"]");
    }
}
