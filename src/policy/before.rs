//! What policies share that choose vision tokens before the language model: what they drop never enters layer 0.
//!
//! They do not know the question. The budget counts over all vision tokens of all images together.

use super::budget::Budget;
use super::config::PolicyFields;
use super::config::fields::policy_fields;
use super::{
    Decision, Embeddings, Needs, Outcome, PolicyError, PromptLayout, Skipped, StagePolicy, VisionIndex,
};

/// A way of choosing vision tokens before layer 0.
pub trait Selection: Send + Sync {
    /// The embeddings that it looks at.
    fn needs(&self) -> Needs {
        Needs::Nothing
    }

    /// `n` of the tokens present, ascending. `n` is from 1 to one less than there are; else 0 gives none, more gives all.
    fn select(&self, n: usize, present: &[VisionIndex], embeddings: &Embeddings<'_>) -> Vec<VisionIndex>;
}

impl<S: Selection + ?Sized> Selection for &S {
    fn needs(&self) -> Needs {
        (**self).needs()
    }

    fn select(&self, n: usize, present: &[VisionIndex], embeddings: &Embeddings<'_>) -> Vec<VisionIndex> {
        (**self).select(n, present, embeddings)
    }
}

/// A [`Selection`] at work on one prompt.
#[derive(Debug, Clone)]
pub struct BeforeModel<S> {
    selection: S,
    budget: Budget,
    n_vision: usize,
    has_dropped: bool,
}

impl<S: Selection> BeforeModel<S> {
    /// For a prompt of `n_vision` vision tokens. The budget must be valid.
    pub fn new(selection: S, budget: Budget, n_vision: usize) -> Self {
        Self {
            selection,
            budget,
            n_vision,
            has_dropped: false,
        }
    }
}

impl<S: Selection> StagePolicy for BeforeModel<S> {
    fn needs_embeddings(&self) -> Needs {
        self.selection.needs()
    }

    fn start(&mut self, present: &[VisionIndex], embeddings: &Embeddings<'_>) -> Decision {
        let n_kept = self.budget.of(present.len());
        if n_kept < present.len() {
            Decision::Keep(self.selection.select(n_kept, present, embeddings))
        } else {
            Decision::KeepAll
        }
    }

    fn begin(&mut self, entered: &[VisionIndex], _embeddings: &Embeddings<'_>) {
        self.has_dropped = entered.len() < self.n_vision;
    }

    fn outcome(&self) -> Outcome {
        Outcome {
            skipped: (!self.has_dropped).then_some(Skipped::WithinBudget),
            ..Outcome::default()
        }
    }
}

/// The default budget: DivPrune's, 56 of LLaVA-1.5's 576 tokens. The controls have the same, so that they compare.
pub const DEFAULT_BUDGET: Budget = Budget::Percent(9.8);

policy_fields! {
    /// The field that they all have.
    pub struct BeforeConfig {
        /// Vision tokens that enter the language model, of all images together. At least one: a model that sees no picture
        /// at all is better asked without one. Default: 9.8%.
        pub budget: Budget = DEFAULT_BUDGET,
    }
}

impl PolicyFields for BeforeConfig {
    type Kind = &'static dyn Selection;
    const BEFORE_MODEL: bool = true;

    fn validate(&self) -> Result<(), PolicyError> {
        self.budget.validate("budget")?;
        if self.budget.is_zero() {
            return Err(PolicyError::OutOfRange {
                field: "budget",
                value: self.budget.to_string(),
                range: String::from("at least one token, or more than 0%"),
            });
        }
        Ok(())
    }

    fn stage_policy(
        &self,
        selection: &'static dyn Selection,
        _n_layer: usize,
        layout: &PromptLayout,
    ) -> Box<dyn StagePolicy> {
        Box::new(BeforeModel::new(selection, self.budget, layout.n_vision()))
    }
}
