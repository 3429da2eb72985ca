//! Policies that have their fields in common with others. The family has the fields; each policy of it has its own
//! defaults for them, and does its own with them.

use super::{PolicyError, PolicyFields, PolicyOverrides};
use crate::policy::{PromptLayout, StagePolicy};

/// The fields of a family.
pub(in crate::policy) trait FamilyFields: Clone {
    /// As [`PolicyFields::FIELDS`].
    const FIELDS: &'static [&'static str];

    /// As [`PolicyFields::BEFORE_MODEL`].
    const BEFORE_MODEL: bool = false;

    /// These fields with those given over them. Not validated.
    fn with(self, fields: &PolicyOverrides) -> Self;

    /// As [`PolicyFields::validate`].
    fn validate(&self) -> Result<(), PolicyError>;

    /// As [`PolicyFields::validate_layers`].
    fn validate_layers(&self, n_layer: usize) -> Result<(), PolicyError> {
        let _ = n_layer;
        Ok(())
    }

    /// As [`PolicyFields::boundaries`].
    fn boundaries(&self, n_layer: usize) -> Vec<usize> {
        let _ = n_layer;
        Vec::new()
    }
}

/// A policy of a family: nothing but the family's fields, with defaults of its own.
pub(in crate::policy) trait FamilyPolicy: Clone + Default {
    /// The family's fields.
    type Fields: FamilyFields;

    /// The policy with these fields.
    fn from_fields(fields: Self::Fields) -> Self;

    /// Its fields.
    fn fields(&self) -> &Self::Fields;

    /// As [`PolicyFields::stage_policy`].
    fn at_work(&self, n_layer: usize, layout: &PromptLayout) -> Box<dyn StagePolicy>;
}

impl<P: FamilyPolicy> PolicyFields for P {
    const FIELDS: &'static [&'static str] = P::Fields::FIELDS;
    const BEFORE_MODEL: bool = P::Fields::BEFORE_MODEL;

    fn read(base: Option<&Self>, fields: &PolicyOverrides) -> Result<Self, PolicyError> {
        let base = base.cloned().unwrap_or_default();
        Ok(P::from_fields(base.fields().clone().with(fields)))
    }

    fn validate(&self) -> Result<(), PolicyError> {
        self.fields().validate()
    }

    fn validate_layers(&self, n_layer: usize) -> Result<(), PolicyError> {
        self.fields().validate_layers(n_layer)
    }

    fn boundaries(&self, n_layer: usize) -> Vec<usize> {
        self.fields().boundaries(n_layer)
    }

    fn stage_policy(&self, n_layer: usize, layout: &PromptLayout) -> Box<dyn StagePolicy> {
        self.at_work(n_layer, layout)
    }
}
