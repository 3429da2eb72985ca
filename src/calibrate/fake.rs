//! A model whose truth is known: it reads its picture in given layers, through given tokens.

use std::convert::Infallible;
use std::ops::Range;

use super::{Dense, Experiment, Observation, Runner, Switch};
use crate::policy::{Decision, Policy, ProbeReading, PromptLayout, Reading, TextToVision, VisionIndex};

/// Important tokens of a prompt.
const N_IMPORTANT: usize = 3;
/// What a token that is not important gives at most, relative to one that is.
const UNIMPORTANT: f64 = 0.002;

/// Answers token 0 if it has seen most of the picture, else token 1.
#[derive(Debug, Clone)]
pub(super) struct Fake {
    pub n_layer: usize,
    pub n_vision: usize,
    /// The layers that read the picture, in equal parts.
    pub reads: Range<usize>,
    /// The experiments that were run, with their prompts.
    pub runs: Vec<(usize, Experiment)>,
}

impl Default for Fake {
    fn default() -> Self {
        Self {
            n_layer: 10,
            n_vision: 32,
            reads: 3..5,
            runs: Vec::new(),
        }
    }
}

impl Fake {
    /// Whether this prompt's answer hangs on token `j`.
    fn is_important(&self, i_prompt: usize, j: usize) -> bool {
        (0..N_IMPORTANT).any(|n| (i_prompt * 5 + n * 7) % self.n_vision == j)
    }

    fn weight(&self, i_prompt: usize, j: usize) -> f64 {
        if self.is_important(i_prompt, j) {
            1.0
        } else {
            UNIMPORTANT
        }
    }

    /// `||o|| = 1`; tokens at right angles to the rest.
    fn reading(&self, i_prompt: usize, il: usize, tokens: &[VisionIndex]) -> ProbeReading {
        let most = if self.reads.contains(&il) {
            0.3 + 0.01 * i_prompt as f64
        } else {
            0.001 + 0.0001 * il as f64
        };
        let norm2: Vec<f64> = tokens
            .iter()
            .map(|token| (most * self.weight(i_prompt, token.0 as usize)).powi(2))
            .collect();
        ProbeReading {
            tokens: tokens.to_vec(),
            dot: norm2.clone(),
            norm2,
            output_norm2: 1.0,
        }
    }

    /// What the prompt has seen, from 0 to 1, and what each layer held.
    fn prefill(&self, i_prompt: usize, switch: &Switch) -> (f64, Observation) {
        let layout = PromptLayout {
            n_rows: self.n_vision + 8,
            vision: std::iter::once(4..4 + self.n_vision).collect(),
        };
        let mut policy = switch.build(self.n_layer, &layout).unwrap();
        let all: f64 = (0..self.n_vision).map(|j| self.weight(i_prompt, j)).sum();
        let mut present: Vec<VisionIndex> = (0..self.n_vision as u32).map(VisionIndex).collect();
        let mut observed = Observation::default();
        let mut seen = 0.0;
        for il in 0..self.n_layer {
            observed.vision_rows.push(present.len());
            let plan = policy.plan(il);
            if self.reads.contains(&il) && plan.attention.text_to_vision != TextToVision::Mask {
                let weights = present
                    .iter()
                    .map(|token| self.weight(i_prompt, token.0 as usize));
                seen += weights.sum::<f64>() / all / self.reads.len() as f64;
            }
            if plan.decides {
                let reading = plan
                    .probe
                    .map(|_| Reading::Contribution(self.reading(i_prompt, il, &present)));
                if let Decision::Keep(kept) = policy.decide(il, reading.as_ref()) {
                    observed.n_kept = observed.n_kept.or(Some(kept.len()));
                    present = kept;
                }
            }
        }
        let outcome = policy.outcome();
        observed.fusion_layer = outcome.fusion_layer;
        observed.exit_layer = outcome.exit_layer;
        (seen, observed)
    }
}

impl Runner for Fake {
    type Error = Infallible;

    fn run(&mut self, i_prompt: usize, experiment: &Experiment) -> Result<Observation, Infallible> {
        self.runs.push((i_prompt, experiment.clone()));
        let switch = Switch::default();
        switch.set(experiment.clone());
        let (seen, observed) = self.prefill(i_prompt, &switch);
        let logits = vec![4.0 * seen as f32, 2.0, 0.0, -1.0];
        Ok(Observation {
            answer: vec![i32::from(logits[0] < logits[1])],
            logits,
            readings: switch.take_readings(),
            ..observed
        })
    }
}

/// `n` prompts without pruning.
pub(super) fn dense_runs(fake: &Fake, n: usize) -> Vec<Dense> {
    let mut fake = fake.clone();
    let mut run = |i| match fake.run(i, &Experiment::Dense) {
        Ok(observed) => Dense { observed },
        Err(never) => match never {},
    };
    (0..n).map(&mut run).collect()
}
