//! Why a prefill ends early.

use std::ops::Range;

use thiserror::Error;

use crate::policy::Needs;

/// Why a prefill ended early.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum PrefillError<E: std::error::Error + 'static> {
    /// The engine could not run, probe or evict a range.
    #[error("layers {} to {} of the prompt could not be run", .layers.start, .layers.end.saturating_sub(1))]
    Engine {
        /// The layers concerned.
        layers: Range<usize>,
        /// What it said.
        source: E,
    },
    /// The progress callback asked to stop.
    #[error("cancelled")]
    Cancelled,
    /// The prompt is empty, or its image spans overlap, descend or leave it.
    #[error("the prompt of {n_rows} tokens with the image spans {vision:?} cannot be run")]
    Layout {
        /// Tokens in the prompt.
        n_rows: usize,
        /// Rows of each image.
        vision: Vec<Range<usize>>,
    },
    /// The rows of an image must see each other both ways, but do not fit into one call.
    #[error(
        "an image of {n_rows} tokens does not fit into a batch of {max}: raise the batch size to at least {n_rows}"
    )]
    ImageTooLong {
        /// Rows of the image.
        n_rows: usize,
        /// Rows that one call may have.
        max: usize,
    },
    /// The statistic of a vision token is not a finite number.
    #[error("layer {il}: what was read for the vision token at prompt row {row} is not a finite number")]
    Probe {
        /// The probed layer.
        il: usize,
        /// The token's row.
        row: usize,
    },
    /// A policy kept tokens before layer 0 that the prompt does not have.
    #[error("the policy kept vision tokens that the prompt does not have")]
    Start,
    /// A policy needs embeddings that it was not given.
    #[error("the policy needs embeddings before layer 0 ({needs:?}), and these are not there for every row")]
    Embeddings {
        /// What it needs.
        needs: Needs,
    },
    /// A policy wants the attention of rows that it does not name, or names others than text rows.
    #[error(
        "layer {il}: the policy wants the attention of raters, which must be text rows, ascending, at least one"
    )]
    Raters {
        /// The layer to be probed.
        il: usize,
    },
    /// A policy kept tokens that were not there.
    #[error("layer {il}: the policy kept vision tokens that were not present")]
    Decision {
        /// The layer it decided after.
        il: usize,
    },
    /// A policy needs a cut that the engine does not have: it had not announced it.
    #[error("the policy needs a cut before layer {il}, where the engine has none")]
    NoCut {
        /// The first layer after the cut.
        il: usize,
    },
}
