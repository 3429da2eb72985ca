//! How near to the model as it is: per prompt, over prompts, and against what is allowed.

use serde::Serialize;

use super::Observation;
use super::kl::kl_divergence;

/// Where `max_kl` is set, this share of the prompts may be farther from dense than [`FAR`] times as much.
const FAR_SHARE: f64 = 0.05;
/// See [`FAR_SHARE`].
const FAR: f64 = 5.0;

/// What is allowed. At least one of the two should be set.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Target {
    /// The divergence of the next token's distribution from that of the model without pruning, in nats: the mean over the
    /// prompts is at most this, and at most one in 20 prompts is beyond five times as much.
    pub max_kl: Option<f64>,
    /// The share of prompts whose answer is another one than without pruning, from 0 to 1.
    pub max_changed: Option<f64>,
}

impl Target {
    /// Whether what was measured is allowed.
    pub fn is_met(&self, score: &Score) -> bool {
        score.n > 0 && self.is_met_so_far(&Sums::of(score), score.n)
    }

    /// Whether more was measured than is allowed, and not by a single answer, which among few prompts says nothing.
    pub fn is_clearly_missed(&self, score: &Score) -> bool {
        let but_one = Sums {
            n_changed: score.n_changed.saturating_sub(1),
            n_far: score.n_far.saturating_sub(1),
            ..Sums::of(score)
        };
        score.n > 0 && !self.is_met_so_far(&but_one, score.n)
    }

    /// Whether `n` prompts may still come out as allowed, when some of them did as in `sums`: all sums can but grow.
    fn is_met_so_far(&self, sums: &Sums, n: usize) -> bool {
        let is_near = self
            .max_kl
            .is_none_or(|max_kl| sums.kl <= max_kl * n as f64 && sums.n_far as f64 <= FAR_SHARE * n as f64);
        is_near
            && self
                .max_changed
                .is_none_or(|max| sums.n_changed <= allowed(max, n))
    }

    fn is_far(&self, kl: f64) -> bool {
        self.max_kl.is_some_and(|max_kl| kl > FAR * max_kl)
    }
}

/// Whole prompts of `n`. A share such as 1 % of 100 must not fall short of 1 by rounding.
fn allowed(share: f64, n: usize) -> usize {
    (share * n as f64 + 1e-9) as usize
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kl = self.max_kl.map(|max| format!("a mean KL of at most {max} nats"));
        let changed = self
            .max_changed
            .map(|max| format!("at most {} % changed answers", rounded(100.0 * max)));
        let parts: Vec<String> = kl.into_iter().chain(changed).collect();
        f.write_str(&parts.join(" and "))
    }
}

/// Without the digits that come from binary fractions.
fn rounded(x: f64) -> f64 {
    (x * 1e6).round() / 1e6
}

/// One prompt against itself without pruning.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Distance {
    /// `KL(dense || this)` of the next token, in nats.
    pub kl: f64,
    /// Whether the first token of the answer is another one.
    pub first_changed: bool,
    /// Whether any token of the answer is another one.
    pub changed: bool,
}

impl Distance {
    /// From a run without pruning to another one.
    pub fn between(dense: &Observation, other: &Observation) -> Self {
        Self {
            kl: kl_divergence(&dense.logits, &other.logits),
            first_changed: dense.answer.first() != other.answer.first(),
            changed: dense.answer != other.answer,
        }
    }

    /// As [`Distance::between`], for a run of which only the first token counts.
    pub fn of_first_token(dense: &Observation, other: &Observation) -> Self {
        let distance = Self::between(dense, other);
        Self {
            changed: distance.first_changed,
            ..distance
        }
    }
}

/// Some prompts together.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Score {
    /// Prompts.
    pub n: usize,
    /// Mean of the divergence, in nats.
    pub mean_kl: f64,
    /// 95 % of the prompts are at most this far.
    pub kl_95: f64,
    /// The farthest prompt.
    pub max_kl: f64,
    /// Prompts with another first token.
    pub n_first_changed: usize,
    /// Prompts with another answer.
    pub n_changed: usize,
    /// Prompts that are far, where the target says what that is.
    pub n_far: usize,
}

/// What can but grow from prompt to prompt.
struct Sums {
    kl: f64,
    n_far: usize,
    n_changed: usize,
}

impl Sums {
    fn of(score: &Score) -> Self {
        Self {
            kl: score.mean_kl * score.n as f64,
            n_far: score.n_far,
            n_changed: score.n_changed,
        }
    }
}

impl Score {
    /// Of these prompts, as far as `target` is concerned.
    pub fn of(distances: &[Distance], target: &Target) -> Self {
        let n = distances.len();
        let mut kls: Vec<f64> = distances.iter().map(|distance| distance.kl).collect();
        kls.sort_by(f64::total_cmp);
        // Nearest rank.
        let at = |share: f64| kls.get(((share * n as f64).ceil() as usize).max(1) - 1).copied();
        let count = |is: &dyn Fn(&Distance) -> bool| distances.iter().filter(|d| is(d)).count();
        Self {
            n,
            mean_kl: kls.iter().sum::<f64>() / n.max(1) as f64,
            kl_95: at(0.95).unwrap_or(0.0),
            max_kl: at(1.0).unwrap_or(0.0),
            n_first_changed: count(&|d| d.first_changed),
            n_changed: count(&|d| d.changed),
            n_far: count(&|d| target.is_far(d.kl)),
        }
    }

    /// Whether no more prompts can make `target` be met over `n` of them.
    pub fn is_out_of_reach(&self, target: &Target, n: usize) -> bool {
        !target.is_met_so_far(&Sums::of(self), n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distance(kl: f64, changed: bool) -> Distance {
        Distance {
            kl,
            first_changed: false,
            changed,
        }
    }

    #[test]
    fn figures_of_twenty_prompts() {
        let target = Target {
            max_kl: Some(0.1),
            max_changed: None,
        };
        let mut distances: Vec<Distance> = (1..=20).map(|i| distance(f64::from(i) / 100.0, i > 18)).collect();
        distances.rotate_left(7);
        let score = Score::of(&distances, &target);
        assert!((score.mean_kl - 0.105).abs() < 1e-12);
        assert_eq!(
            (score.kl_95, score.max_kl, score.n_changed, score.n_far),
            (0.19, 0.2, 2, 0)
        );
        assert!(!target.is_met(&score));
        let wider = Target {
            max_kl: Some(0.106),
            ..target
        };
        assert!(wider.is_met(&score));
    }

    #[test]
    fn one_in_twenty_may_be_far() {
        let target = Target {
            max_kl: Some(0.1),
            max_changed: None,
        };
        let with_far = |n_far: usize| {
            let distances: Vec<Distance> = (0..20)
                .map(|i| distance(if i < n_far { 0.6 } else { 0.0 }, false))
                .collect();
            target.is_met(&Score::of(&distances, &target))
        };
        assert!(with_far(1));
        assert!(!with_far(2), "the mean is 0.06, but two are beyond 0.5");
    }

    #[test]
    fn changed_answers_are_counted_in_whole_prompts() {
        let target = Target {
            max_kl: None,
            max_changed: Some(0.01),
        };
        let is_met = |n: usize, n_changed: usize| {
            let distances: Vec<Distance> = (0..n).map(|i| distance(9.0, i < n_changed)).collect();
            target.is_met(&Score::of(&distances, &target))
        };
        assert!(is_met(100, 1) && !is_met(99, 1) && is_met(99, 0) && !is_met(100, 2));
        assert!(!is_met(0, 0), "nothing was measured");
        let is_missed = |n: usize, n_changed: usize| {
            let distances: Vec<Distance> = (0..n).map(|i| distance(9.0, i < n_changed)).collect();
            target.is_clearly_missed(&Score::of(&distances, &target))
        };
        assert!(!is_missed(75, 1) && is_missed(75, 2) && !is_missed(0, 0));
    }

    #[test]
    fn a_failure_is_certain_before_all_prompts_have_run() {
        let target = Target {
            max_kl: Some(0.01),
            max_changed: Some(0.1),
        };
        let is_lost = |distances: &[Distance]| Score::of(distances, &target).is_out_of_reach(&target, 30);
        assert!(!is_lost(&[distance(0.25, true)]));
        assert!(is_lost(&[distance(0.31, false)]), "0.01 * 30 is spent");
        assert!(
            is_lost(&[distance(0.06, false), distance(0.06, false)]),
            "two of 30 are far"
        );
        let changed = |n| vec![distance(0.0, true); n];
        assert!(!is_lost(&changed(3)) && is_lost(&changed(4)));
    }

    #[test]
    fn answers_are_compared_to_the_token() {
        let run = |answer: &[i32]| Observation {
            logits: vec![0.0, 1.0],
            answer: answer.to_vec(),
            ..Observation::default()
        };
        let (dense, other) = (run(&[1, 2]), run(&[1, 3]));
        let distance = Distance::between(&dense, &other);
        assert_eq!(
            (distance.first_changed, distance.changed, distance.kl),
            (false, true, 0.0)
        );
        assert!(!Distance::of_first_token(&dense, &other).changed);
        assert!(Distance::of_first_token(&dense, &run(&[])).changed);
    }

    #[test]
    fn targets_in_words() {
        let target = Target {
            max_kl: Some(0.02),
            max_changed: Some(0.007),
        };
        assert_eq!(
            target.to_string(),
            "a mean KL of at most 0.02 nats and at most 0.7 % changed answers"
        );
    }
}
