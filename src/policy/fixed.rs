//! A schedule that is known beforehand, for benchmarks and tests: at layer F the K vision tokens with the largest
//! contribution go on, and from layer E on vision is gone. Written F/K/E; or F/K/E/k, where the layers below k forget their
//! vision tokens once the prompt has run.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;

use super::budget::{Budget, Budgets};
use super::config::PolicyFields;
use super::config::error::check_count;
use super::config::fields::policy_fields;
use super::config::value::ValueOf;
use super::{
    Decision, LayerPlan, Outcome, PolicyError, PromptLayout, Reading, Skipped, Stage, StagePolicy, Statistic,
    largest,
};

policy_fields! {
    /// F/K/E or F/K/E/k.
    #[derive(Copy, Eq, Hash)]
    pub struct Schedule needs "the policy fixed needs fusion_layer, keep and exit_from" {
        /// F: the layer whose contributions decide, the last one with all rows. From 0 to the last layer.
        pub fusion_layer: usize,

        /// K: how many vision tokens go on, those with the largest `||c_j||` at layer F; among equals the earlier ones.
        /// More than there are keeps all.
        pub keep: usize,

        /// E: the first layer without vision. From F + 1 to the number of layers, which means never.
        pub exit_from: usize,

        /// Forget the vision tokens' KV cells of layers below `shallow_mid_layer` after the prefill. Default: false.
        pub evict_shallow_kv: bool = false,

        /// k. From 0 to the last layer. Default: 6.
        pub shallow_mid_layer: usize = 6,
    }
}

impl PolicyFields for Schedule {
    type Kind = ();

    fn validate(&self) -> Result<(), PolicyError> {
        check_count("exit_from", self.exit_from, self.prune_from(), None)
    }

    fn validate_layers(&self, n_layer: usize) -> Result<(), PolicyError> {
        check_count(
            "fusion_layer",
            self.fusion_layer,
            0,
            Some(n_layer.saturating_sub(1)),
        )?;
        if self.evict_shallow_kv {
            let il_last = n_layer.saturating_sub(1);
            check_count("shallow_mid_layer", self.shallow_mid_layer, 0, Some(il_last))?;
        }
        check_count("exit_from", self.exit_from, self.prune_from(), Some(n_layer))
    }

    fn cuts(&self, n_layer: usize) -> Vec<usize> {
        let mut cuts = vec![self.prune_from(), self.vision_until()];
        cuts.extend(self.evicted().map(|layers| layers.end));
        cuts.retain(|&il| il < n_layer);
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }

    fn stage_policy(&self, _kind: (), n_layer: usize, layout: &PromptLayout) -> Box<dyn StagePolicy> {
        Box::new(Fixed::new(*self, n_layer, layout.n_vision()))
    }
}

impl Schedule {
    /// The first layer on the kept tokens.
    fn prune_from(&self) -> usize {
        self.fusion_layer.saturating_add(1)
    }

    /// The first layer without vision: E, or the layer after F if nothing is kept.
    fn vision_until(&self) -> usize {
        if self.keep == 0 {
            self.prune_from()
        } else {
            self.exit_from
        }
    }

    /// The layers that forget their vision cells after the prefill.
    fn evicted(&self) -> Option<Range<usize>> {
        let k = self.shallow_mid_layer;
        (self.evict_shallow_kv && k > 0).then_some(0..k)
    }
}

/// `keep` is one count here.
impl ValueOf<Budgets> for usize {
    fn of(field: &'static str, keep: &Budgets) -> Result<Self, PolicyError> {
        match keep.0[..] {
            [Budget::Count(n)] => Ok(n),
            _ => Err(PolicyError::OutOfRange {
                field,
                value: keep.to_string(),
                range: String::from("one number of tokens with the policy fixed"),
            }),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.fusion_layer, self.keep, self.exit_from)?;
        if self.evict_shallow_kv {
            write!(f, "/{}", self.shallow_mid_layer)?;
        }
        Ok(())
    }
}

impl FromStr for Schedule {
    type Err = PolicyError;

    fn from_str(text: &str) -> Result<Self, PolicyError> {
        let malformed = || PolicyError::Schedule {
            value: text.to_owned(),
        };
        let numbers: Option<Vec<usize>> = text.split('/').map(|number| number.trim().parse().ok()).collect();
        let Some(&[fusion_layer, keep, exit_from, ref evict_below @ ..]) = numbers.as_deref() else {
            return Err(malformed());
        };
        let evict_below = match *evict_below {
            [] => None,
            [k] => Some(k),
            _ => return Err(malformed()),
        };
        let schedule = Self {
            fusion_layer,
            keep,
            exit_from,
            evict_shallow_kv: evict_below.is_some(),
            shallow_mid_layer: evict_below.unwrap_or(Self::default().shallow_mid_layer),
        };
        schedule.validate()?;
        Ok(schedule)
    }
}

/// A [`Schedule`] at work on one prompt.
#[derive(Debug, Clone)]
pub struct Fixed {
    schedule: Schedule,
    n_layer: usize,
    n_vision: usize,
}

impl Fixed {
    /// For a prompt of `n_vision` vision tokens. The schedule must be valid for `n_layer` layers.
    pub fn new(schedule: Schedule, n_layer: usize, n_vision: usize) -> Self {
        Self {
            schedule,
            n_layer,
            n_vision,
        }
    }

    /// The last layer with vision; `None` if vision stays to the end.
    fn exit_layer(&self) -> Option<usize> {
        let comes = self.schedule.keep == 0 || self.schedule.exit_from < self.n_layer;
        comes.then(|| self.schedule.vision_until().saturating_sub(1))
    }

    fn skipped(&self) -> Option<Skipped> {
        let all_kept = self.schedule.keep >= self.n_vision;
        let il_first_drop = if all_kept {
            self.schedule.vision_until()
        } else {
            self.schedule.prune_from()
        };
        if il_first_drop < self.n_layer {
            None
        } else if all_kept {
            Some(Skipped::AllKept {
                il: self.schedule.fusion_layer,
            })
        } else {
            Some(Skipped::TooLate {
                il: self.schedule.fusion_layer,
            })
        }
    }
}

impl StagePolicy for Fixed {
    fn plan(&self, il: usize) -> LayerPlan {
        let is_fusion = il == self.schedule.fusion_layer;
        let stage = if is_fusion {
            Stage::Middle
        } else if il < self.schedule.fusion_layer {
            Stage::Dense
        } else if il < self.schedule.vision_until() {
            Stage::Deep
        } else {
            Stage::Text
        };
        LayerPlan {
            stage,
            probe: is_fusion.then_some(Statistic::Contribution),
            decides: is_fusion || self.exit_layer() == Some(il),
            ..LayerPlan::default()
        }
    }

    fn decide(&mut self, il: usize, reading: Option<&Reading>) -> Decision {
        match reading.and_then(Reading::contribution) {
            _ if self.exit_layer() == Some(il) => Decision::Keep(Vec::new()),
            Some(reading) => Decision::Keep(largest(&reading.tokens, &reading.norm2, self.schedule.keep)),
            None => Decision::KeepAll,
        }
    }

    fn evict_after_prefill(&self) -> Option<Range<usize>> {
        self.schedule.evicted()
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            fusion_layer: Some(self.schedule.fusion_layer),
            exit_layer: self.exit_layer(),
            skipped: self.skipped(),
        }
    }
}
