//! No pruning: the model as it is.

use super::{Outcome, Skipped, StagePolicy};

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
    fn outcome(&self) -> Outcome {
        Outcome {
            skipped: Some(self.reason.clone()),
            ..Outcome::default()
        }
    }
}
