use std::fs;
use std::path::Path;

use serde::Deserialize;

use super::{
    ExitCount, Layer0, PolicyChoice, PolicyConfig, PolicyError, PolicyName, ShallowMask, Stages,
    TokensThresholdUnit, VisualSelfAttention,
};
use crate::policy::budget::{Budget, Budgets};
use crate::policy::composed::Composition;

/// Defines the fields, and which of them are given.
macro_rules! fields {
    ($($name:ident: $type:ty,)+) => {
        /// Single fields of a policy, from a policy file or from a caller. What is `None` stays as it was.
        ///
        /// What the fields mean is said where the policies define them: [`VisiPrunerConfig`](super::VisiPrunerConfig),
        /// [`Schedule`](crate::policy::fixed::Schedule), [`VtwConfig`](crate::policy::vtw::VtwConfig),
        /// [`RankSchedule`](crate::policy::rank::RankSchedule), [`BeforeConfig`](crate::policy::before::BeforeConfig),
        /// [`RandomConfig`](crate::policy::random::RandomConfig).
        #[derive(Debug, Clone, PartialEq, Default, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[allow(missing_docs, reason = "the fields are documented where they are defined")]
        pub struct PolicyOverrides {
            pub policy: Option<PolicyChoice>,
            $(pub $name: Option<$type>,)+
        }

        impl PolicyOverrides {
            /// The names of all fields, without `policy`.
            pub const FIELDS: &'static [&'static str] = &[$(stringify!($name)),+];

            /// The names of the fields that are given, without `policy`.
            pub fn given(&self) -> Vec<&'static str> {
                let given = [$((stringify!($name), self.$name.is_some())),+];
                given.into_iter().filter_map(|(name, is_given)| is_given.then_some(name)).collect()
            }
        }
    };
}

fields! {
    stages: Stages,
    shallow_mid_layer: usize,
    layer_threshold: f64,
    tokens_threshold: f64,
    tokens_threshold_unit: TokensThresholdUnit,
    exit_threshold: f64,
    exit_layers: usize,
    exit_count: ExitCount,
    mid_deep_layer: usize,
    layer0: Layer0,
    shallow_mask: ShallowMask,
    visual_self_attention: VisualSelfAttention,
    evict_shallow_kv: bool,
    latest_fusion_layer: usize,
    kept_budget: usize,
    fusion_layer: usize,
    rank_layers: Vec<usize>,
    keep: Budgets,
    exit_from: usize,
    budget: Budget,
    policy_seed: u64,
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
    /// Another policy than the base's starts from that policy's defaults; one that the base has as a part starts from
    /// that part. Over `off`, fields that only one policy has choose that policy, even if its name is not given;
    /// those of `visipruner` choose it, whoever else has them.
    ///
    /// # Errors
    /// [`PolicyError::WrongPolicy`] for a field of another policy, [`PolicyError::Ambiguous`] for fields over `off` that
    /// several policies have, [`PolicyError::Missing`] for a field without a default, and as
    /// [`PolicyConfig::validate`].
    pub fn apply(&self, base: &PolicyConfig) -> Result<PolicyConfig, PolicyError> {
        let choice = match self.policy {
            Some(choice) => choice,
            None if *base == PolicyConfig::Off => self.implied()?,
            None => base.name(),
        };
        self.check_fields(choice)?;
        let config = match choice {
            PolicyChoice::One(name) => name.read(base, self)?,
            PolicyChoice::Composed { before, within } => {
                let (before, within) = (before.read(base, self)?, within.read(base, self)?);
                PolicyConfig::Composed(Composition::new(before, within)?)
            }
        };
        config.validate()?;
        Ok(config)
    }

    /// The policy that these fields belong to.
    fn implied(&self) -> Result<PolicyChoice, PolicyError> {
        let given = self.given();
        let Some(&first) = given.first() else {
            return Ok(PolicyName::Off.into());
        };
        let all = PolicyName::ALL.iter().copied();
        let fitting: Vec<PolicyName> = all
            .filter(|name| given.iter().all(|field| name.fields().contains(field)))
            .collect();
        match fitting[..] {
            [name] => Ok(name.into()),
            _ if fitting.contains(&PolicyName::VisiPruner) => Ok(PolicyName::VisiPruner.into()),
            // Which of them is wrong is said about the first one's policy.
            [] => Ok(owners(first)[0].into()),
            _ => Err(PolicyError::Ambiguous {
                field: first,
                owners: fitting,
            }),
        }
    }

    fn check_fields(&self, in_force: PolicyChoice) -> Result<(), PolicyError> {
        let is_known = |field: &str| in_force.parts().any(|name| name.fields().contains(&field));
        match self.given().into_iter().find(|field| !is_known(field)) {
            Some(field) => Err(PolicyError::WrongPolicy {
                field,
                owners: owners(field),
                in_force,
            }),
            None => Ok(()),
        }
    }
}

/// The policies that have a field: at least one.
fn owners(field: &str) -> Vec<PolicyName> {
    let all = PolicyName::ALL.iter().copied();
    all.filter(|name| name.fields().contains(&field)).collect()
}
