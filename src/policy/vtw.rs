//! VTW, visual tokens withdrawal (Lin et al., AAAI 2025, arXiv 2405.05803): from one layer on, vision is gone.
//!
//! It reads nothing: layers below `exit_from` run on all rows, the others on text. The paper chooses the layer once per
//! model, on a few samples: the first one where the Kullback-Leibler divergence of the output from the dense one's stays
//! below a threshold; layer 15 for LLaVA-1.5 7B, the default.
//!
//! Differences: the search for the layer is not part of the policy; vision tokens of all images go together, wherever they
//! are, where the published code has the place and length of one image; text keeps its positions.

use super::config::PolicyFields;
use super::config::error::check_count;
use super::config::fields::policy_fields;
use super::{Decision, LayerPlan, Outcome, PolicyError, PromptLayout, Reading, Skipped, Stage, StagePolicy};

policy_fields! {
    /// The fields of the policy `vtw`.
    pub struct VtwConfig {
        /// The first layer without vision. From 1 to the number of layers, which means never. Default: 15.
        pub exit_from: usize = 15,
    }
}

impl PolicyFields for VtwConfig {
    type Kind = ();

    fn validate(&self) -> Result<(), PolicyError> {
        check_count("exit_from", self.exit_from, 1, None)
    }

    fn validate_layers(&self, n_layer: usize) -> Result<(), PolicyError> {
        if self.exit_from <= n_layer {
            return Ok(());
        }
        Err(PolicyError::NoSuchLayer {
            field: "exit_from",
            value: self.exit_from.to_string(),
            min: 1,
            max: n_layer,
        })
    }

    fn cuts(&self, n_layer: usize) -> Vec<usize> {
        let is_cut = (1..n_layer).contains(&self.exit_from);
        Vec::from_iter(is_cut.then_some(self.exit_from))
    }

    fn stage_policy(&self, _kind: (), n_layer: usize, _layout: &PromptLayout) -> Box<dyn StagePolicy> {
        Box::new(Vtw {
            exit_from: self.exit_from,
            n_layer,
        })
    }
}

/// The withdrawal at work on one prompt.
#[derive(Debug, Clone, Copy)]
pub struct Vtw {
    exit_from: usize,
    n_layer: usize,
}

impl Vtw {
    /// The last layer with vision; `None` if it stays to the end.
    fn exit_layer(&self) -> Option<usize> {
        let comes = self.exit_from < self.n_layer;
        self.exit_from.checked_sub(1).filter(|_| comes)
    }
}

impl StagePolicy for Vtw {
    fn plan(&self, il: usize) -> LayerPlan {
        LayerPlan {
            stage: if il < self.exit_from {
                Stage::Dense
            } else {
                Stage::Text
            },
            decides: self.exit_layer() == Some(il),
            ..LayerPlan::default()
        }
    }

    fn decide(&mut self, _il: usize, _reading: Option<&Reading>) -> Decision {
        Decision::Keep(Vec::new())
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            exit_layer: self.exit_layer(),
            skipped: self.exit_layer().is_none().then_some(Skipped::NoExit {
                exit_from: self.exit_from,
            }),
            ..Outcome::default()
        }
    }
}
