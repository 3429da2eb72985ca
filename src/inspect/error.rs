//! What can be wrong with an inspection.

/// Why an inspection cannot be shown or written. Every message is one line.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// There is no picture to draw on.
    #[error("an inspection needs at least one picture")]
    NoImage,

    /// Not as many layers as the model has.
    #[error("{what} has {found} layers, but the model has {expected}")]
    Layers {
        /// Which list.
        what: &'static str,
        /// Its entries.
        found: usize,
        /// `n_layer`, at least 1.
        expected: usize,
    },

    /// A list that should have one entry per vision token has more or fewer.
    #[error("layer {il}: {what} has {found} entries, but there are {expected} vision tokens")]
    Tokens {
        /// The layer.
        il: usize,
        /// Which list.
        what: &'static str,
        /// Its entries.
        found: usize,
        /// Vision tokens.
        expected: usize,
    },

    /// JSON has neither infinity nor NaN, and no colour stands for them.
    #[error("layer {il}: {what} has an entry that is not a finite number ({value})")]
    NotFinite {
        /// The layer.
        il: usize,
        /// Which list.
        what: &'static str,
        /// The entry.
        value: f64,
    },

    /// A picture is not a PNG file, has no cells, or more than there are tokens.
    #[error("picture {image} ({name}): {problem}")]
    Image {
        /// Its number, from 0.
        image: usize,
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },

    /// A kept set or a layer number points to nothing.
    #[error("{what} is {found}, but must be below {limit}")]
    OutOfRange {
        /// What points there.
        what: String,
        /// Where it points.
        found: usize,
        /// Number of what it counts.
        limit: usize,
    },

    /// JSON could not be written.
    #[error("the inspection cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),

    /// A picture or a part could not be decoded or encoded.
    #[cfg(feature = "cli")]
    #[error("cannot {action} {what}: {source}")]
    Picture {
        /// What was attempted.
        action: &'static str,
        /// Which one.
        what: String,
        /// What the codec said.
        source: image::ImageError,
    },

    /// A part could not be written.
    #[cfg(feature = "cli")]
    #[error("cannot write {}: {source}", path.display())]
    Io {
        /// The file.
        path: std::path::PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
}
