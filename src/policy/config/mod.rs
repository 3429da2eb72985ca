//! The fields of a policy: what they mean, their defaults and their ranges.
//!
//! A policy comes from up to three places, later ones winning field by field: a preset for the model
//! ([`super::presets`]), a TOML policy file, and single fields given by the caller (both [`PolicyOverrides`]).
//!
//! A new policy is a file with its fields (`policy_fields!`) and what it does with them (`PolicyFields`), and a line in
//! the list in `list.rs`; one that only ranks or only selects is a constant and that line. A field that no policy has yet
//! gets a line in the table in `fields.rs`.

mod choice;
pub(in crate::policy) mod error;
pub(in crate::policy) mod fields;
mod keywords;
mod list;
mod overrides;
mod unknown;
pub(in crate::policy) mod value;
mod visipruner;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

pub use choice::PolicyChoice;
pub use error::PolicyError;
pub use fields::{Field, PolicyOverrides};
pub use keywords::{
    ExitCount, Layer0, ShallowMask, StageName, Stages, TokensThresholdUnit, VisualSelfAttention,
};
pub use list::{PolicyConfig, PolicyName};
pub use value::FieldKind;
pub use visipruner::VisiPrunerConfig;

use super::composed::Composed;
use super::off::Off;
use super::{Policy, PromptLayout, Skipped, StagePolicy};
use fields::Fields;
use list::FieldsInForce;

/// What a policy does with its fields.
pub(in crate::policy) trait PolicyFields: Fields {
    /// What tells policies with the same fields apart; `()` where there is only one.
    type Kind;

    /// Whether it acts before layer 0 and leaves all layers as they are.
    const BEFORE_MODEL: bool = false;

    /// The fields given over `base`, or over the defaults. Not validated.
    fn read(kind: Self::Kind, base: Option<&Self>, given: &PolicyOverrides) -> Result<Self, PolicyError> {
        let _ = kind;
        Self::over(base, given)
    }

    /// Checks every field that can be checked without a model.
    fn validate(&self) -> Result<(), PolicyError>;

    /// Checks layer numbers; the rest is valid.
    fn validate_layers(&self, n_layer: usize) -> Result<(), PolicyError> {
        let _ = n_layer;
        Ok(())
    }

    /// See [`Policy::cuts`].
    fn cuts(&self, n_layer: usize) -> Vec<usize> {
        let _ = n_layer;
        Vec::new()
    }

    /// The policy at work on a prompt that has an image and ends in text. The fields are valid for `n_layer` layers.
    fn stage_policy(&self, kind: Self::Kind, n_layer: usize, layout: &PromptLayout) -> Box<dyn StagePolicy>;
}

impl PolicyConfig {
    /// Checks every field that can be checked without a model.
    ///
    /// # Errors
    /// [`PolicyError::OutOfRange`] with the range, [`PolicyError::Missing`] for a field that another one needs.
    pub fn validate(&self) -> Result<(), PolicyError> {
        self.parts().try_for_each(Self::validate_one)
    }

    /// Checks every field, layer numbers against a model of `n_layer` layers.
    ///
    /// # Errors
    /// As [`validate`](Self::validate), and [`PolicyError::OutOfRange`] or [`PolicyError::NoSuchLayer`] for a layer that
    /// the model does not have.
    pub fn validate_for(&self, n_layer: usize) -> Result<(), PolicyError> {
        self.validate()?;
        self.parts().try_for_each(|part| part.validate_layers(n_layer))
    }

    /// The layers at which a model of `n_layer` layers may have to be cut for this policy, ascending, without 0: what
    /// the engine's KV cache groups are made from, before any prompt is known.
    pub fn cuts(&self, n_layer: usize) -> Vec<usize> {
        // Of two policies only one acts between layers.
        self.parts().flat_map(|part| part.cuts_of_one(n_layer)).collect()
    }

    /// The policy at work on one prompt. A prompt without an image, or one that ends in an image, gets
    /// [`Off`] with the reason.
    ///
    /// # Errors
    /// As [`validate_for`](Self::validate_for).
    pub fn build(&self, n_layer: usize, layout: &PromptLayout) -> Result<Box<dyn StagePolicy>, PolicyError> {
        self.validate_for(n_layer)?;
        if *self == Self::Off {
            return Ok(Box::new(Off::because(Skipped::Off)));
        }
        if let Some(reason) = layout.nothing_to_prune() {
            return Ok(Box::new(Off::because(reason)));
        }
        Ok(self.stage_policy(n_layer, layout))
    }

    /// The policy as a TOML policy file that [`PolicyOverrides::from_toml`] reads back.
    pub fn to_toml(&self) -> String {
        toml::to_string(self).expect("a policy is a flat table of plain values")
    }

    fn stage_policy(&self, n_layer: usize, layout: &PromptLayout) -> Box<dyn StagePolicy> {
        match self {
            Self::Composed(both) => Box::new(Composed::new(
                both.before().stage_policy(n_layer, layout),
                both.within().stage_policy(n_layer, layout),
            )),
            one => one.stage_policy_of_one(n_layer, layout),
        }
    }

    /// The fields of the three stages, if it is they or has them as a part.
    pub fn visipruner(&self) -> Option<&VisiPrunerConfig> {
        self.parts().find_map(|part| match part {
            Self::VisiPruner(config) => Some(config),
            _ => None,
        })
    }

    /// Whether it acts before layer 0 and leaves all layers as they are.
    pub fn acts_before_model(&self) -> bool {
        *self != Self::Off && self.parts().all(Self::one_acts_before_model)
    }

    fn one_acts_before_model(&self) -> bool {
        matches!(self.name(), PolicyChoice::One(name) if name.acts_before_model())
    }

    /// The policies that it is made of, in the order in which they act; none for [`PolicyConfig::Off`].
    pub fn parts(&self) -> impl Iterator<Item = &Self> {
        let [first, second] = match self {
            Self::Off => [None, None],
            Self::Composed(both) => [Some(both.before()), Some(both.within())],
            one => [Some(one), None],
        };
        first.into_iter().chain(second)
    }
}

impl Policy for PolicyConfig {
    fn name(&self) -> String {
        Self::name(self).to_string()
    }

    fn cuts(&self, n_layer: usize) -> Vec<usize> {
        Self::cuts(self, n_layer)
    }

    fn acts_before_model(&self) -> bool {
        Self::acts_before_model(self)
    }

    fn key(&self) -> String {
        self.to_toml()
    }

    /// What acts before layer 0, and the shallow stage, which changes how vision tokens see each other.
    fn shared_key(&self) -> String {
        let of_part = |part: &Self| match part {
            Self::VisiPruner(config) if config.stages.shallow => format!(
                "shallow {} {} {} {}\n",
                config.shallow_mid_layer, config.layer0, config.shallow_mask, config.visual_self_attention
            ),
            part if part.one_acts_before_model() => part.to_toml(),
            _ => String::new(),
        };
        self.parts().map(of_part).collect()
    }

    fn build(&self, n_layer: usize, layout: &PromptLayout) -> Result<Box<dyn StagePolicy>, PolicyError> {
        Self::build(self, n_layer, layout)
    }
}

/// A flat table: `policy`, and the fields of the policies that it is made of.
impl Serialize for PolicyConfig {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Table<'a> {
            policy: PolicyChoice,
            #[serde(flatten)]
            first: Option<FieldsInForce<'a>>,
            #[serde(flatten)]
            second: Option<FieldsInForce<'a>>,
        }
        let mut parts = self.parts().filter_map(Self::fields_in_force);
        let table = Table {
            policy: self.name(),
            first: parts.next(),
            second: parts.next(),
        };
        table.serialize(serializer)
    }
}

/// As a policy file: what it leaves out has its default.
impl<'de> Deserialize<'de> for PolicyConfig {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = PolicyOverrides::deserialize(deserializer)?;
        fields.apply(&Self::Off).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests;
