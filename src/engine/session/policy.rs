//! The policy of a session or a request.

use std::sync::Arc;

use crate::policy::{Policy, PolicyConfig};

/// A policy: one of the list, or the program's own.
#[derive(Clone)]
#[non_exhaustive]
pub enum AnyPolicy {
    /// One of the list.
    Config(PolicyConfig),
    /// The program's own.
    Own(Arc<dyn Policy>),
}

impl AnyPolicy {
    /// A policy of the program's own.
    pub fn own(policy: impl Policy + 'static) -> Self {
        Self::Own(Arc::new(policy))
    }

    /// The policy; `None` if nothing is to be pruned.
    pub fn as_policy(&self) -> Option<&dyn Policy> {
        match self {
            Self::Config(PolicyConfig::Off) => None,
            Self::Config(config) => Some(config),
            Self::Own(own) => Some(own.as_ref()),
        }
    }

    /// The fields, of one of the list.
    pub fn config(&self) -> Option<&PolicyConfig> {
        match self {
            Self::Config(config) => Some(config),
            Self::Own(_) => None,
        }
    }
}

impl From<PolicyConfig> for AnyPolicy {
    fn from(config: PolicyConfig) -> Self {
        Self::Config(config)
    }
}

impl std::fmt::Debug for AnyPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Config(config) => config.fmt(f),
            Self::Own(own) => write!(f, "Own({:?})", own.name()),
        }
    }
}
