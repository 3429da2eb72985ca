//! The report of one run: what went in, what each layer did, what came out, what was saved. Its JSON is documented in
//! `docs/report.md`, with a schema in `docs/report.schema.json`.
#![forbid(unsafe_code)]

pub mod summary;

#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::policy::cost::{DenseActual, Flops, KvBytes};
use crate::policy::trace::{Drop, LayerTrace, PrefillTrace};
use crate::policy::{PolicyConfig, PromptLayout, Row, Stage, VisionAttention, VisionIndex};

/// One run, from prompt to answer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunReport {
    /// The language model's file.
    pub model: String,
    /// The projector's file, if one was loaded.
    pub mmproj: Option<String>,
    /// The prompt's tokens; -1 where a vision token stands.
    pub token_ids: Vec<i32>,
    /// First prompt row and number of rows of each image.
    pub image_spans: Vec<[usize; 2]>,
    /// Tokens in the prompt, text and vision.
    pub n_tokens: usize,
    /// Layers of the model.
    pub n_layer: usize,
    /// The vision tokens that entered layer 0, counted over all vision tokens of the prompt; `None` if all did.
    pub entered: Option<Vec<u32>>,
    /// Every drop of vision tokens, in the order of the layers; empty if none was dropped.
    pub drops: Vec<DropReport>,
    /// The layer in which the policy found the picture to be read, or was told that it is; it ran on all rows that
    /// entered.
    pub fusion_layer: Option<usize>,
    /// The first layer that ran on the kept set: `fusion_layer + 1`.
    pub prune_from: Option<usize>,
    /// The vision tokens that went on after the fusion layer, counted over all vision tokens of the prompt.
    pub kept: Option<Vec<u32>>,
    /// Their rows in the prompt.
    pub kept_pos: Option<Vec<u32>>,
    /// The last layer with vision: the one whose count completed the exit.
    pub exit_layer: Option<usize>,
    /// The first layer without vision: `exit_layer + 1`.
    pub exit_from: Option<usize>,
    /// One entry per layer.
    pub layers: Vec<LayerReport>,
    /// KV cells that each layer held at the end of the run.
    pub kv_final: Vec<usize>,
    /// Logits of the last prompt token, where they were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub logits: Option<Vec<f32>>,
    /// The generated tokens.
    pub generated: Vec<i32>,
    /// The generated text.
    pub text: String,
    /// The policy, with every field in force.
    pub policy: PolicyConfig,
    /// The name of a policy that the program brought itself; `policy` is then off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custom_policy: Option<String>,
    /// The preset that the policy started from.
    pub preset: Option<String>,
    /// Why no row was dropped, in words; `None` if some were.
    pub skipped: Option<String>,
    /// Work of the prefill.
    pub flops: FlopsReport,
    /// Keys and values of the prompt.
    pub kv_bytes: KvBytes,
    /// Bytes allocated for keys and values of all layers; 0 for models that keep none per layer.
    pub kv_allocated_bytes: u64,
    /// Turns of the prompt: questions that were judged each by itself.
    pub n_turns: usize,
    /// Rows of the prompt of which something was there from earlier requests.
    pub reused_rows: usize,
    /// Of a picture that was there: the first layer that it had not been through, if it had not been through all.
    pub frontier: Option<usize>,
    /// Bytes that are kept after the answer for requests that begin alike: keys, values, hidden rows and embeddings.
    pub prefix_bytes: u64,
    /// Where it was computed.
    #[serde(default)]
    pub compute: ComputeReport,
    /// Where the time went.
    pub times_ms: TimesMs,
    /// Generated tokens per second of `times_ms.decode`; `None` if nothing was generated.
    pub tokens_per_second: Option<f64>,
    /// What the user was warned of.
    pub warnings: Vec<String>,
}

/// Vision tokens that were dropped at one place.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DropReport {
    /// The last layer that ran on them; `None` if they never entered layer 0.
    pub layer: Option<usize>,
    /// How many vision tokens went on.
    pub n_kept: usize,
    /// The vision tokens that went on, counted over all vision tokens of the prompt.
    pub kept: Vec<u32>,
    /// Their rows in the prompt.
    pub kept_pos: Vec<u32>,
}

impl From<&Drop> for DropReport {
    fn from(drop: &Drop) -> Self {
        Self {
            layer: drop.after,
            n_kept: drop.kept.len(),
            kept: numbers(&drop.kept),
            kept_pos: rows(&drop.kept_rows),
        }
    }
}

/// One layer of the prefill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LayerReport {
    /// The layer, from 0.
    pub layer: usize,
    /// Rows computed.
    pub rows: usize,
    /// KV cells held after the prefill.
    pub kv: usize,
    /// Which part of the policy this was.
    pub stage: Stage,
    /// How vision keys were treated; `None` for ordinary attention.
    pub shallow: Option<VisionAttention>,
    /// Whether and for what the layer was probed.
    pub probe: Option<ProbeKind>,
    /// With probes: the vision tokens present, ascending, counted over all vision tokens of the prompt. What follows is
    /// parallel to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vision: Option<Vec<u32>>,
    /// With probes: `cos(o - c_j, o)` of each vision token present, in the order of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cos: Option<Vec<f64>>,
    /// With probes: `||c_j||` of each vision token present, in the order of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub norm: Option<Vec<f64>>,
    /// With probes: the attention that ranked the vision tokens, of each present, in the order of the prompt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attention: Option<Vec<f64>>,
}

/// What a probed layer was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum ProbeKind {
    /// Is this the fusion layer?
    Middle,
    /// Does vision still matter?
    Deep,
    /// Which vision tokens get most attention?
    Rank,
}

/// The work of the prefill; see [`crate::policy::cost`] for what each count includes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlopsReport {
    /// The paper's formula: vision tokens only, multiply-adds.
    pub paper: Count,
    /// What a prompt like this takes: all rows of all layers, output head and vision encoder, FLOPs.
    pub model: Count,
    /// Attention from and to vision tokens, FLOPs.
    pub vision_attention: Count,
    /// Of `model.actual` what this request computed, without the encoder: less where rows were there already.
    pub computed: u64,
}

/// A count without pruning and as it was.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Count {
    /// Without pruning.
    pub dense: u64,
    /// As it was.
    pub actual: u64,
    /// `actual / dense`; `None` if `dense` is 0.
    pub ratio: Option<f64>,
}

impl From<DenseActual> for Count {
    fn from(count: DenseActual) -> Self {
        Self {
            dense: count.dense,
            actual: count.actual,
            ratio: count.ratio(),
        }
    }
}

impl From<Flops> for FlopsReport {
    fn from(flops: Flops) -> Self {
        Self {
            paper: flops.paper.into(),
            model: flops.model.into(),
            vision_attention: flops.vision_attention.into(),
            computed: flops.computed,
        }
    }
}

/// Where a run was computed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ComputeReport {
    /// Operations of the language model that another device computed than the one that holds their layer: it lacks the
    /// operation, or what is read lies elsewhere. Each costs a copy there and back. Empty where the CPU computes alone.
    pub fallbacks: Vec<Fallback>,
}

/// Operations of one kind that another device computed than the one that holds their layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fallback {
    /// The operation, as ggml calls it: `FLASH_ATTN_EXT`.
    pub op: String,
    /// The device that computed it, as ggml calls it: `CPU`.
    pub device: String,
    /// How often, for prompt and answer; of a call in several ubatches the last one counts.
    pub n: u64,
}

/// Milliseconds on the wall clock.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimesMs {
    /// Loading model and projector.
    pub load: f64,
    /// Images through the vision encoder.
    pub encode: f64,
    /// The prompt through the model, the policy's part included.
    pub prefill: f64,
    /// Of `prefill`: reading probes and deciding.
    pub policy: f64,
    /// Generating tokens.
    pub decode: f64,
    /// The whole run.
    pub total: f64,
}

impl RunReport {
    /// The part of a report that the prompt and its prefill determine; the rest is left at its defaults.
    ///
    /// `token_ids` has one entry per prompt row, whatever stands in the rows of images. `kv` are the cells that each
    /// layer holds after the prefill. `with_probes` adds what the probes read.
    pub fn of_prefill(
        layout: &PromptLayout,
        token_ids: &[i32],
        trace: &PrefillTrace,
        kv: &[usize],
        with_probes: bool,
    ) -> Self {
        let mut token_ids = token_ids.to_vec();
        for span in &layout.vision {
            let end = span.end.min(token_ids.len());
            if let Some(tokens) = token_ids.get_mut(span.start..end) {
                tokens.fill(-1);
            }
        }
        let layer = |(layer, (trace, &kv))| LayerReport::of(layer, trace, kv, with_probes);
        Self {
            token_ids,
            image_spans: layout
                .vision
                .iter()
                .map(|span| [span.start, span.len()])
                .collect(),
            n_tokens: layout.n_rows,
            n_layer: trace.layers.len(),
            entered: trace.entered.as_deref().map(numbers),
            drops: trace.drops.iter().map(DropReport::from).collect(),
            fusion_layer: trace.fusion_layer,
            prune_from: trace.prune_from(),
            kept: trace.kept.as_deref().map(numbers),
            kept_pos: trace.kept_rows.as_deref().map(rows),
            exit_layer: trace.exit_layer,
            exit_from: trace.exit_from(),
            layers: trace.layers.iter().zip(kv).enumerate().map(layer).collect(),
            skipped: trace.skipped.as_ref().map(ToString::to_string),
            ..Self::default()
        }
    }

    /// The vision tokens that the policy chose: those that went on after the fusion layer, without one those that went
    /// on after the first drop between layers, else those that entered. `None` where all went through all layers.
    pub fn chosen(&self) -> Option<&[u32]> {
        let dropped = || self.first_drop().map(|drop| drop.kept.as_slice());
        self.kept.as_deref().or_else(dropped)
    }

    /// The last layer before [`chosen`](Self::chosen): `None` if they were chosen before layer 0.
    pub fn chosen_after(&self) -> Option<usize> {
        let dropped = || self.first_drop().and_then(|drop| drop.layer);
        self.fusion_layer.or_else(dropped)
    }

    /// The first drop between layers, else the one before layer 0.
    fn first_drop(&self) -> Option<&DropReport> {
        let between_layers = self.drops.iter().find(|drop| drop.layer.is_some());
        between_layers.or(self.drops.first())
    }

    /// The policy's name, also of one that the program brought itself.
    pub fn policy_name(&self) -> String {
        let own = self.custom_policy.clone();
        own.unwrap_or_else(|| self.policy.name().to_string())
    }

    /// The report as one JSON object, without a line break at the end.
    ///
    /// # Errors
    /// None for reports whose numbers are finite; JSON has no others, and they are written as `null`.
    pub fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(self)
    }
}

impl LayerReport {
    fn of(layer: usize, trace: &LayerTrace, kv: usize, with_probes: bool) -> Self {
        let values = trace.probe.as_ref().filter(|_| with_probes);
        let weights = trace.weights.as_ref().filter(|_| with_probes);
        Self {
            layer,
            rows: trace.n_rows,
            kv,
            stage: trace.stage,
            shallow: (!trace.attention.is_plain()).then_some(trace.attention),
            probe: ProbeKind::of(trace),
            vision: with_probes.then(|| numbers(&trace.vision)),
            cos: values.map(|probe| probe.cos.clone()),
            norm: values.map(|probe| probe.norm.clone()),
            attention: weights.map(|reading| reading.weight.clone()),
        }
    }
}

impl ProbeKind {
    fn of(trace: &LayerTrace) -> Option<Self> {
        match (&trace.probe, &trace.weights) {
            (Some(_), _) if trace.stage == Stage::Deep => Some(Self::Deep),
            (Some(_), _) => Some(Self::Middle),
            (None, Some(_)) => Some(Self::Rank),
            (None, None) => None,
        }
    }
}

fn rows(rows: &[Row]) -> Vec<u32> {
    rows.iter().map(|row| row.0).collect()
}

fn numbers(tokens: &[VisionIndex]) -> Vec<u32> {
    tokens.iter().map(|token| token.0).collect()
}
