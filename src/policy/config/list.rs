//! The list of policies.

use serde::Serialize;

use super::fields::Fields;
use super::keywords::keywords;
use super::{PolicyChoice, PolicyError, PolicyFields, PolicyOverrides, VisiPrunerConfig};
use crate::policy::before::BeforeConfig;
use crate::policy::composed::Composition;
use crate::policy::dense_staged::DenseStaged;
use crate::policy::divprune::MaxMinDistance;
use crate::policy::fastv::FASTV;
use crate::policy::fixed::Schedule;
use crate::policy::off::Off;
use crate::policy::pyramiddrop::PYRAMID_DROP;
use crate::policy::random::RandomConfig;
use crate::policy::rank::RankSchedule;
use crate::policy::sparsevlm::SPARSE_VLM;
use crate::policy::uniform::EvenlySpaced;
use crate::policy::vtw::VtwConfig;
use crate::policy::{PromptLayout, Skipped, StagePolicy};

/// Makes names, configurations and what goes from one to the other out of a list of policies: each with its fields, and
/// where several have the same fields, with what tells it from them ([`PolicyFields::Kind`]).
macro_rules! policies {
    ($($(#[$meta:meta])* $variant:ident($fields:ty $(, $kind:expr)?) = $word:literal,)+) => {
        keywords! {
            /// The policies.
            #[non_exhaustive]
            PolicyName, "policy" {
                /// No pruning.
                Off = "off",
                $($(#[$meta])* $variant = $word,)+
            }
        }

        /// A policy with every field in force.
        #[derive(Debug, Clone, PartialEq, Default)]
        #[non_exhaustive]
        pub enum PolicyConfig {
            /// The model as it is.
            #[default]
            Off,
            $($(#[$meta])* $variant($fields),)+
            /// One that acts before layer 0, and one that acts between layers.
            Composed(Composition),
        }

        /// The fields of one policy, as they are written down.
        #[derive(Serialize)]
        #[serde(untagged)]
        pub(super) enum FieldsInForce<'a> {
            $($variant(&'a $fields),)+
        }

        impl PolicyName {
            /// Every policy.
            pub const ALL: &'static [Self] = &[Self::Off, $(Self::$variant,)+];

            /// The names of its fields.
            pub fn fields(self) -> &'static [&'static str] {
                match self {
                    Self::Off => &[],
                    $(Self::$variant => <$fields>::FIELDS,)+
                }
            }

            /// Whether it acts before layer 0 and leaves all layers as they are.
            pub fn acts_before_model(self) -> bool {
                match self {
                    Self::Off => false,
                    $(Self::$variant => <$fields>::BEFORE_MODEL,)+
                }
            }

            /// This policy with the fields given over `base`, if that is the same policy or has it as a part; else over
            /// the defaults.
            pub(super) fn read(
                self,
                base: &PolicyConfig,
                fields: &PolicyOverrides,
            ) -> Result<PolicyConfig, PolicyError> {
                match self {
                    Self::Off => Ok(PolicyConfig::Off),
                    $(Self::$variant => {
                        let base = base.parts().find_map(|part| match part {
                            PolicyConfig::$variant(base) => Some(base),
                            _ => None,
                        });
                        <$fields>::read(policies!(@kind $($kind)?), base, fields).map(PolicyConfig::$variant)
                    })+
                }
            }
        }

        /// What one policy that is not composed does. Composed ones are taken apart before.
        impl PolicyConfig {
            /// The policy's name, without its fields.
            pub fn name(&self) -> PolicyChoice {
                match self {
                    Self::Off => PolicyName::Off.into(),
                    $(Self::$variant(_) => PolicyName::$variant.into(),)+
                    Self::Composed(both) => both.name(),
                }
            }

            pub(super) fn fields_in_force(&self) -> Option<FieldsInForce<'_>> {
                match self {
                    Self::Off | Self::Composed(_) => None,
                    $(Self::$variant(fields) => Some(FieldsInForce::$variant(fields)),)+
                }
            }

            pub(super) fn validate_one(&self) -> Result<(), PolicyError> {
                match self {
                    Self::Off | Self::Composed(_) => Ok(()),
                    $(Self::$variant(fields) => fields.validate(),)+
                }
            }

            pub(super) fn validate_layers(&self, n_layer: usize) -> Result<(), PolicyError> {
                match self {
                    Self::Off | Self::Composed(_) => Ok(()),
                    $(Self::$variant(fields) => fields.validate_layers(n_layer),)+
                }
            }

            pub(super) fn cuts_of_one(&self, n_layer: usize) -> Vec<usize> {
                match self {
                    Self::Off | Self::Composed(_) => Vec::new(),
                    $(Self::$variant(fields) => fields.cuts(n_layer),)+
                }
            }

            pub(super) fn stage_policy_of_one(
                &self,
                n_layer: usize,
                layout: &PromptLayout,
            ) -> Box<dyn StagePolicy> {
                match self {
                    Self::Off | Self::Composed(_) => Box::new(Off::because(Skipped::Off)),
                    $(Self::$variant(fields) => fields.stage_policy(policies!(@kind $($kind)?), n_layer, layout),)+
                }
            }
        }
    };
    (@kind) => { () };
    (@kind $kind:expr) => { $kind };
}

policies! {
    /// The three stages.
    VisiPruner(VisiPrunerConfig) = "visipruner",
    /// A schedule that is known beforehand.
    Fixed(Schedule) = "fixed",
    /// No vision from one layer on.
    Vtw(VtwConfig) = "vtw",
    /// The tokens that get most attention in an early layer.
    FastV(RankSchedule, FASTV) = "fastv",
    /// Ever fewer tokens in stages, by the attention they get.
    PyramidDrop(RankSchedule, PYRAMID_DROP) = "pyramiddrop",
    /// Tokens rated by the text that has to do with the picture.
    SparseVlm(RankSchedule, SPARSE_VLM) = "sparsevlm",
    /// The most diverse tokens, before layer 0.
    DivPrune(BeforeConfig, &MaxMinDistance) = "divprune",
    /// Tokens drawn at random, before layer 0.
    Random(RandomConfig) = "random",
    /// Evenly spaced tokens, before layer 0.
    Uniform(BeforeConfig, &EvenlySpaced) = "uniform",
    /// Nothing is dropped, in batches as with the policies that drop.
    DenseStaged(DenseStaged) = "dense_staged",
}
