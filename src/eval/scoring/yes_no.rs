//! Yes-or-no questions: how the answer is read, and what POPE and MME make of many of them.

use serde::{Deserialize, Serialize};

/// LLaVA's rule for POPE: of the text before the first period, commas deleted, split at blanks, any of the words
/// `No`, `no` and `not` makes it `no`; everything else is `yes`.
pub fn read_pope(text: &str) -> &'static str {
    let sentence = text.split('.').next().unwrap_or("").replace(',', "");
    let is_no = sentence
        .split(' ')
        .any(|word| ["No", "no", "not"].contains(&word));
    if is_no { "no" } else { "yes" }
}

/// MME's rule: `yes` or `no` within the first four characters, in any case, `yes` first; otherwise it is neither,
/// which is wrong.
pub fn read_mme(text: &str) -> Option<&'static str> {
    let start: String = text.trim().to_lowercase().chars().take(4).collect();
    ["yes", "no"].into_iter().find(|word| start.contains(word))
}

/// Answers to yes-or-no questions, counted. An answer that is neither (MME) counts as `no` that is wrong, as POPE and
/// MME have no third place for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Confusion {
    /// Said yes, and is.
    pub true_yes: usize,
    /// Said yes, and is not.
    pub false_yes: usize,
    /// Said no, and is not.
    pub true_no: usize,
    /// Said no (or neither), and is.
    pub false_no: usize,
    /// Said neither, and is not: no `yes`, but wrong all the same.
    pub neither_no: usize,
}

impl Confusion {
    /// Counts an answer.
    pub fn add(&mut self, read: Option<&str>, expected_yes: bool) {
        let count = match (read, expected_yes) {
            (Some("yes"), true) => &mut self.true_yes,
            (Some("yes"), false) => &mut self.false_yes,
            (_, true) => &mut self.false_no,
            (Some(_), false) => &mut self.true_no,
            (None, false) => &mut self.neither_no,
        };
        *count += 1;
    }

    /// Of those that it says yes to, how many are. `None` where it never says yes.
    pub fn precision(&self) -> Option<f64> {
        ratio(self.true_yes, self.true_yes + self.false_yes)
    }

    /// Of those that are, how many it says yes to. `None` where none is.
    pub fn recall(&self) -> Option<f64> {
        ratio(self.true_yes, self.true_yes + self.false_no)
    }

    /// The harmonic mean of precision and recall, `2 TP / (2 TP + FP + FN)`: 0 where yes is never right, `None` where
    /// nothing is yes and nothing is said to be.
    pub fn f1(&self) -> Option<f64> {
        ratio(
            2 * self.true_yes,
            2 * self.true_yes + self.false_yes + self.false_no,
        )
    }

    /// How much of all it says yes to.
    pub fn yes_ratio(&self) -> Option<f64> {
        let n_yes = self.true_yes + self.false_yes;
        ratio(n_yes, n_yes + self.true_no + self.false_no + self.neither_no)
    }
}

fn ratio(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llavas_rule_reads_words_of_the_first_sentence() {
        for (text, read) in [
            ("No", "no"),
            ("no.", "no"),
            ("No, there is none", "no"),
            ("There is not. yes", "no"),
            ("Yes. There is no doubt", "yes"),
            ("Nothing", "yes"),
            ("NO", "yes"),
            ("", "yes"),
        ] {
            assert_eq!(read_pope(text), read, "{text:?}");
        }
    }

    #[test]
    fn mmes_rule_reads_four_characters() {
        for (text, read) in [
            ("Yes, it is", Some("yes")),
            ("NO", Some("no")),
            (" no.", Some("no")),
            ("not", Some("no")),
            ("A no", Some("no")),
            ("It is no", None),
            ("y", None),
        ] {
            assert_eq!(read_mme(text), read, "{text:?}");
        }
    }

    /// 6 times yes and right, 2 times yes and wrong, 1 miss, 3 times no and right.
    #[test]
    fn figures_of_a_small_table() {
        let mut table = Confusion::default();
        for (read, expected, n) in [
            ("yes", true, 6),
            ("yes", false, 2),
            ("no", true, 1),
            ("no", false, 3),
        ] {
            (0..n).for_each(|_| table.add(Some(read), expected));
        }
        assert_eq!(table.precision(), Some(0.75));
        assert_eq!(table.recall(), Some(6.0 / 7.0));
        assert_eq!(table.f1(), Some(0.8));
        assert_eq!(table.yes_ratio(), Some(8.0 / 12.0));
        table.add(None, true);
        assert_eq!(table.recall(), Some(0.75));
        table.add(None, false);
        assert_eq!(table.yes_ratio(), Some(8.0 / 14.0));
    }

    #[test]
    fn figures_without_a_denominator_are_none() {
        let mut table = Confusion::default();
        assert_eq!(
            (table.precision(), table.f1(), table.yes_ratio()),
            (None, None, None)
        );
        table.add(Some("no"), true);
        assert_eq!(
            (table.precision(), table.recall(), table.f1()),
            (None, Some(0.0), Some(0.0))
        );
    }
}
