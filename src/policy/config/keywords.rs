//! Fields whose values are words.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::PolicyError;

/// Defines an enum whose values are written as words, the same in files, on the command line and in reports.
macro_rules! keywords {
    ($(#[$meta:meta])* $name:ident, $field:literal { $($(#[$variant_meta:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name {
            $($(#[$variant_meta])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// Every word, in the order of the variants.
            pub const WORDS: &'static [&'static str] = &[$($word),+];

            /// The word for this value.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = PolicyError;

            fn from_str(word: &str) -> Result<Self, PolicyError> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(PolicyError::UnknownKeyword {
                        field: $field,
                        value: word.to_owned(),
                        expected: Self::WORDS.join(", "),
                    }),
                }
            }
        }
    };
}

pub(super) use keywords;

keywords! {
    /// The stages that can be switched on.
    StageName, "stages" {
        /// Cut down attention to vision in the first layers.
        Shallow = "shallow",
        /// Find the fusion layer and drop what does not contribute.
        Middle = "middle",
        /// Drop the rest of vision when it has stopped to matter.
        Deep = "deep",
    }
}

keywords! {
    /// What `tokens_threshold` is measured in.
    TokensThresholdUnit, "tokens_threshold_unit" {
        /// `||c_j||`, in the units of the model's value vectors, as the paper has it.
        Absolute = "absolute",
        /// `||c_j|| / ||o||`, which carries over to other models.
        Relative = "relative",
    }
}

keywords! {
    /// How layers are counted towards the exit.
    ExitCount, "exit_count" {
        /// All layers since fusion count, as in the reference code.
        Cumulative = "cumulative",
        /// A layer that does not count starts the count over, as in the paper.
        Consecutive = "consecutive",
    }
}

keywords! {
    /// What the shallow stage does in layer 0.
    Layer0, "layer0" {
        /// Text's weights on vision are summed onto the first vision token, vision's weights on vision are zeroed
        /// (the reference code for LLaVA-1.5 7B).
        Merge = "merge",
        /// Text's weights on the first half of all vision tokens and vision's weights on vision are zeroed (the
        /// reference code for LLaVA-1.5 13B).
        Half = "half",
        /// Layer 0 is left as it is.
        None = "none",
    }
}

keywords! {
    /// How the shallow stage keeps text from seeing vision in layers 1 to `k - 1`.
    ShallowMask, "shallow_mask" {
        /// Weights are zeroed after softmax, so vision keeps its share of the denominator (the reference code).
        Sink = "sink",
        /// Keys are masked before softmax, so other tokens take over as sinks (the paper).
        Skip = "skip",
    }
}

keywords! {
    /// Whether vision tokens see each other in layers 1 to `k - 1` of the shallow stage.
    VisualSelfAttention, "visual_self_attention" {
        /// They do (the reference code).
        Keep = "keep",
        /// They do not, by the same operator as `shallow_mask` (the paper).
        Remove = "remove",
    }
}

/// The stages that are switched on. Written as a list of their names; the order does not matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(from = "Vec<StageName>", into = "Vec<StageName>")]
pub struct Stages {
    /// Layers below `shallow_mid_layer`.
    pub shallow: bool,
    /// From above `shallow_mid_layer` up to the fusion layer.
    pub middle: bool,
    /// From fusion on.
    pub deep: bool,
}

impl Stages {
    /// The default.
    pub const MIDDLE_DEEP: Self = Self {
        shallow: false,
        middle: true,
        deep: true,
    };
    /// Everything.
    pub const ALL: Self = Self {
        shallow: true,
        middle: true,
        deep: true,
    };

    /// Whether nothing is switched on.
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }

    fn names(self) -> impl Iterator<Item = StageName> {
        [
            (self.shallow, StageName::Shallow),
            (self.middle, StageName::Middle),
            (self.deep, StageName::Deep),
        ]
        .into_iter()
        .filter_map(|(on, name)| on.then_some(name))
    }
}

impl FromIterator<StageName> for Stages {
    fn from_iter<T: IntoIterator<Item = StageName>>(names: T) -> Self {
        let mut stages = Self::default();
        for name in names {
            match name {
                StageName::Shallow => stages.shallow = true,
                StageName::Middle => stages.middle = true,
                StageName::Deep => stages.deep = true,
            }
        }
        stages
    }
}

impl From<Vec<StageName>> for Stages {
    fn from(names: Vec<StageName>) -> Self {
        names.into_iter().collect()
    }
}

impl From<Stages> for Vec<StageName> {
    fn from(stages: Stages) -> Self {
        stages.names().collect()
    }
}

/// `middle,deep`; the empty text, or `none`, switches everything off.
impl FromStr for Stages {
    type Err = PolicyError;

    fn from_str(list: &str) -> Result<Self, PolicyError> {
        if list.is_empty() || list == "none" {
            return Ok(Self::default());
        }
        list.split(',')
            .map(|word| word.trim().parse::<StageName>())
            .collect()
    }
}

impl fmt::Display for Stages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.pad("none");
        }
        let names: Vec<_> = self.names().map(StageName::as_str).collect();
        f.pad(&names.join(","))
    }
}
