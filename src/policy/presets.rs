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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::config::Stages;

    fn llava_7b() -> ModelShape {
        ModelShape {
            name: String::from("LLaMA v2"),
            arch: String::from("llama"),
            n_layer: 32,
            n_embd: 4096,
            n_head: 32,
            n_head_kv: 32,
            n_embd_head_k: 128,
            n_embd_head_v: 128,
            n_ff: 11008,
            n_vocab: 32000,
            n_vision_tokens: Some(576),
        }
    }

    fn llava_13b() -> ModelShape {
        ModelShape {
            n_layer: 40,
            n_embd: 5120,
            n_head: 40,
            n_head_kv: 40,
            n_ff: 13824,
            ..llava_7b()
        }
    }

    fn config(policy: &PolicyConfig) -> &VisiPrunerConfig {
        match policy {
            PolicyConfig::VisiPruner(config) => config,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn llava_is_known_by_its_shape() {
        let seven = preset_for(&llava_7b()).unwrap();
        let thirteen = preset_for(&llava_13b()).unwrap();
        assert_eq!((seven.name, thirteen.name), ("llava-1.5-7b", "llava-1.5-13b"));
        assert_eq!(config(&seven.policy), &VisiPrunerConfig::default());
        let expected = VisiPrunerConfig {
            layer0: Layer0::Half,
            ..VisiPrunerConfig::default()
        };
        assert_eq!(config(&thirteen.policy), &expected);
        assert_eq!(expected.stages, Stages::MIDDLE_DEEP);
        seven.policy.validate_for(32).unwrap();
        thirteen.policy.validate_for(40).unwrap();
    }

    #[test]
    fn similar_models_have_no_preset() {
        let others = [
            ModelShape {
                n_vision_tokens: None,
                ..llava_7b()
            },
            ModelShape {
                n_vision_tokens: Some(144),
                ..llava_7b()
            },
            ModelShape {
                n_head_kv: 8,
                ..llava_7b()
            },
            ModelShape {
                n_ff: 14336,
                ..llava_7b()
            },
            ModelShape {
                arch: String::from("qwen2"),
                ..llava_7b()
            },
            ModelShape {
                n_layer: 40,
                ..llava_7b()
            },
        ];
        assert!(others.iter().all(|shape| preset_for(shape).is_none()));
    }

    #[test]
    fn later_sources_win_field_by_field() {
        let file = PolicyOverrides {
            exit_layers: Some(3),
            tokens_threshold: Some(0.4),
            ..PolicyOverrides::default()
        };
        let fields = PolicyOverrides {
            tokens_threshold: Some(0.5),
            ..PolicyOverrides::default()
        };
        let resolved = resolve(&llava_13b(), Some(&file), &fields).unwrap();
        let config = config(&resolved.policy);
        assert_eq!(
            (config.layer0, config.exit_layers, config.tokens_threshold),
            (Layer0::Half, 3, 0.5)
        );
        assert_eq!(
            (resolved.preset, resolved.not_calibrated),
            (Some("llava-1.5-13b"), false)
        );
    }

    #[test]
    fn an_unknown_model_is_not_pruned_unless_told_to() {
        let unknown = ModelShape {
            n_layer: 12,
            ..llava_7b()
        };
        let none = PolicyOverrides::default();
        let resolved = resolve(&unknown, None, &none).unwrap();
        assert_eq!(
            resolved,
            Resolved {
                policy: PolicyConfig::Off,
                preset: None,
                not_calibrated: true
            }
        );
        let off = PolicyOverrides::from_toml("policy = 'off'").unwrap();
        assert!(!resolve(&unknown, None, &off).unwrap().not_calibrated);
        assert!(!resolve(&unknown, Some(&off), &none).unwrap().not_calibrated);
        let file = PolicyOverrides::from_toml("shallow_mid_layer = 3").unwrap();
        assert_eq!(
            config(&resolve(&unknown, Some(&file), &none).unwrap().policy).shallow_mid_layer,
            3
        );
    }

    #[test]
    fn layers_are_checked_against_the_model() {
        let fields = PolicyOverrides::from_toml("shallow_mid_layer = 32").unwrap();
        let error = resolve(&llava_7b(), None, &fields).unwrap_err().to_string();
        assert_eq!(error, "shallow_mid_layer is 32, but must be from 0 to 31");
    }
}
