use std::fmt;

/// Why no vision row was dropped. Its `Display` is the sentence that reports carry.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Skipped {
    /// The policy is `off`.
    Off,
    /// The policy is `dense_staged`.
    DropsNothing,
    /// No policy was asked for, and there is neither a preset nor a policy file for the model.
    NotCalibrated,
    /// The model's architecture cannot be run in layer ranges.
    UnsupportedArch {
        /// `general.architecture` of the model.
        arch: String,
    },
    /// The prompt has no image.
    NoImage,
    /// The prompt's last token belongs to an image, so there is no question to judge the image by.
    EndsInImage,
    /// All stages are switched off.
    NoStages,
    /// No layer of the middle stage had a token below `layer_threshold`.
    NoLayerFired {
        /// First layer probed.
        il_first: usize,
        /// Last layer of the model.
        il_last: usize,
        /// Smallest cosine seen in any of them; `None` if there was no layer to probe.
        min_cos: Option<f64>,
        /// `layer_threshold`.
        threshold: f64,
    },
    /// The kept set held every vision token, and no exit followed.
    AllKept {
        /// The fusion layer.
        il: usize,
    },
    /// The budgets of the policy held every vision token.
    WithinBudget,
    /// The schedule keeps vision to the last layer.
    NoExit {
        /// The first layer without vision, which the model does not have.
        exit_from: usize,
    },
    /// The decision came in the last layer, when every row had been computed.
    TooLate {
        /// That layer.
        il: usize,
    },
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => write!(f, "the policy is off"),
            Self::DropsNothing => write!(f, "the policy drops nothing"),
            Self::NotCalibrated => write!(
                f,
                "there is no preset for this model and no policy file was given, so the policy is off"
            ),
            Self::UnsupportedArch { arch } => {
                write!(
                    f,
                    "the architecture {arch:?} cannot be pruned between layers, and no policy that acts before them was \
                     asked for, so the model ran dense"
                )
            }
            Self::NoImage => write!(f, "the prompt has no image"),
            Self::EndsInImage => write!(
                f,
                "the prompt ends in an image: there is no text after it to judge its tokens by"
            ),
            Self::NoStages => write!(f, "all stages of the policy are switched off"),
            Self::NoLayerFired {
                il_first,
                il_last,
                min_cos: Some(cos),
                threshold,
            } => write!(
                f,
                "no layer from {il_first} to {il_last} had a vision token below layer_threshold {threshold} \
                 (the smallest cosine was {cos:.6})"
            ),
            Self::NoLayerFired {
                il_first,
                il_last,
                min_cos: None,
                ..
            } => write!(
                f,
                "the middle stage starts at layer {il_first}, but the last layer is {il_last}"
            ),
            Self::AllKept { il } => write!(f, "layer {il} fired, but every vision token was kept"),
            Self::WithinBudget => write!(f, "there are no more vision tokens than the policy keeps"),
            Self::NoExit { exit_from } => write!(
                f,
                "vision would be dropped from layer {exit_from} on, and the last layer is {}",
                exit_from.saturating_sub(1)
            ),
            Self::TooLate { il } => write!(
                f,
                "the decision came in the last layer ({il}), when all rows had run"
            ),
        }
    }
}
