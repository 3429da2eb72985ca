//! No pruning: the model as it is.

use super::{Decision, LayerPlan, Outcome, Reading, Skipped, StagePolicy};

/// Leaves every layer as it is, in one range.
#[derive(Debug, Clone, PartialEq)]
pub struct Off {
    reason: Skipped,
}

impl Off {
    /// Why nothing is pruned, for the report.
    pub fn because(reason: Skipped) -> Self {
        Self { reason }
    }
}

impl StagePolicy for Off {
    fn plan(&self, _il: usize) -> LayerPlan {
        LayerPlan::default()
    }

    fn decide(&mut self, _il: usize, _reading: Option<&Reading>) -> Decision {
        Decision::KeepAll
    }

    fn boundaries(&self, _n_layer: usize) -> Vec<usize> {
        Vec::new()
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            skipped: Some(self.reason.clone()),
            ..Outcome::default()
        }
    }
}
