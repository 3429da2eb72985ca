//! Policies for known models, and how a preset, a policy file and single fields become one policy.
//!
//! Thresholds are in the units of one model's value vectors, so a preset holds for exactly one shape of model. There
//! is none for LLaVA-1.6: it has the same language models, but cuts an image into tiles and was not measured.

use super::config::{Layer0, VisiPrunerConfig};
use super::shape::ModelShape;
use super::{PolicyConfig, PolicyError, PolicyOverrides};

/// A policy for one model.
#[derive(Debug, Clone, PartialEq)]
pub struct Preset {
    /// What reports call it.
    pub name: &'static str,
    /// The policy: middle and deep stage, and the shallow stage's fields for those who switch it on.
    pub policy: PolicyConfig,
}

/// The sizes by which a preset knows its model.
struct Known {
    name: &'static str,
    n_layer: usize,
    n_embd: usize,
    n_head: usize,
    n_ff: usize,
    n_vision_tokens: usize,
    layer0: Layer0,
}

const KNOWN: [Known; 2] = [
    Known {
        name: "llava-1.5-7b",
        n_layer: 32,
        n_embd: 4096,
        n_head: 32,
        n_ff: 11008,
        n_vision_tokens: 576,
        layer0: Layer0::Merge,
    },
    Known {
        name: "llava-1.5-13b",
        n_layer: 40,
        n_embd: 5120,
        n_head: 40,
        n_ff: 13824,
        n_vision_tokens: 576,
        layer0: Layer0::Half,
    },
];

impl Known {
    /// LLaVA-1.5's language models are Llamas without grouped queries, which tells them from Mistral-based ones.
    fn is(&self, shape: &ModelShape) -> bool {
        shape.arch == "llama"
            && shape.n_layer == self.n_layer
            && shape.n_embd == self.n_embd
            && shape.n_head == self.n_head
            && shape.n_head_kv == self.n_head
            && shape.n_ff == self.n_ff
            && shape.n_vision_tokens == Some(self.n_vision_tokens)
    }
}

/// The preset for a model, if there is one.
pub fn preset_for(shape: &ModelShape) -> Option<Preset> {
    let known = KNOWN.iter().find(|known| known.is(shape))?;
    let config = VisiPrunerConfig {
        layer0: known.layer0,
        ..VisiPrunerConfig::default()
    };
    Some(Preset {
        name: known.name,
        policy: PolicyConfig::VisiPruner(config),
    })
}

/// A policy and where it came from.
#[derive(Debug, Clone, PartialEq)]
pub struct Resolved {
    /// The policy in force.
    pub policy: PolicyConfig,
    /// The preset that it started from.
    pub preset: Option<&'static str>,
    /// Whether nobody chose this policy: it is `off` only because there is neither a preset nor a policy file.
    pub not_calibrated: bool,
}

/// The policy for a model: its preset, or `off` if it has none; over it the fields of a policy file; over it single
/// fields. Layer numbers are checked against the model.
///
/// # Errors
/// As [`PolicyOverrides::apply`] and [`PolicyConfig::validate_for`].
pub fn resolve(
    shape: &ModelShape,
    file: Option<&PolicyOverrides>,
    fields: &PolicyOverrides,
) -> Result<Resolved, PolicyError> {
    let preset = preset_for(shape);
    let mut policy = preset
        .as_ref()
        .map_or(PolicyConfig::Off, |preset| preset.policy.clone());
    for overrides in file.into_iter().chain([fields]) {
        policy = overrides.apply(&policy)?;
    }
    policy.validate_for(shape.n_layer)?;
    let was_chosen = file.is_some() || fields.policy.is_some();
    Ok(Resolved {
        not_calibrated: policy == PolicyConfig::Off && preset.is_none() && !was_chosen,
        policy,
        preset: preset.map(|preset| preset.name),
    })
}
