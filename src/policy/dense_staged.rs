//! Nothing is dropped, on the way of the policies that drop: the fair baseline.
//!
//! With [`off`](super::off) the text before a picture, the picture and the text after it are batches of their own, as
//! llama.cpp's own programs have them. A pruned prompt is taken as one. ggml adds in another order where there are few rows
//! (flash attention on the CPU below 64: `ops.cpp` of ggml-cpu), so that the two differ by arithmetic even where nothing is
//! dropped, and weights are read another number of times. What is left of a difference to this policy is the dropping.

use serde::Serialize;

use super::config::PolicyFields;
use super::config::fields::Fields;
use super::{Outcome, PolicyError, PolicyOverrides, PromptLayout, Skipped, StagePolicy};

/// The policy `dense_staged`, which has no fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[non_exhaustive]
pub struct DenseStaged {}

impl Fields for DenseStaged {
    const FIELDS: &'static [&'static str] = &[];
    const NEEDS: &'static str = "";

    fn over(_base: Option<&Self>, _given: &PolicyOverrides) -> Result<Self, PolicyError> {
        Ok(Self {})
    }
}

impl PolicyFields for DenseStaged {
    type Kind = ();

    fn validate(&self) -> Result<(), PolicyError> {
        Ok(())
    }

    fn stage_policy(&self, _kind: (), _n_layer: usize, _layout: &PromptLayout) -> Box<dyn StagePolicy> {
        Box::new(*self)
    }
}

impl StagePolicy for DenseStaged {
    fn outcome(&self) -> Outcome {
        Outcome {
            skipped: Some(Skipped::DropsNothing),
            ..Outcome::default()
        }
    }
}
