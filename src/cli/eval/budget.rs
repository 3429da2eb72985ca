//! The field of a policy that says how much it keeps.

use std::ops::RangeInclusive;

use serde_json::Value;
use visipruner::policy::PolicyConfig;
use visipruner::policy::budget::Budget;

/// A field with a number of tokens, or with a layer, and what it may be.
#[derive(Debug, Clone, PartialEq)]
pub struct BudgetField {
    field: &'static str,
    /// For `n`, the entries are `n` times these, rounded, and no more than there is.
    shares: Vec<f64>,
    most: usize,
    /// The values of `n` among which the policy goes from cheap to dense.
    pub range: RangeInclusive<usize>,
}

impl BudgetField {
    /// The field that the policy is sized by: `budget` before the model, else `keep`, else `exit_from`. `None` for a
    /// policy that finds out by itself how much it keeps.
    pub fn of(policy: &PolicyConfig, n_vision: usize, n_layer: usize) -> Option<Self> {
        let fields = serde_json::to_value(policy).ok()?;
        let one = |field, range: RangeInclusive<usize>| {
            Some(Self {
                field,
                shares: vec![1.0],
                most: *range.end(),
                range,
            })
        };
        if fields.get("budget").is_some() {
            return one("budget", 1..=n_vision);
        }
        match fields.get("keep") {
            Some(Value::Array(keep)) => {
                let shares = shares(keep, n_vision);
                let smallest = shares.iter().copied().filter(|&share| share > 0.0);
                let longest = n_vision as f64 / smallest.fold(1.0, f64::min);
                Some(Self {
                    range: 0..=longest.ceil() as usize,
                    field: "keep",
                    most: n_vision,
                    shares,
                })
            }
            Some(_) => one("keep", 0..=n_vision),
            None if fields.get("exit_from").is_some() => one("exit_from", 1..=n_layer),
            None => None,
        }
    }

    /// Field and value for `n`.
    pub fn at(&self, n: usize) -> (String, String) {
        let entry = |share: &f64| ((share * n as f64).round() as usize).min(self.most).to_string();
        let entries = self.shares.iter().map(entry);
        (self.field.to_owned(), entries.collect::<Vec<_>>().join(","))
    }
}

/// The budgets of several layers as shares of the first one, so that a schedule keeps its form. Counts are not cut to
/// the tokens that there are: 300, 200 and 110 have a form even where there are 64.
fn shares(keep: &[Value], n_vision: usize) -> Vec<f64> {
    let budgets = keep.iter().map(|entry| {
        let text = entry.as_str().map_or_else(|| entry.to_string(), str::to_owned);
        match text.parse() {
            Ok(Budget::Percent(percent)) => percent / 100.0 * n_vision as f64,
            Ok(Budget::Count(n)) => n as f64,
            Err(_) => 0.0,
        }
    });
    let budgets: Vec<f64> = budgets.collect();
    let first = budgets.first().copied().filter(|&first| first > 0.0);
    let share = |budget: &f64| first.map_or(1.0, |first| (budget / first).min(1.0));
    budgets.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use visipruner::policy::PolicyOverrides;

    use super::*;

    fn at(file: &str, n: usize) -> Option<(String, RangeInclusive<usize>)> {
        let policy = PolicyOverrides::from_toml(file).unwrap();
        let policy = policy.apply(&PolicyConfig::Off).unwrap();
        let budget = BudgetField::of(&policy, 64, 10)?;
        let (field, value) = budget.at(n);
        Some((format!("{field}={value}"), budget.range))
    }

    #[test]
    fn policies_are_sized_by_one_field() {
        let found = |field: &str, range| Some((field.to_owned(), range));
        assert_eq!(at("policy = 'off'", 3), None);
        assert_eq!(at("policy = 'visipruner'", 3), None);
        assert_eq!(at("policy = 'fastv'", 9), found("keep=9", 0..=64));
        assert_eq!(at("policy = 'random'\nbudget = 5", 9), found("budget=9", 1..=64));
        assert_eq!(
            at("policy = 'random+visipruner'\nbudget = 5", 9),
            found("budget=9", 1..=64)
        );
        assert_eq!(at("policy = 'vtw'", 9), found("exit_from=9", 1..=10));
        assert_eq!(
            at("policy = 'fixed'\nfusion_layer = 4\nkeep = 8\nexit_from = 7", 3),
            found("keep=3", 0..=64)
        );
    }

    /// 50, 25, 12.5 %: halves each time. 300, 200, 110 of 300 are 1, 2/3, 11/30: of 30 tokens 30, 20, 11.
    #[test]
    fn schedules_keep_their_form() {
        let value = |file, n| at(file, n).unwrap().0;
        assert_eq!(value("policy = 'pyramiddrop'", 20), "keep=20,10,5");
        assert_eq!(value("policy = 'sparsevlm'", 30), "keep=30,20,11");
        // Up to all tokens after every layer: 64 / (11/30) is 174.5.
        assert_eq!(value("policy = 'sparsevlm'", 96), "keep=64,64,35");
        assert_eq!(
            at("policy = 'sparsevlm'", 175).unwrap(),
            ("keep=64,64,64".to_owned(), 0..=175)
        );
    }
}
