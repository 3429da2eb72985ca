//! What is measured. In JSON, reals have four significant digits (cosines seven decimals) and pictures are base64.

use serde::{Deserialize, Serialize};

use super::format::{base64_text, cosine, cosines, significant, significants};
use crate::policy::Stage;
use crate::policy::config::{TokensThresholdUnit, VisiPrunerConfig};
use crate::report::RunReport;

/// One question about one or several pictures: what a dense run did in every layer, and what policies kept.
///
/// Vision tokens count from 0 over all pictures, in the order of the prompt ([`crate::policy::VisionIndex`]); layers
/// count from 0.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Inspection {
    /// The model, as readers know it.
    pub model: String,
    /// Its architecture, as the GGUF file names it: `llama`.
    pub arch: String,
    /// Number of layers.
    pub n_layer: usize,
    /// The question.
    pub question: String,
    /// What the dense run answered.
    pub answer: String,
    /// The pictures, in the order of the prompt. At least one.
    pub images: Vec<InspectedImage>,
    /// The prompt in pieces, where it is to be shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt: Option<Vec<PromptPiece>>,
    /// One entry per layer, from the dense run.
    pub layers: Vec<InspectedLayer>,
    /// What the stages of VisiPruner did on the same prompt.
    pub policy: Option<InspectedPolicy>,
    /// What other policies kept.
    #[serde(default)]
    pub others: Vec<KeptBy>,
}

/// A picture as the vision encoder saw it: padded or cropped, so that the tokens' grid covers all of it.
///
/// Vision token `first_token + t` covers the cell in column `t % n_cols` and row `t / n_cols`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectedImage {
    /// Its name, such as the file's.
    pub name: String,
    /// The PNG file.
    #[serde(with = "base64_text")]
    pub png: Vec<u8>,
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
    /// Its first vision token.
    pub first_token: usize,
    /// Cells side by side.
    pub n_cols: usize,
    /// Cells one below the other.
    pub n_rows: usize,
}

/// A piece of the prompt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PromptPiece {
    /// A text token.
    Text(String),
    /// All tokens of a picture, by its number.
    Image(usize),
}

/// One layer of the dense run. `last` is the last token of the prompt, `o` its attention output before the output
/// projection, `c_j` the part of `o` that comes from vision token `j`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectedLayer {
    /// `[n_vision]`: the attention weight of `last` on each vision token, mean over heads. 0 to 1.
    #[serde(serialize_with = "significants")]
    pub attention: Vec<f64>,
    /// `[n_vision]`: the value-aware contribution `||c_j||`, in the model's units.
    #[serde(serialize_with = "significants")]
    pub norm: Vec<f64>,
    /// `[n_vision]`: `cos(o - c_j, o)`.
    #[serde(serialize_with = "cosines")]
    pub cos: Vec<f64>,
    /// `||o||`, in the model's units.
    #[serde(serialize_with = "significant")]
    pub output_norm: f64,
    /// `[n_vision]`: the L1 norm of each vision token's value vector, mean over KV heads, in the model's units.
    #[serde(serialize_with = "significants")]
    pub value_l1: Vec<f64>,
    /// `[n_text]`: the same of the prompt's text tokens; may be empty.
    #[serde(serialize_with = "significants")]
    pub text_value_l1: Vec<f64>,
    /// Logit lens: what `last`'s hidden row after this layer says through the output head, the likeliest first.
    pub top: Vec<Word>,
    /// Value-output lens: the same for `last`'s attention output alone (`o` through the output projection).
    pub value_top: Vec<Word>,
}

/// A token of the vocabulary and its probability.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(from = "(String, f64)", into = "(String, f64)")]
pub struct Word {
    /// Its text.
    pub text: String,
    /// From 0 to 1.
    pub probability: f64,
}

impl From<(String, f64)> for Word {
    fn from((text, probability): (String, f64)) -> Self {
        Self { text, probability }
    }
}

impl From<Word> for (String, f64) {
    fn from(word: Word) -> Self {
        (word.text, super::format::rounded(word.probability))
    }
}

/// The thresholds in force; see [`VisiPrunerConfig`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thresholds {
    /// Layers above it are searched for fusion.
    pub shallow_mid_layer: usize,
    /// Fusion: some cosine below this.
    pub layer_threshold: f64,
    /// Kept: a contribution above this.
    pub tokens_threshold: f64,
    /// What `tokens_threshold` is measured in.
    pub tokens_threshold_unit: TokensThresholdUnit,
    /// A layer counts towards the exit: all cosines at least this.
    pub exit_threshold: f64,
    /// So many layers must count.
    pub exit_layers: usize,
}

impl From<&VisiPrunerConfig> for Thresholds {
    fn from(config: &VisiPrunerConfig) -> Self {
        Self {
            shallow_mid_layer: config.shallow_mid_layer,
            layer_threshold: config.layer_threshold,
            tokens_threshold: config.tokens_threshold,
            tokens_threshold_unit: config.tokens_threshold_unit,
            exit_threshold: config.exit_threshold,
            exit_layers: config.exit_layers,
        }
    }
}

/// What the stages did, in a pruned run of their own.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InspectedPolicy {
    /// The policy's name.
    pub label: String,
    /// The thresholds, where it has them.
    pub thresholds: Option<Thresholds>,
    /// What the pruned run answered.
    pub answer: Option<String>,
    /// The layer in which the picture is read, for policies that know one; it ran on all rows.
    pub fusion_layer: Option<usize>,
    /// The vision tokens that the policy chose, ascending ([`RunReport::chosen`]); `None` where nothing was dropped.
    pub kept: Option<Vec<u32>>,
    /// The last layer that ran on more than `kept`; `None` if the others never entered, or nothing was dropped.
    #[serde(default)]
    pub kept_after: Option<usize>,
    /// The last layer with vision.
    pub exit_layer: Option<usize>,
    /// One entry per layer.
    pub layers: Vec<PolicyLayer>,
    /// Why no row was dropped, in words; `None` if some were.
    pub skipped: Option<String>,
}

/// One layer of the pruned run.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyLayer {
    /// Which part of the method it belonged to.
    pub stage: Stage,
    /// Vision tokens that ran.
    pub n_vision: usize,
    /// The smallest `cos(o - c_j, o)` that the policy read, over the vision tokens still there; `None` if it did not
    /// look.
    #[serde(serialize_with = "cosine")]
    pub min_cos: Option<f64>,
}

/// The vision tokens that another policy kept.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptBy {
    /// The policy, with its budget: `fastv keep=64`.
    pub policy: String,
    /// The tokens that were left when it was done, ascending.
    pub kept: Vec<u32>,
    /// The last layer that ran on more; `None` if they were dropped before the first layer.
    pub after_layer: Option<usize>,
    /// What the run answered.
    pub answer: Option<String>,
}

impl Inspection {
    /// Number of vision tokens, over all pictures: what the first layer has. 0 without layers.
    pub fn n_vision(&self) -> usize {
        self.layers.first().map_or(0, |layer| layer.attention.len())
    }

    /// The data as one JSON object, as it also stands in the report.
    ///
    /// # Errors
    /// Those of [`check`](Self::check).
    pub fn to_json(&self) -> Result<String, super::InspectError> {
        self.check()?;
        Ok(serde_json::to_string(self)?)
    }
}

impl InspectedLayer {
    /// The smallest cosine over all vision tokens; `None` without any.
    pub fn min_cos(&self) -> Option<f64> {
        self.cos.iter().copied().reduce(f64::min)
    }
}

impl InspectedPolicy {
    /// Without a fusion layer: the layer after which some vision tokens went on and others did not.
    pub(super) fn first_drop(&self) -> Option<usize> {
        let is_drop = |il: &usize| self.fusion_layer.is_none() && self.exit_layer != Some(*il);
        self.kept_after.filter(is_drop)
    }

    /// What a pruned run did, from its report with probes ([`RunReport`]).
    pub fn of_report(report: &RunReport) -> Self {
        let n_vision: usize = report.image_spans.iter().map(|[_, n_rows]| n_rows).sum();
        let n_text = report.n_tokens - n_vision;
        let layers = report.layers.iter().map(|layer| PolicyLayer {
            stage: layer.stage,
            n_vision: layer.rows - n_text,
            min_cos: layer
                .cos
                .as_ref()
                .and_then(|cos| cos.iter().copied().reduce(f64::min)),
        });
        Self {
            label: report.policy_name(),
            thresholds: report.policy.visipruner().map(Thresholds::from),
            answer: Some(report.text.trim().to_owned()),
            fusion_layer: report.fusion_layer,
            kept: report.chosen().map(<[u32]>::to_vec),
            kept_after: report.chosen_after(),
            exit_layer: report.exit_layer,
            layers: layers.collect(),
            skipped: report.skipped.clone(),
        }
    }
}

impl KeptBy {
    /// What a pruned run kept, from its report with probes: the vision tokens of the last layer that had any.
    pub fn of_report(policy: &str, report: &RunReport) -> Self {
        let sets = || report.layers.iter().filter_map(|layer| layer.vision.as_ref());
        let kept = sets()
            .rfind(|vision| !vision.is_empty())
            .cloned()
            .unwrap_or_default();
        let first = report
            .layers
            .iter()
            .position(|layer| layer.vision.as_ref() == Some(&kept));
        Self {
            policy: policy.to_owned(),
            kept,
            after_layer: first.and_then(|il| il.checked_sub(1)),
            answer: Some(report.text.trim().to_owned()),
        }
    }
}
