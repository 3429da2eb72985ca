//! The fields of the three stages.

use super::fields::policy_fields;
use super::{
    ExitCount, Layer0, PolicyError, PolicyFields, ShallowMask, Stages, TokensThresholdUnit,
    VisualSelfAttention, error,
};
use crate::policy::off::Off;
use crate::policy::visipruner::{self, VisiPruner};
use crate::policy::{PromptLayout, Skipped, StagePolicy};

policy_fields! {
    /// The fields of the three stages. Layers count from 0.
    ///
    /// The default values are those published for LLaVA-1.5 7B.
    pub struct VisiPrunerConfig {
        /// Which stages run. Default: middle and deep.
        pub stages: Stages = Stages::MIDDLE_DEEP,

        /// `k`: layers below it are shallow, layers above it are searched for fusion, layer `k` itself is neither.
        /// From 0 (from 1 with the shallow stage) to the model's last layer. Default: 6.
        pub shallow_mid_layer: usize = 6,

        /// A layer is the fusion layer if leaving out one vision token turns the attention output of the last prompt
        /// token so far that `cos(o - c_j, o)` is below this. A cosine, from -1 to 1. Default: 0.995.
        pub layer_threshold: f64 = 0.995,

        /// Vision tokens whose contribution `||c_j||` at the fusion layer is above this go on. 0 or more, in the unit that
        /// `tokens_threshold_unit` says. Default: 0.2.
        pub tokens_threshold: f64 = 0.2,

        /// What `tokens_threshold` is measured in. Default: absolute.
        pub tokens_threshold_unit: TokensThresholdUnit = TokensThresholdUnit::Absolute,

        /// A layer counts towards the exit if `cos(o - c_j, o)` is at least this for every vision token left. A cosine,
        /// from -1 to 1. Default: 0.999.
        pub exit_threshold: f64 = 0.999,

        /// So many counted layers complete the exit. From 1 to the number of layers. Default: 2.
        pub exit_layers: usize = 2,

        /// Whether the counted layers must follow each other. Default: cumulative.
        pub exit_count: ExitCount = ExitCount::Cumulative,

        /// With the stage `deep` but without `middle`: the layer from which vision is dropped. From 1 to the last layer.
        /// Not used otherwise. Default: none.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub mid_deep_layer: Option<usize> = None,

        /// What the shallow stage does in layer 0. Default: merge.
        pub layer0: Layer0 = Layer0::Merge,

        /// How the shallow stage keeps text from seeing vision in layers 1 to `k - 1`. Default: sink.
        pub shallow_mask: ShallowMask = ShallowMask::Sink,

        /// Whether vision tokens see each other in layers 1 to `k - 1` of the shallow stage. Default: keep.
        pub visual_self_attention: VisualSelfAttention = VisualSelfAttention::Keep,

        /// Forget the vision tokens' KV cells of layers below `k` after the prefill, so that decode does not see them
        /// there. Independent of `stages`. Default: false.
        pub evict_shallow_kv: bool = false,
    }
}

impl VisiPrunerConfig {
    /// Whether the exit comes from `mid_deep_layer` instead of from counting: `deep` without `middle`.
    pub fn exits_by_layer(&self) -> bool {
        self.stages.deep && !self.stages.middle
    }
}

impl PolicyFields for VisiPrunerConfig {
    type Kind = ();

    fn validate(&self) -> Result<(), PolicyError> {
        error::check_range("layer_threshold", self.layer_threshold, -1.0..=1.0)?;
        error::check_range("exit_threshold", self.exit_threshold, -1.0..=1.0)?;
        error::check_range("tokens_threshold", self.tokens_threshold, 0.0..=f64::MAX)?;
        error::check_count("exit_layers", self.exit_layers, 1, None)?;
        if self.stages.shallow {
            error::check_count("shallow_mid_layer", self.shallow_mid_layer, 1, None)?;
        }
        if let Some(il) = self.mid_deep_layer {
            error::check_count("mid_deep_layer", il, 1, None)?;
        } else if self.exits_by_layer() {
            return Err(PolicyError::Missing {
                field: "mid_deep_layer",
                reason: "the stage `deep` runs without `middle`, so it must be said from which layer on vision is dropped",
            });
        }
        Ok(())
    }

    fn validate_layers(&self, n_layer: usize) -> Result<(), PolicyError> {
        let il_last = n_layer.saturating_sub(1);
        error::check_count("shallow_mid_layer", self.shallow_mid_layer, 0, Some(il_last))?;
        error::check_count("exit_layers", self.exit_layers, 1, Some(n_layer))?;
        match self.mid_deep_layer {
            Some(il) if self.exits_by_layer() => error::check_count("mid_deep_layer", il, 1, Some(il_last)),
            _ => Ok(()),
        }
    }

    fn cuts(&self, n_layer: usize) -> Vec<usize> {
        visipruner::cuts(self, n_layer)
    }

    fn stage_policy(&self, _kind: (), n_layer: usize, layout: &PromptLayout) -> Box<dyn StagePolicy> {
        if self.stages.is_empty() && !self.evict_shallow_kv {
            return Box::new(Off::because(Skipped::NoStages));
        }
        Box::new(VisiPruner::new(self.clone(), n_layer, layout.n_vision()))
    }
}
