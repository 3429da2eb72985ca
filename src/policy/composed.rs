//! A policy that acts before the language model, and one that acts between its layers: `divprune+visipruner`.
//!
//! The first decides what enters layer 0; the second sees only that, while its budgets still count over all vision tokens
//! of the prompt. What the second comes to is the outcome.

use std::ops::Range;

use super::config::PolicyChoice;
use super::{
    Decision, Embeddings, LayerPlan, Needs, Outcome, PolicyConfig, PolicyError, Reading, Row, StagePolicy,
    VisionIndex,
};

/// The fields of both policies.
#[derive(Debug, Clone, PartialEq)]
pub struct Composition {
    name: PolicyChoice,
    before: Box<PolicyConfig>,
    within: Box<PolicyConfig>,
}

impl Composition {
    /// `before` acts before the language model, `within` between its layers.
    ///
    /// # Errors
    /// [`PolicyError::Composition`] for any other pair.
    pub fn new(before: PolicyConfig, within: PolicyConfig) -> Result<Self, PolicyError> {
        Ok(Self {
            name: before.name().followed_by(within.name())?,
            before: Box::new(before),
            within: Box::new(within),
        })
    }

    /// Both names.
    pub fn name(&self) -> PolicyChoice {
        self.name
    }

    /// What acts before the language model.
    pub fn before(&self) -> &PolicyConfig {
        &self.before
    }

    /// What acts between its layers.
    pub fn within(&self) -> &PolicyConfig {
        &self.within
    }
}

/// Both at work on one prompt.
pub struct Composed {
    before: Box<dyn StagePolicy>,
    within: Box<dyn StagePolicy>,
}

impl Composed {
    /// `before` must leave all layers as they are.
    pub fn new(before: Box<dyn StagePolicy>, within: Box<dyn StagePolicy>) -> Self {
        Self { before, within }
    }
}

impl StagePolicy for Composed {
    fn needs_embeddings(&self) -> Needs {
        self.before.needs_embeddings().max(self.within.needs_embeddings())
    }

    fn start(&mut self, present: &[VisionIndex], embeddings: &Embeddings<'_>) -> Decision {
        let Decision::Keep(kept) = self.before.start(present, embeddings) else {
            return self.within.start(present, embeddings);
        };
        match self.within.start(&kept, embeddings) {
            Decision::KeepAll => Decision::Keep(kept),
            fewer @ Decision::Keep(_) => fewer,
        }
    }

    fn begin(&mut self, entered: &[VisionIndex], embeddings: &Embeddings<'_>) {
        self.before.begin(entered, embeddings);
        self.within.begin(entered, embeddings);
    }

    fn raters(&self) -> &[Row] {
        self.within.raters()
    }

    fn plan(&self, il: usize) -> LayerPlan {
        self.within.plan(il)
    }

    fn decide(&mut self, il: usize, reading: Option<&Reading>) -> Decision {
        self.within.decide(il, reading)
    }

    fn evict_after_prefill(&self) -> Option<Range<usize>> {
        self.within.evict_after_prefill()
    }

    fn outcome(&self) -> Outcome {
        let within = self.within.outcome();
        Outcome {
            skipped: within.skipped.filter(|_| self.before.outcome().skipped.is_some()),
            ..within
        }
    }
}
