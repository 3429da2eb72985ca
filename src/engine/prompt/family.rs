//! What the families' processors write around pictures, besides the tokens that llama.cpp puts there.

use crate::engine::Projector;

/// The text around a picture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Surroundings {
    /// Stands before and after every picture of a chat.
    pub(super) around: &'static str,
    /// Whether pictures before the text of a message have lines of their own. Where the template takes typed pieces it
    /// is its own matter.
    pub(super) own_lines: bool,
}

impl Surroundings {
    /// Of LLaVA's conversations (`llava/conversation.py`, `llava/eval/run_llava.py`).
    pub(super) const LLAVA: Self = Self {
        around: "",
        own_lines: true,
    };

    /// Of the model that a projector is made for.
    pub(crate) fn of(projector: Option<&Projector>) -> Self {
        projector.map_or_else(Self::default, |projector| {
            Self::of_type(&projector.shape().projector_type)
        })
    }

    /// Of the models with a type of projector (`clip.projector_type`).
    pub(super) fn of_type(projector_type: &str) -> Self {
        match projector_type {
            // LLaVA, MobileVLM, InternVL, MiniCPM-V, Janus: `<image>`, a newline, the question
            "mlp" | "mlp_norm" | "ldp" | "ldpv2" | "internvl" | "resampler" | "janus_pro" => Self::LLAVA,
            // `full_image_sequence` of models/gemma3/processing_gemma3.py and models/gemma3n/processing_gemma3n.py
            "gemma3" | "gemma3nv" => Self {
                around: "\n\n",
                ..Self::default()
            },
            _ => Self::default(),
        }
    }
}
