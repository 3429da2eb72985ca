//! The fields of the three stages.

use serde::{Deserialize, Serialize};

use super::{
    ExitCount, Layer0, PolicyError, PolicyFields, PolicyOverrides, ShallowMask, Stages, TokensThresholdUnit,
    VisualSelfAttention, error,
};
use crate::policy::off::Off;
use crate::policy::visipruner::VisiPruner;
use crate::policy::{PromptLayout, Skipped, StagePolicy};

/// The fields of the three stages. Layers count from 0.
///
/// The default values are those published for LLaVA-1.5 7B.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VisiPrunerConfig {
    /// Which stages run. Default: middle and deep.
    pub stages: Stages,

    /// `k`: layers below it are shallow, layers above it are searched for fusion, layer `k` itself is neither.
    /// From 0 (from 1 with the shallow stage) to the model's last layer. Default: 6.
    pub shallow_mid_layer: usize,

    /// A layer is the fusion layer if leaving out one vision token turns the attention output of the last prompt
    /// token so far that `cos(o - c_j, o)` is below this. A cosine, from -1 to 1. Default: 0.995.
    pub layer_threshold: f64,

    /// Vision tokens whose contribution `||c_j||` at the fusion layer is above this go on. 0 or more, in the unit that
    /// `tokens_threshold_unit` says. Default: 0.2.
    pub tokens_threshold: f64,

    /// What `tokens_threshold` is measured in. Default: absolute.
    pub tokens_threshold_unit: TokensThresholdUnit,

    /// A layer counts towards the exit if `cos(o - c_j, o)` is at least this for every vision token left. A cosine,
    /// from -1 to 1. Default: 0.999.
    pub exit_threshold: f64,

    /// So many counted layers complete the exit. From 1 to the number of layers. Default: 2.
    pub exit_layers: usize,

    /// Whether the counted layers must follow each other. Default: cumulative.
    pub exit_count: ExitCount,

    /// With the stage `deep` but without `middle`: the layer from which vision is dropped. From 1 to the last layer.
    /// Not used otherwise. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mid_deep_layer: Option<usize>,

    /// What the shallow stage does in layer 0. Default: merge.
    pub layer0: Layer0,

    /// How the shallow stage keeps text from seeing vision in layers 1 to `k - 1`. Default: sink.
    pub shallow_mask: ShallowMask,

    /// Whether vision tokens see each other in layers 1 to `k - 1` of the shallow stage. Default: keep.
    pub visual_self_attention: VisualSelfAttention,

    /// Forget the vision tokens' KV cells of layers below `k` after the prefill, so that decode does not see them
    /// there. Independent of `stages`. Default: false.
    pub evict_shallow_kv: bool,

    /// By this layer fusion has come, as a calibration found: the KV cache of later layers is allocated for text and
    /// `kept_budget` vision tokens. It decides nothing else: a prompt that fuses later or keeps more is run again with
    /// room for everything. From 0 to the last layer. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub latest_fusion_layer: Option<usize>,

    /// With `latest_fusion_layer`: so many vision tokens are expected to be kept at most. Not used otherwise. Default: 64.
    pub kept_budget: usize,
}

impl Default for VisiPrunerConfig {
    fn default() -> Self {
        Self {
            stages: Stages::MIDDLE_DEEP,
            shallow_mid_layer: 6,
            layer_threshold: 0.995,
            tokens_threshold: 0.2,
            tokens_threshold_unit: TokensThresholdUnit::Absolute,
            exit_threshold: 0.999,
            exit_layers: 2,
            exit_count: ExitCount::Cumulative,
            mid_deep_layer: None,
            layer0: Layer0::Merge,
            shallow_mask: ShallowMask::Sink,
            visual_self_attention: VisualSelfAttention::Keep,
            evict_shallow_kv: false,
            latest_fusion_layer: None,
            kept_budget: 64,
        }
    }
}

impl VisiPrunerConfig {
    /// Whether the exit comes from `mid_deep_layer` instead of from counting: `deep` without `middle`.
    pub fn exits_by_layer(&self) -> bool {
        self.stages.deep && !self.stages.middle
    }
}

impl PolicyFields for VisiPrunerConfig {
    const FIELDS: &'static [&'static str] = &[
        "stages",
        "shallow_mid_layer",
        "layer_threshold",
        "tokens_threshold",
        "tokens_threshold_unit",
        "exit_threshold",
        "exit_layers",
        "exit_count",
        "mid_deep_layer",
        "layer0",
        "shallow_mask",
        "visual_self_attention",
        "evict_shallow_kv",
        "latest_fusion_layer",
        "kept_budget",
    ];

    fn read(base: Option<&Self>, fields: &PolicyOverrides) -> Result<Self, PolicyError> {
        let base = base.cloned().unwrap_or_default();
        Ok(Self {
            stages: fields.stages.unwrap_or(base.stages),
            shallow_mid_layer: fields.shallow_mid_layer.unwrap_or(base.shallow_mid_layer),
            layer_threshold: fields.layer_threshold.unwrap_or(base.layer_threshold),
            tokens_threshold: fields.tokens_threshold.unwrap_or(base.tokens_threshold),
            tokens_threshold_unit: fields.tokens_threshold_unit.unwrap_or(base.tokens_threshold_unit),
            exit_threshold: fields.exit_threshold.unwrap_or(base.exit_threshold),
            exit_layers: fields.exit_layers.unwrap_or(base.exit_layers),
            exit_count: fields.exit_count.unwrap_or(base.exit_count),
            mid_deep_layer: fields.mid_deep_layer.or(base.mid_deep_layer),
            layer0: fields.layer0.unwrap_or(base.layer0),
            shallow_mask: fields.shallow_mask.unwrap_or(base.shallow_mask),
            visual_self_attention: fields.visual_self_attention.unwrap_or(base.visual_self_attention),
            evict_shallow_kv: fields.evict_shallow_kv.unwrap_or(base.evict_shallow_kv),
            latest_fusion_layer: fields.latest_fusion_layer.or(base.latest_fusion_layer),
            kept_budget: fields.kept_budget.unwrap_or(base.kept_budget),
        })
    }

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
        if let Some(il) = self.latest_fusion_layer {
            error::check_count("latest_fusion_layer", il, 0, Some(il_last))?;
        }
        match self.mid_deep_layer {
            Some(il) if self.exits_by_layer() => error::check_count("mid_deep_layer", il, 1, Some(il_last)),
            _ => Ok(()),
        }
    }

    fn boundaries(&self, n_layer: usize) -> Vec<usize> {
        VisiPruner::new(self.clone(), n_layer, 0).boundaries(n_layer)
    }

    fn stage_policy(&self, n_layer: usize, layout: &PromptLayout) -> Box<dyn StagePolicy> {
        if self.stages.is_empty() && !self.evict_shallow_kv {
            return Box::new(Off::because(Skipped::NoStages));
        }
        Box::new(VisiPruner::new(self.clone(), n_layer, layout.n_vision()))
    }
}
