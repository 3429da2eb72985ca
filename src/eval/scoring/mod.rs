//! Judging answers. Each rule is in a file of its own and is what the benchmark's own evaluation does; where a rule
//! has a quirk it is kept, because published numbers contain it. `docs/eval.md` has the rules in words.

mod choice;
pub mod mme;
mod text;
mod vqa;
pub mod yes_no;

use std::str::FromStr;

use serde::{Deserialize, Serialize};

pub use text::normalise;

use super::question::Question;

/// How an answer is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scoring {
    /// Right if it is one of the answers to the letter, blanks around it aside.
    #[default]
    Exact,
    /// Right if it, or its first sentence, is one of the answers once both are normalised; see [`normalise`].
    Relaxed,
    /// GQA: right if it is one of the answers, both in lower case and without periods at the end.
    Gqa,
    /// VQA's soft accuracy over several people's answers, as computed for TextVQA.
    Vqa,
    /// POPE: yes or no, read by LLaVA's rule.
    YesNo,
    /// MME: yes or no, read by MME's rule, two questions to a picture.
    Mme,
    /// Multiple choice: the answers are letters.
    Choice,
}

/// What an answer is worth.
#[derive(Debug, Clone, PartialEq)]
pub struct Grade {
    /// From 0, wrong, to 1, right. Between them only with [`Scoring::Vqa`].
    pub score: f64,
    /// What was read out of the answer, by the rules that read something: `yes`, `no`, or an option's letter.
    pub read: Option<String>,
}

impl Scoring {
    const ALL: [(&'static str, Self); 7] = [
        ("exact", Self::Exact),
        ("relaxed", Self::Relaxed),
        ("gqa", Self::Gqa),
        ("vqa", Self::Vqa),
        ("yes_no", Self::YesNo),
        ("mme", Self::Mme),
        ("choice", Self::Choice),
    ];

    /// The name in question files.
    pub fn name(self) -> &'static str {
        let entry = Self::ALL.iter().find(|(_, scoring)| *scoring == self);
        entry.map_or("", |(name, _)| name)
    }

    /// Whether a score is 0 or 1 and nothing between, so that it is a proportion that scores average to.
    pub fn is_binary(self) -> bool {
        self != Self::Vqa
    }

    /// Whether what is read is yes or no.
    pub fn is_yes_no(self) -> bool {
        matches!(self, Self::YesNo | Self::Mme)
    }
}

impl FromStr for Scoring {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(known, _)| *known == name);
        found.map(|&(_, scoring)| scoring).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("is {name:?}, but must be one of: {}", known.join(", "))
        })
    }
}

impl Question {
    /// What `text` is worth as an answer.
    pub fn grade(&self, text: &str) -> Grade {
        let text = text.trim();
        let is_answer = |matches: &dyn Fn(&str) -> bool| self.answers.iter().any(|answer| matches(answer));
        let right = |is_right: bool| Grade {
            score: f64::from(u8::from(is_right)),
            read: None,
        };
        match self.scoring {
            Scoring::Exact => right(is_answer(&|answer| answer.trim() == text)),
            Scoring::Relaxed => right(is_answer(&|answer| text::matches_relaxed(text, answer))),
            Scoring::Gqa => right(is_answer(&|answer| {
                text::without_periods(answer) == text::without_periods(text)
            })),
            Scoring::Vqa => Grade {
                score: vqa::soft_accuracy(text, &self.answers),
                read: None,
            },
            Scoring::YesNo => self.grade_read(Some(yes_no::read_pope(text).to_owned())),
            Scoring::Mme => self.grade_read(yes_no::read_mme(text).map(str::to_owned)),
            Scoring::Choice => self.grade_read(choice::read(text, &self.options).map(String::from)),
        }
    }

    fn grade_read(&self, read: Option<String>) -> Grade {
        let is_right = |read: &String| {
            self.answers
                .iter()
                .any(|answer| answer.trim().eq_ignore_ascii_case(read))
        };
        Grade {
            score: f64::from(u8::from(read.as_ref().is_some_and(is_right))),
            read,
        }
    }

    /// What makes it impossible to judge an answer to this question, as the end of a sentence that begins with a
    /// field's name.
    pub(super) fn problem(&self) -> Option<String> {
        let answers = &self.answers;
        let letters = 'A'..='Z';
        match self.scoring {
            _ if answers.is_empty() => Some("answers is empty: list what counts as right".to_owned()),
            Scoring::Vqa if answers.len() < vqa::FEWEST_ANSWERS => Some(format!(
                "answers has {} entries, but scoring vqa needs {} or more, from different people",
                answers.len(),
                vqa::FEWEST_ANSWERS
            )),
            Scoring::YesNo | Scoring::Mme => {
                let is_known =
                    |answer: &String| ["yes", "no"].contains(&answer.trim().to_lowercase().as_str());
                let unknown = answers.iter().find(|answer| !is_known(answer));
                unknown.map(|answer| {
                    format!(
                        "answers has {answer:?}, but scoring {} needs yes or no",
                        self.scoring.name()
                    )
                })
            }
            Scoring::Choice => {
                let n_options = if self.options.is_empty() {
                    26
                } else {
                    self.options.len()
                };
                let is_letter = |answer: &String| {
                    letters
                        .clone()
                        .take(n_options)
                        .any(|letter| answer.trim() == letter.to_string())
                };
                let unknown = answers.iter().find(|answer| !is_letter(answer));
                unknown.map(|answer| {
                    format!("answers has {answer:?}, but scoring choice needs the letter of an option")
                })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::question::tests::question;

    #[test]
    fn exact_is_to_the_letter() {
        let asked = question("q", Scoring::Exact, &["red square", "square"]);
        assert_eq!(asked.grade(" square\n").score, 1.0);
        assert_eq!(asked.grade("Square").score, 0.0);
        assert_eq!(asked.grade("square.").score, 0.0);
    }

    #[test]
    fn gqa_ignores_case_and_final_periods_only() {
        let asked = question("q", Scoring::Gqa, &["traffic light"]);
        assert_eq!(asked.grade("Traffic light.").score, 1.0);
        assert_eq!(asked.grade("the traffic light").score, 0.0);
        assert_eq!(asked.grade("traffic light!").score, 0.0);
    }

    #[test]
    fn what_was_read_is_compared_with_the_answers() {
        let asked = question("q", Scoring::YesNo, &["Yes"]);
        assert_eq!(
            asked.grade("yes, there is"),
            Grade {
                score: 1.0,
                read: Some("yes".to_owned())
            }
        );
        assert_eq!(asked.grade("No").score, 0.0);
        let asked = question("q", Scoring::Mme, &["No"]);
        assert_eq!(asked.grade("no").score, 1.0);
        assert_eq!(
            asked.grade("perhaps"),
            Grade {
                score: 0.0,
                read: None
            }
        );
    }

    #[test]
    fn answers_that_a_rule_cannot_use_are_problems() {
        assert!(question("q", Scoring::Exact, &[]).problem().is_some());
        assert!(question("q", Scoring::Exact, &["x"]).problem().is_none());
        assert!(question("q", Scoring::YesNo, &["maybe"]).problem().is_some());
        assert!(question("q", Scoring::Mme, &["Yes"]).problem().is_none());
        assert!(question("q", Scoring::Vqa, &["a", "a", "a"]).problem().is_some());
        assert!(
            question("q", Scoring::Vqa, &["a", "a", "a", "a"])
                .problem()
                .is_none()
        );
        let mut choice = question("q", Scoring::Choice, &["C"]);
        assert!(choice.problem().is_none());
        choice.options = vec!["left".to_owned(), "right".to_owned()];
        assert!(choice.problem().is_some());
    }

    #[test]
    fn names_read_back() {
        for (name, scoring) in Scoring::ALL {
            assert_eq!(name.parse(), Ok(scoring));
            assert_eq!(scoring.name(), name);
            assert_eq!(serde_json::to_value(scoring).unwrap(), name);
            assert!(include_str!("../../../docs/eval.md").contains(&format!("### `{name}`")));
        }
        assert!("exakt".parse::<Scoring>().unwrap_err().contains("relaxed"));
    }
}
