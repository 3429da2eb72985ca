//! The fields of all policies.
//!
//! A field has one line in the table below: its name, the type of its value, what it is for. Policy files, single
//! overrides, reports and command-line flags follow from it. Which policies have a field, and with which default, is
//! said where a policy's fields are defined, with [`policy_fields`].

use serde::Deserialize;

use super::value::{FieldKind, FieldValue};
use super::{
    ExitCount, Layer0, PolicyChoice, PolicyError, ShallowMask, Stages, TokensThresholdUnit,
    VisualSelfAttention, unknown,
};
use crate::policy::budget::{Budget, Budgets};

/// What there is to know about a field without knowing the policy.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Field {
    /// Its key in policy files.
    pub name: &'static str,
    /// What it is for, in a line; names of fields stand between backticks.
    pub help: &'static str,
    /// What stands for its value: `LAYER`.
    pub value_name: &'static str,
    /// What its value looks like.
    pub kind: FieldKind,
    /// Whether it is a detail that a short help leaves out.
    pub is_detail: bool,
}

/// Makes overrides and [`Field`]s out of a table.
macro_rules! fields {
    ($($(#[doc = $help:literal])+ $name:ident: $type:ty, $value_name:literal $(, $detail:ident)?;)+) => {
        /// Single fields of a policy, from a policy file or from a caller. What is `None` stays as it was.
        ///
        /// Ranges and defaults are said where the policies define their fields, such as
        /// [`VisiPrunerConfig`](super::VisiPrunerConfig).
        #[derive(Debug, Clone, PartialEq, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        pub struct PolicyOverrides {
            /// The policy.
            pub policy: Option<PolicyChoice>,
            $($(#[doc = $help])+ pub $name: Option<$type>,)+
        }

        impl Field {
            /// Every field.
            pub const ALL: &'static [Self] = &[$(Self {
                name: stringify!($name),
                help: concat!($($help),+),
                value_name: $value_name,
                kind: <$type as FieldValue>::KIND,
                is_detail: fields!(@is_detail $($detail)?),
            }),+];
        }

        impl PolicyOverrides {
            /// The names of all fields, without `policy`.
            pub const FIELDS: &'static [&'static str] = &[$(stringify!($name)),+];

            /// The names of the fields that are given, without `policy`.
            pub fn given(&self) -> Vec<&'static str> {
                let given = [$((stringify!($name), self.$name.is_some())),+];
                given.into_iter().filter_map(|(name, is_given)| is_given.then_some(name)).collect()
            }

            /// Gives a field its value as it is written in one word: `8`, `0.5`, `50%,25%`, `middle,deep`.
            ///
            /// # Errors
            /// [`PolicyError::UnknownField`], and whatever is wrong with the value.
            pub fn set(&mut self, field: &str, value: &str) -> Result<(), PolicyError> {
                match field {
                    $(stringify!($name) => self.$name = Some(FieldValue::read(stringify!($name), value)?),)+
                    _ => return Err(unknown::field(field)),
                }
                Ok(())
            }
        }
    };
    (@is_detail detail) => { true };
    (@is_detail) => { false };
}

fields! {
    /// Stages to run, separated by commas: shallow, middle, deep; or none
    stages: Stages, "LIST";

    /// Layers below it are shallow, layers above it are searched for the fusion layer
    shallow_mid_layer: usize, "LAYER", detail;

    /// Fusion: the first layer where leaving out one vision token turns the attention output to a cosine below this
    layer_threshold: f64, "COSINE", detail;

    /// Vision tokens that contribute more than this at the fusion layer are kept
    tokens_threshold: f64, "NORM", detail;

    /// Unit of `tokens_threshold`: absolute, or relative to the attention output
    tokens_threshold_unit: TokensThresholdUnit, "UNIT", detail;

    /// Exit: a layer counts where leaving out any kept token leaves the cosine at this or above
    exit_threshold: f64, "COSINE", detail;

    /// Exit: after so many counted layers vision is dropped
    exit_layers: usize, "N", detail;

    /// Exit: whether the counted layers must follow each other
    exit_count: ExitCount, "HOW", detail;

    /// With `stages` deep: the layer from which vision is dropped
    mid_deep_layer: usize, "LAYER", detail;

    /// Shallow stage, layer 0: text's weights on vision are merged onto its first token (merge), zeroed on its first
    /// half (half), or left alone (none)
    layer0: Layer0, "HOW", detail;

    /// Shallow stage: text's weights on vision are zeroed after softmax (sink) or masked before it (skip)
    shallow_mask: ShallowMask, "HOW", detail;

    /// Shallow stage: whether vision tokens see each other
    visual_self_attention: VisualSelfAttention, "HOW", detail;

    /// Forget vision in the shallow layers once the prompt is processed
    evict_shallow_kv: bool, "BOOL", detail;

    /// `policy` fixed: after this layer only `keep` vision tokens go on
    fusion_layer: usize, "LAYER";

    /// `policy` fastv, pyramiddrop or sparsevlm: layers whose attention ranks the vision tokens, separated by commas
    rank_layers: Vec<usize>, "LAYERS";

    /// Vision tokens that go on: how many with `policy` fixed; one number or share (12.5%) for each of `rank_layers`,
    /// separated by commas
    keep: Budgets, "N|P%";

    /// `policy` fixed or vtw: first layer without vision
    exit_from: usize, "LAYER";

    /// `policy` divprune, random or uniform: vision tokens that enter the model, as number or share
    budget: Budget, "N|P%";

    /// `policy` random: seed of the draw
    policy_seed: u64, "N", detail;
}

/// The fields of one or several policies, of the table above.
pub(in crate::policy) trait Fields: Clone + Sized {
    /// Their names.
    const FIELDS: &'static [&'static str];

    /// Why those without a default must be given.
    const NEEDS: &'static str;

    /// The fields given over `base`, or over the defaults. Not validated.
    fn over(base: Option<&Self>, given: &PolicyOverrides) -> Result<Self, PolicyError>;
}

/// Defines the fields of a policy as a struct, each with its default. Where fields have none, `needs` says why they must
/// be given.
macro_rules! policy_fields {
    (
        $(#[$meta:meta])*
        pub struct $config:ident $(needs $reason:literal)? {
            $($(#[$field_meta:meta])* pub $name:ident: $type:ty $(= $default:expr)?,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, serde::Serialize)]
        pub struct $config {
            $($(#[$field_meta])* pub $name: $type,)+
        }

        impl Default for $config {
            fn default() -> Self {
                Self { $($name: $crate::policy::config::fields::policy_fields!(@or_zero $($default)?),)+ }
            }
        }

        impl $crate::policy::config::fields::Fields for $config {
            const FIELDS: &'static [&'static str] = &[$(stringify!($name)),+];
            const NEEDS: &'static str = concat!($($reason)?);

            fn over(
                base: Option<&Self>,
                given: &$crate::policy::PolicyOverrides,
            ) -> Result<Self, $crate::policy::PolicyError> {
                Ok(Self {
                    $($name: $crate::policy::config::value::in_force(
                        stringify!($name),
                        given.$name.as_ref(),
                        base.map(|base| &base.$name),
                        $crate::policy::config::fields::policy_fields!(@option $($default)?),
                        Self::NEEDS,
                    )?,)+
                })
            }
        }
    };
    (@or_zero) => { Default::default() };
    (@or_zero $default:expr) => { $default };
    (@option) => { None };
    (@option $default:expr) => { Some($default) };
}

pub(in crate::policy) use policy_fields;
