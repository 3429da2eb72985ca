//! What a prompt is run under, as a policy that a session can be set up with once.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::policy::config::VisiPrunerConfig;
use crate::policy::{
    Decision, LayerPlan, Outcome, Policy, PolicyConfig, PolicyError, ProbeReading, PromptLayout, Reading,
    StagePolicy, Statistic, TextToVision, VisionAttention,
};

/// What a prompt is run under.
#[derive(Debug, Clone, PartialEq)]
pub enum Experiment {
    /// All rows through all layers, and the contributions are read in each of them.
    Dense,
    /// In these layers text does not see vision: its keys are masked before softmax. All rows are computed. Only the
    /// next token's logits and the token itself are looked at, as the cells are there for what is generated after it.
    Hide(Range<usize>),
    /// From this layer on, 1 or later, there is no vision. For text that is what hiding it in all of them would be.
    DropFrom(usize),
    /// This policy.
    Policy(VisiPrunerConfig),
}

/// A policy that does what it was last told: one session, with its KV cache, serves all experiments.
///
/// ```
/// use visipruner::calibrate::{Experiment, Switch};
/// use visipruner::policy::Policy;
///
/// let switch = Switch::default();
/// // let mut session = Session::with_policy(&model, options, switch.clone())?;
/// switch.set(Experiment::DropFrom(9));
/// assert_eq!(switch.cuts(4), [1, 2, 3]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Switch(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    experiment: Experiment,
    readings: Vec<ProbeReading>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            experiment: Experiment::Dense,
            readings: Vec::new(),
        }
    }
}

impl Switch {
    /// What the next prompt is run under.
    pub fn set(&self, experiment: Experiment) {
        let mut state = self.state();
        state.experiment = experiment;
        state.readings.clear();
    }

    /// What [`Experiment::Dense`] has read, one entry per layer; it is gone afterwards.
    pub fn take_readings(&self) -> Vec<ProbeReading> {
        std::mem::take(&mut self.state().readings)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Policy for Switch {
    fn name(&self) -> String {
        String::from("calibration")
    }

    fn cuts(&self, n_layer: usize) -> Vec<usize> {
        (1..n_layer).collect()
    }

    fn key(&self) -> String {
        format!("{:?}", self.state().experiment)
    }

    fn shared_key(&self) -> String {
        match &self.state().experiment {
            Experiment::Policy(config) => PolicyConfig::VisiPruner(config.clone()).shared_key(),
            // what they do is done to text that follows a picture, or to vision once such text has judged it
            Experiment::Dense | Experiment::Hide(_) | Experiment::DropFrom(_) => String::new(),
        }
    }

    fn build(&self, n_layer: usize, layout: &PromptLayout) -> Result<Box<dyn StagePolicy>, PolicyError> {
        let experiment = self.state().experiment.clone();
        Ok(match experiment {
            Experiment::Dense => Box::new(ReadAll(self.clone())),
            Experiment::Hide(layers) => Box::new(Hide(layers)),
            Experiment::DropFrom(il) => Box::new(DropFrom(il)),
            Experiment::Policy(config) => PolicyConfig::VisiPruner(config).build(n_layer, layout)?,
        })
    }
}

/// [`Experiment::Dense`]
struct ReadAll(Switch);

impl StagePolicy for ReadAll {
    fn plan(&self, _il: usize) -> LayerPlan {
        LayerPlan {
            probe: Some(Statistic::Contribution),
            decides: true,
            ..LayerPlan::default()
        }
    }

    fn decide(&mut self, _il: usize, reading: Option<&Reading>) -> Decision {
        let reading = reading.and_then(Reading::contribution).cloned();
        self.0.state().readings.extend(reading);
        Decision::KeepAll
    }

    fn outcome(&self) -> Outcome {
        Outcome::default()
    }
}

/// [`Experiment::Hide`]
struct Hide(Range<usize>);

impl StagePolicy for Hide {
    fn plan(&self, il: usize) -> LayerPlan {
        let text_to_vision = if self.0.contains(&il) {
            TextToVision::Mask
        } else {
            TextToVision::Keep
        };
        LayerPlan {
            attention: VisionAttention {
                text_to_vision,
                ..VisionAttention::default()
            },
            ..LayerPlan::default()
        }
    }

    fn decide(&mut self, _il: usize, _reading: Option<&Reading>) -> Decision {
        Decision::KeepAll
    }

    fn outcome(&self) -> Outcome {
        Outcome::default()
    }
}

/// [`Experiment::DropFrom`]
struct DropFrom(usize);

impl StagePolicy for DropFrom {
    fn plan(&self, il: usize) -> LayerPlan {
        LayerPlan {
            decides: il + 1 == self.0,
            ..LayerPlan::default()
        }
    }

    fn decide(&mut self, _il: usize, _reading: Option<&Reading>) -> Decision {
        Decision::Keep(Vec::new())
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            exit_layer: self.0.checked_sub(1),
            ..Outcome::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::VisionIndex;

    fn built(experiment: Experiment) -> (Switch, Box<dyn StagePolicy>) {
        let layout = PromptLayout {
            n_rows: 6,
            vision: std::iter::once(1..4).collect(),
        };
        let switch = Switch::default();
        switch.set(experiment);
        let policy = switch.build(5, &layout).unwrap();
        (switch, policy)
    }

    /// The layers in which text does not see vision.
    fn hidden(policy: &dyn StagePolicy) -> Vec<usize> {
        let is_hidden = |il: &usize| policy.plan(*il).attention.text_to_vision == TextToVision::Mask;
        (0..5).filter(is_hidden).collect()
    }

    #[test]
    fn ranges_are_hidden() {
        let (_, policy) = built(Experiment::Hide(0..2));
        assert_eq!(hidden(policy.as_ref()), [0, 1]);
        let (_, policy) = built(Experiment::Hide(1..5));
        assert_eq!(hidden(policy.as_ref()), [1, 2, 3, 4]);
    }

    #[test]
    fn every_experiment_may_cut_before_every_layer() {
        assert_eq!(Switch::default().cuts(5), [1, 2, 3, 4]);
    }

    #[test]
    fn vision_is_dropped_after_the_layer_before() {
        let (_, mut policy) = built(Experiment::DropFrom(3));
        let decides: Vec<usize> = (0..5).filter(|&il| policy.plan(il).decides).collect();
        assert_eq!(decides, [2]);
        assert_eq!(policy.decide(2, None), Decision::Keep(Vec::new()));
        assert_eq!(policy.outcome().exit_layer, Some(2));
    }

    #[test]
    fn dense_runs_leave_what_they_read_with_the_switch() {
        let (switch, mut policy) = built(Experiment::Dense);
        let reading = ProbeReading {
            tokens: vec![VisionIndex(0)],
            norm2: vec![1.0],
            dot: vec![0.5],
            output_norm2: 4.0,
        };
        assert_eq!(policy.plan(4).probe, Some(Statistic::Contribution));
        let decision = policy.decide(0, Some(&Reading::Contribution(reading.clone())));
        assert_eq!(decision, Decision::KeepAll);
        assert_eq!(switch.take_readings(), [reading]);
        assert_eq!(switch.take_readings(), []);
    }

    #[test]
    fn a_policy_is_itself() {
        let config = VisiPrunerConfig {
            shallow_mid_layer: 1,
            ..VisiPrunerConfig::default()
        };
        let (_, policy) = built(Experiment::Policy(config));
        let probed: Vec<usize> = (0..5).filter(|&il| policy.plan(il).probe.is_some()).collect();
        assert_eq!(probed, [2, 3, 4]);
        assert_eq!(policy.plan(2).probe, Some(Statistic::Contribution));
    }
}
