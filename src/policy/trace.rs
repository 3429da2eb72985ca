//! What a prefill did, layer by layer: the record that reports are made from.

use std::ops::Range;
use std::time::Duration;

use super::{
    AttentionReading, ProbeReading, PromptLayout, Row, Skipped, Stage, VisionAttention, VisionIndex,
};

/// One layer of a prefill.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerTrace {
    /// Rows that the layer ran on, text and vision.
    pub n_rows: usize,
    /// The vision tokens among them, ascending.
    pub vision: Vec<VisionIndex>,
    /// Prompt rows that earlier questions had left there, ascending: of these nothing was computed.
    pub resident: Vec<Range<usize>>,
    /// Which part of the policy the layer belonged to.
    pub stage: Stage,
    /// How vision keys were treated.
    pub attention: VisionAttention,
    /// The contributions that were read in this layer, if it was probed for them.
    pub probe: Option<ProbeTrace>,
    /// The attention that was read in this layer, if it was probed for that.
    pub weights: Option<AttentionReading>,
}

impl LayerTrace {
    /// A layer that computed every row and left attention as it is.
    pub fn dense(layout: &PromptLayout) -> Self {
        Self {
            n_rows: layout.n_rows,
            vision: (0..layout.n_vision() as u32).map(VisionIndex).collect(),
            resident: Vec::new(),
            stage: Stage::Dense,
            attention: VisionAttention::default(),
            probe: None,
            weights: None,
        }
    }
}

/// The contributions that a probed layer read. The vectors are parallel.
#[derive(Debug, Clone, PartialEq)]
pub struct ProbeTrace {
    /// The vision tokens present, ascending.
    pub tokens: Vec<VisionIndex>,
    /// `cos(o - c_j, o)` of each.
    pub cos: Vec<f64>,
    /// `||c_j||` of each.
    pub norm: Vec<f64>,
    /// `||o||`
    pub output_norm: f64,
}

impl ProbeTrace {
    pub(crate) fn of(reading: &ProbeReading) -> Self {
        Self {
            tokens: reading.tokens.clone(),
            cos: reading.cosines(),
            norm: reading.norms(),
            output_norm: reading.output_norm2.sqrt(),
        }
    }
}

/// Vision tokens that some layers ran without. Of what a policy decides after the last layer none is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drop {
    /// The last layer that ran on them; `None` if they never entered layer 0.
    pub after: Option<usize>,
    /// The vision tokens that went on, ascending.
    pub kept: Vec<VisionIndex>,
    /// Their prompt rows.
    pub kept_rows: Vec<Row>,
}

/// Rows that are run again through the first layers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replay {
    /// Rows.
    pub n_rows: usize,
    /// Layers, from 0 on.
    pub n_layers: usize,
}

/// A whole prefill.
#[derive(Debug, Clone, PartialEq)]
pub struct PrefillTrace {
    /// One entry per layer.
    pub layers: Vec<LayerTrace>,
    /// The vision tokens that entered layer 0, if some were dropped before it.
    pub entered: Option<Vec<VisionIndex>>,
    /// What was dropped, in the order of the layers.
    pub drops: Vec<Drop>,
    /// The layer in which the policy found the picture to be read, for policies that look for it or name it.
    pub fusion_layer: Option<usize>,
    /// The vision tokens that went on after the fusion layer.
    pub kept: Option<Vec<VisionIndex>>,
    /// Their prompt rows.
    pub kept_rows: Option<Vec<Row>>,
    /// The last layer with vision rows.
    pub exit_layer: Option<usize>,
    /// Layers whose vision cells were forgotten after the prefill.
    pub evicted: Option<Range<usize>>,
    /// Why no row was dropped, if none was.
    pub skipped: Option<Skipped>,
    /// Kept tokens that went through the layers up to the drop once more: the picture had gone further, for an earlier
    /// question.
    pub replayed: Option<Replay>,
    /// Calls that the engine was given.
    pub n_calls: usize,
    /// Rows times layers that were run ahead of a decision, in vain.
    pub n_in_vain: usize,
    /// Time spent on reading probes and deciding.
    pub policy_time: Duration,
}

impl PrefillTrace {
    /// A prefill that left the model as it is, whatever ran it.
    pub fn dense(layout: &PromptLayout, n_layer: usize, reason: Skipped) -> Self {
        Self {
            layers: vec![LayerTrace::dense(layout); n_layer],
            entered: None,
            drops: Vec::new(),
            fusion_layer: None,
            kept: None,
            kept_rows: None,
            exit_layer: None,
            evicted: None,
            skipped: Some(reason),
            replayed: None,
            n_calls: 0,
            n_in_vain: 0,
            policy_time: Duration::ZERO,
        }
    }

    /// The KV cells that each layer holds after the prefill.
    pub fn n_cells(&self) -> Vec<usize> {
        let evicted = self.evicted.clone().unwrap_or_default();
        self.layers
            .iter()
            .enumerate()
            .map(|(il, layer)| {
                let n_forgotten = if evicted.contains(&il) {
                    layer.vision.len()
                } else {
                    0
                };
                layer.n_rows.saturating_sub(n_forgotten)
            })
            .collect()
    }

    /// The first layer that runs on the kept set: the one after the fusion layer. Equals the number of layers if
    /// fusion was found in the last one.
    pub fn prune_from(&self) -> Option<usize> {
        self.fusion_layer.map(|il| il.saturating_add(1))
    }

    /// The first layer without vision rows: the one after the exit layer. Equals the number of layers if the exit was
    /// found in the last one.
    pub fn exit_from(&self) -> Option<usize> {
        self.exit_layer.map(|il| il.saturating_add(1))
    }
}
