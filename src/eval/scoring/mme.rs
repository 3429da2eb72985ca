//! MME's figures (Fu et al., 2023, arXiv 2306.13394): of each subtask the accuracy over questions and the accuracy+
//! over pictures, both questions of which must be right. Their sum in percent is the subtask's score, at most 200.

use serde::{Deserialize, Serialize};

/// The subtasks whose scores add up to the perception score, at most 2,000.
pub const PERCEPTION: [&str; 10] = [
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
];
/// The subtasks whose scores add up to the cognition score, at most 800.
pub const COGNITION: [&str; 4] = [
    "commonsense_reasoning",
    "numerical_calculation",
    "text_translation",
    "code_reasoning",
];

/// The score of one subtask.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct PairScore {
    /// Pictures of which at least two questions were answered.
    pub n_pairs: usize,
    /// Those of them of which every answer is right.
    pub accuracy_plus: f64,
    /// `100 * (accuracy + accuracy_plus)`
    pub score: f64,
}

/// The sums over subtasks.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Totals {
    /// Of the subtasks of perception that were asked; the published figure has all ten.
    pub perception: f64,
    /// Subtasks of perception that were asked.
    pub n_perception: usize,
    /// Of the subtasks of cognition that were asked; the published figure has all four.
    pub cognition: f64,
    /// Subtasks of cognition that were asked.
    pub n_cognition: usize,
}

/// The score of a subtask from its accuracy and, for each picture, how many of its questions were answered and how
/// many of them were right. `None` without a pair.
pub fn pair_score(accuracy: f64, pictures: impl Iterator<Item = (usize, usize)>) -> Option<PairScore> {
    let (mut n_pairs, mut n_right) = (0, 0);
    for (n_asked, n_right_of_it) in pictures.filter(|(n_asked, _)| *n_asked > 1) {
        n_pairs += 1;
        n_right += usize::from(n_right_of_it == n_asked);
    }
    let accuracy_plus = n_right as f64 / n_pairs as f64;
    (n_pairs > 0).then_some(PairScore {
        n_pairs,
        accuracy_plus,
        score: 100.0 * (accuracy + accuracy_plus),
    })
}

/// The sums of the subtasks' scores. Subtasks that MME does not have count nowhere.
pub fn totals<'a>(scores: impl Iterator<Item = (&'a str, f64)>) -> Totals {
    let mut totals = Totals {
        perception: 0.0,
        n_perception: 0,
        cognition: 0.0,
        n_cognition: 0,
    };
    for (subtask, score) in scores {
        if PERCEPTION.contains(&subtask) {
            totals.perception += score;
            totals.n_perception += 1;
        } else if COGNITION.contains(&subtask) {
            totals.cognition += score;
            totals.n_cognition += 1;
        }
    }
    totals
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Three pictures with both, one and no question right: accuracy 3/6, accuracy+ 1/3. A lone question is no pair.
    #[test]
    fn a_subtask() {
        let pictures = [(2, 2), (2, 1), (2, 0), (1, 1)];
        let score = pair_score(0.5, pictures.into_iter()).unwrap();
        assert_eq!((score.n_pairs, score.accuracy_plus), (3, 1.0 / 3.0));
        assert!((score.score - 83.333_333).abs() < 1e-5);
        assert_eq!(pair_score(1.0, [(1, 1)].into_iter()), None);
    }

    #[test]
    fn sums_over_subtasks() {
        let scores = [
            ("existence", 190.0),
            ("OCR", 140.0),
            ("code_reasoning", 60.5),
            ("poetry", 200.0),
        ];
        let totals = totals(scores.into_iter());
        assert_eq!((totals.perception, totals.n_perception), (330.0, 2));
        assert_eq!((totals.cognition, totals.n_cognition), (60.5, 1));
    }
}
