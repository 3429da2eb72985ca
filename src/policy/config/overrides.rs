use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{
    ExitCount, Layer0, PolicyConfig, PolicyError, PolicyName, ShallowMask, Stages, TokensThresholdUnit,
    VisiPrunerConfig, VisualSelfAttention,
};
use crate::policy::fixed::Schedule;

/// Single fields of a policy, from a policy file or from a caller. What is `None` stays as it was.
///
/// See [`VisiPrunerConfig`] and [`Schedule`] for what the fields mean.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
#[allow(missing_docs, reason = "the fields are documented where they are defined")]
pub struct PolicyOverrides {
    pub policy: Option<PolicyName>,

    pub stages: Option<Stages>,
    pub shallow_mid_layer: Option<usize>,
    pub layer_threshold: Option<f64>,
    pub tokens_threshold: Option<f64>,
    pub tokens_threshold_unit: Option<TokensThresholdUnit>,
    pub exit_threshold: Option<f64>,
    pub exit_layers: Option<usize>,
    pub exit_count: Option<ExitCount>,
    pub mid_deep_layer: Option<usize>,
    pub layer0: Option<Layer0>,
    pub shallow_mask: Option<ShallowMask>,
    pub visual_self_attention: Option<VisualSelfAttention>,
    pub evict_shallow_kv: Option<bool>,

    pub fusion_layer: Option<usize>,
    pub keep: Option<usize>,
    pub exit_from: Option<usize>,
}

impl PolicyOverrides {
    /// Reads a policy file's text.
    ///
    /// # Errors
    /// [`PolicyError::File`] with the line, for what is not TOML, for unknown keys and for unknown words.
    pub fn from_toml(text: &str) -> Result<Self, PolicyError> {
        toml::from_str(text).map_err(|error: toml::de::Error| {
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|&byte| byte == b'\n').count();
            PolicyError::File {
                path: None,
                line,
                message: error.message().replace('\n', " "),
            }
        })
    }

    /// Reads a policy file.
    ///
    /// # Errors
    /// [`PolicyError::Read`] if the file cannot be read, else as [`from_toml`](Self::from_toml).
    pub fn from_file(path: &Path) -> Result<Self, PolicyError> {
        let text = fs::read_to_string(path).map_err(|source| PolicyError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::from_toml(&text).map_err(|error| match error {
            PolicyError::File { line, message, .. } => PolicyError::File {
                path: Some(path.to_owned()),
                line,
                message,
            },
            other => other,
        })
    }

    /// The policy that results from these fields over `base`, validated.
    ///
    /// Another policy than the base's starts from that policy's defaults. Over `off`, the fields of one policy choose
    /// that policy, even if its name is not given.
    ///
    /// # Errors
    /// [`PolicyError::WrongPolicy`] for a field of another policy, [`PolicyError::Missing`] for a field without a
    /// default, and as [`PolicyConfig::validate`].
    pub fn apply(&self, base: &PolicyConfig) -> Result<PolicyConfig, PolicyError> {
        let name = self.policy.or_else(|| self.implied(base)).unwrap_or(base.name());
        self.check_fields(name)?;
        let config = match (name, base) {
            (PolicyName::Off, _) => PolicyConfig::Off,
            (PolicyName::VisiPruner, PolicyConfig::VisiPruner(base)) => self.visipruner(base.clone()),
            (PolicyName::VisiPruner, _) => self.visipruner(VisiPrunerConfig::default()),
            (PolicyName::Fixed, PolicyConfig::Fixed(base)) => self.fixed(Some(*base))?,
            (PolicyName::Fixed, _) => self.fixed(None)?,
        };
        config.validate()?;
        Ok(config)
    }

    fn implied(&self, base: &PolicyConfig) -> Option<PolicyName> {
        if *base != PolicyConfig::Off {
            return None;
        }
        if self.visipruner_field().is_some() {
            return Some(PolicyName::VisiPruner);
        }
        self.fixed_field().map(|_| PolicyName::Fixed)
    }

    fn check_fields(&self, in_force: PolicyName) -> Result<(), PolicyError> {
        let foreign = [
            (PolicyName::VisiPruner, self.visipruner_field()),
            (PolicyName::Fixed, self.fixed_field()),
        ]
        .into_iter()
        .find_map(|(owner, field)| field.filter(|_| owner != in_force).map(|field| (owner, field)));
        match foreign {
            Some((owner, field)) => Err(PolicyError::WrongPolicy {
                field,
                owner,
                in_force,
            }),
            None => Ok(()),
        }
    }

    /// The first field given that belongs to the policy `visipruner`.
    fn visipruner_field(&self) -> Option<&'static str> {
        first_given(&[
            ("stages", self.stages.is_some()),
            ("shallow_mid_layer", self.shallow_mid_layer.is_some()),
            ("layer_threshold", self.layer_threshold.is_some()),
            ("tokens_threshold", self.tokens_threshold.is_some()),
            ("tokens_threshold_unit", self.tokens_threshold_unit.is_some()),
            ("exit_threshold", self.exit_threshold.is_some()),
            ("exit_layers", self.exit_layers.is_some()),
            ("exit_count", self.exit_count.is_some()),
            ("mid_deep_layer", self.mid_deep_layer.is_some()),
            ("layer0", self.layer0.is_some()),
            ("shallow_mask", self.shallow_mask.is_some()),
            ("visual_self_attention", self.visual_self_attention.is_some()),
            ("evict_shallow_kv", self.evict_shallow_kv.is_some()),
        ])
    }

    /// The first field given that belongs to the policy `fixed`.
    fn fixed_field(&self) -> Option<&'static str> {
        first_given(&[
            ("fusion_layer", self.fusion_layer.is_some()),
            ("keep", self.keep.is_some()),
            ("exit_from", self.exit_from.is_some()),
        ])
    }

    fn visipruner(&self, base: VisiPrunerConfig) -> PolicyConfig {
        PolicyConfig::VisiPruner(VisiPrunerConfig {
            stages: self.stages.unwrap_or(base.stages),
            shallow_mid_layer: self.shallow_mid_layer.unwrap_or(base.shallow_mid_layer),
            layer_threshold: self.layer_threshold.unwrap_or(base.layer_threshold),
            tokens_threshold: self.tokens_threshold.unwrap_or(base.tokens_threshold),
            tokens_threshold_unit: self.tokens_threshold_unit.unwrap_or(base.tokens_threshold_unit),
            exit_threshold: self.exit_threshold.unwrap_or(base.exit_threshold),
            exit_layers: self.exit_layers.unwrap_or(base.exit_layers),
            exit_count: self.exit_count.unwrap_or(base.exit_count),
            mid_deep_layer: self.mid_deep_layer.or(base.mid_deep_layer),
            layer0: self.layer0.unwrap_or(base.layer0),
            shallow_mask: self.shallow_mask.unwrap_or(base.shallow_mask),
            visual_self_attention: self.visual_self_attention.unwrap_or(base.visual_self_attention),
            evict_shallow_kv: self.evict_shallow_kv.unwrap_or(base.evict_shallow_kv),
        })
    }

    fn fixed(&self, base: Option<Schedule>) -> Result<PolicyConfig, PolicyError> {
        let need = |field, given: Option<usize>, base: Option<usize>| {
            given.or(base).ok_or(PolicyError::Missing {
                field,
                reason: "the policy fixed needs fusion_layer, keep and exit_from",
            })
        };
        Ok(PolicyConfig::Fixed(Schedule {
            fusion_layer: need("fusion_layer", self.fusion_layer, base.map(|b| b.fusion_layer))?,
            keep: need("keep", self.keep, base.map(|b| b.keep))?,
            exit_from: need("exit_from", self.exit_from, base.map(|b| b.exit_from))?,
        }))
    }
}

fn first_given(fields: &[(&'static str, bool)]) -> Option<&'static str> {
    fields.iter().find_map(|&(field, given)| given.then_some(field))
}
