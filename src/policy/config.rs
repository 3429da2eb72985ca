//! The fields of a policy: what they mean, their defaults and their ranges.
//!
//! A policy comes from up to three places, later ones winning field by field: a preset for the model
//! ([`super::presets`]), a TOML policy file, and single fields given by the caller (both [`PolicyOverrides`]).

pub(in crate::policy) mod error;
mod keywords;
mod overrides;

use serde::{Deserialize, Serialize};

pub use error::PolicyError;
pub use keywords::{
    ExitCount, Layer0, PolicyName, ShallowMask, StageName, Stages, TokensThresholdUnit, VisualSelfAttention,
};
pub use overrides::PolicyOverrides;

use super::fixed::{Fixed, Schedule};
use super::off::Off;
use super::visipruner::VisiPruner;
use super::{PromptLayout, Skipped, StagePolicy};

/// A policy with every field in force.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(tag = "policy", rename_all = "lowercase")]
pub enum PolicyConfig {
    /// The model as it is.
    #[default]
    Off,
    /// The three stages.
    VisiPruner(VisiPrunerConfig),
    /// A schedule that is known beforehand.
    Fixed(Schedule),
}

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
        }
    }
}

impl PolicyConfig {
    /// The policy's name, without its fields.
    pub fn name(&self) -> PolicyName {
        match self {
            Self::Off => PolicyName::Off,
            Self::VisiPruner(_) => PolicyName::VisiPruner,
            Self::Fixed(_) => PolicyName::Fixed,
        }
    }

    /// Checks every field that can be checked without a model.
    ///
    /// # Errors
    /// [`PolicyError::OutOfRange`] with the range, [`PolicyError::Missing`] for a field that another one needs.
    pub fn validate(&self) -> Result<(), PolicyError> {
        match self {
            Self::Off => Ok(()),
            Self::VisiPruner(config) => config.validate(),
            Self::Fixed(schedule) => schedule.validate(),
        }
    }

    /// Checks every field, layer numbers against a model of `n_layer` layers.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), and [`PolicyError::OutOfRange`] for a layer that the model does not have.
    pub fn validate_for(&self, n_layer: usize) -> Result<(), PolicyError> {
        self.validate()?;
        match self {
            Self::Off => Ok(()),
            Self::VisiPruner(config) => config.validate_layers(n_layer),
            Self::Fixed(schedule) => schedule.validate_layers(n_layer),
        }
    }

    /// The layers at which a model of `n_layer` layers may have to be cut for this policy, ascending, without 0: what
    /// the engine's KV cache groups are made from, before any prompt is known.
    pub fn boundaries(&self, n_layer: usize) -> Vec<usize> {
        match self {
            Self::Off => Vec::new(),
            Self::VisiPruner(config) => VisiPruner::new(config.clone(), n_layer, 0).boundaries(n_layer),
            Self::Fixed(schedule) => Fixed::new(*schedule, n_layer, 0).boundaries(n_layer),
        }
    }

    /// The policy at work on one prompt. A prompt without an image, or one that ends in an image, gets
    /// [`Off`] with the reason.
    ///
    /// # Errors
    /// As [`validate_for`](Self::validate_for).
    pub fn build(&self, n_layer: usize, layout: &PromptLayout) -> Result<Box<dyn StagePolicy>, PolicyError> {
        self.validate_for(n_layer)?;
        if let Some(reason) = self.nothing_to_do(layout) {
            return Ok(Box::new(Off::because(reason)));
        }
        let n_vision = layout.n_vision();
        Ok(match self {
            Self::Off => Box::new(Off::because(Skipped::Off)),
            Self::VisiPruner(config) => Box::new(VisiPruner::new(config.clone(), n_layer, n_vision)),
            Self::Fixed(schedule) => Box::new(Fixed::new(*schedule, n_layer, n_vision)),
        })
    }

    fn nothing_to_do(&self, layout: &PromptLayout) -> Option<Skipped> {
        match self {
            Self::Off => Some(Skipped::Off),
            _ if layout.n_vision() == 0 => Some(Skipped::NoImage),
            _ if layout.ends_in_image() => Some(Skipped::EndsInImage),
            Self::VisiPruner(config) if config.stages.is_empty() && !config.evict_shallow_kv => {
                Some(Skipped::NoStages)
            }
            _ => None,
        }
    }

    /// The policy as a TOML policy file that [`PolicyOverrides::from_toml`] reads back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a policy is a flat table of plain values")
    }
}

impl VisiPrunerConfig {
    /// Whether the exit comes from `mid_deep_layer` instead of from counting: `deep` without `middle`.
    pub fn exits_by_layer(&self) -> bool {
        self.stages.deep && !self.stages.middle
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
        match self.mid_deep_layer {
            Some(il) if self.exits_by_layer() => error::check_count("mid_deep_layer", il, 1, Some(il_last)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
