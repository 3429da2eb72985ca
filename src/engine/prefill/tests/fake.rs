//! An engine without a model: keeps account of rows, answers probes from a script, and refuses calls that the real
//! one would refuse.

use std::ops::{ControlFlow, Range};

use crate::engine::prefill::{CallAttention, LayerRanges, PrefillParams, Progress, RangeCall, RowProbe};
use crate::policy::trace::PrefillTrace;
use crate::policy::{PromptLayout, Row, Stage, Statistic, VisionIndex};

/// One vision token's contribution in one layer, as a share of the norm of the attention output `o`.
#[derive(Debug, Clone, Copy)]
pub enum Contribution {
    /// Along `o`: whatever its norm, below 1 the cosine is 1.
    Along(f64),
    /// At a right angle to `o`: with norm `n` the cosine is `1 / sqrt(1 + n^2)`.
    Turning(f64),
}

#[derive(Debug, thiserror::Error)]
#[error("scripted failure")]
pub struct FakeError;

pub struct Fake {
    script: Box<dyn Fn(usize, VisionIndex) -> Contribution>,
    /// The weight, averaged over heads, of a query on a vision token in a layer.
    attention: Box<dyn Fn(usize, Row, VisionIndex) -> f64>,
    output_norm: f64,
    pub layout: PromptLayout,
    pub fail_at_call: Option<usize>,
    /// Stopped before this call.
    pub stop_at_call: Option<usize>,
    /// What was heard before each call.
    pub progress: Vec<Progress>,
    pub calls: Vec<RangeCall>,
    pub evictions: Vec<(Range<usize>, Range<usize>)>,
    /// The layers that it went back to.
    pub rewinds: Vec<usize>,
    /// Where shared rows became the prompt's own: the layer, what was left, what was kept.
    pub branches: Vec<(usize, Vec<Row>, Vec<Row>)>,
}

impl Fake {
    pub fn new(script: impl Fn(usize, VisionIndex) -> Contribution + 'static) -> Self {
        Self {
            script: Box::new(script),
            attention: Box::new(|_, _, _| panic!("no attention is scripted")),
            output_norm: 1.0,
            layout: super::one_image(),
            fail_at_call: None,
            stop_at_call: None,
            progress: Vec::new(),
            calls: Vec::new(),
            evictions: Vec::new(),
            rewinds: Vec::new(),
            branches: Vec::new(),
        }
    }

    pub fn with_output_norm(self, output_norm: f64) -> Self {
        Self { output_norm, ..self }
    }

    /// An engine that is asked for attention only.
    pub fn attending(attention: impl Fn(usize, Row, VisionIndex) -> f64 + 'static) -> Self {
        Self {
            attention: Box::new(attention),
            ..Self::new(|_, _| panic!("no contribution is scripted"))
        }
    }

    /// The layer up to which each row of the prompt has been run.
    fn reached(&self) -> Vec<usize> {
        let mut reached = vec![0; self.layout.n_rows];
        for call in &self.calls {
            for row in &call.rows {
                reached[row.0 as usize] = call.layers.end;
            }
        }
        reached
    }

    /// What holds whatever the policy: calls and trace tell the same story, and it is a possible one.
    pub fn check_trace(&self, trace: &PrefillTrace, params: &PrefillParams<'_>) {
        self.check_calls(params);
        assert_eq!(trace.n_calls, self.calls.len());
        assert_eq!(trace.layers.len(), params.n_layer);
        for (il, layer) in trace.layers.iter().enumerate() {
            let mut rows: Vec<Row> = self
                .calls_of_layer(il)
                .flat_map(|call| call.rows.clone())
                .collect();
            assert!(rows.is_sorted(), "the calls of layer {il} are in prompt order");
            rows.dedup();
            assert_eq!(rows.len(), layer.n_rows, "every row of layer {il} ran once");
            assert_eq!(
                rows,
                expected_rows(params.layout, &layer.vision),
                "text is never dropped"
            );
            let statistics = self.calls_of_layer(il).filter_map(|call| call.probe.as_ref());
            let statistic = statistics
                .filter(|probe| probe.layers.contains(&il))
                .map(|probe| probe.statistic)
                .next();
            assert_eq!(statistic == Some(Statistic::Contribution), layer.probe.is_some());
            assert_eq!(
                statistic.is_some_and(|statistic| statistic != Statistic::Contribution),
                layer.weights.is_some()
            );
            assert_eq!(
                layer.stage == Stage::Text,
                layer.vision.is_empty() && params.layout.n_vision() > 0
            );
        }
        assert!(
            trace
                .layers
                .windows(2)
                .all(|pair| { pair[1].vision.iter().all(|token| pair[0].vision.contains(token)) })
        );
        check_drops(trace, params.layout);
        let pruned = trace
            .layers
            .iter()
            .any(|layer| layer.n_rows < params.layout.n_rows);
        assert!(!(pruned && trace.skipped.is_some()), "{:?}", trace.skipped);
    }

    fn check_calls(&self, params: &PrefillParams<'_>) {
        let last_row = Row(params.layout.n_rows as u32 - 1);
        let is_cut = |il: usize| il == 0 || il == params.n_layer || params.cuts.contains(&il);
        for call in &self.calls {
            assert!(
                is_cut(call.layers.start) && is_cut(call.layers.end),
                "{:?}",
                call.layers
            );
            assert!(!call.rows.is_empty() && call.rows.len() <= params.max_rows_per_call);
            let last = *call.rows.last().unwrap();
            if let Some(probe) = &call.probe {
                assert!(
                    probe.layers == call.layers || probe.layers == (call.layers.end - 1..call.layers.end)
                );
                assert!(!probe.queries.is_empty() && probe.queries.is_sorted());
                assert!(probe.queries.iter().all(|query| call.rows.contains(query)));
                if probe.statistic == Statistic::TextAttention {
                    let is_vision = |row: &Row| params.layout.vision_rows().contains(row);
                    assert!(!probe.queries.iter().any(is_vision));
                } else {
                    assert_eq!(probe.queries, [last_row]);
                }
                if probe.statistic != Statistic::Contribution {
                    assert!(call.rows.len() <= params.max_rows_per_attention_probe);
                }
            }
            if let Some(hidden) = hidden(&call.attention) {
                assert!(!hidden.is_empty() && hidden.is_sorted() && *hidden.last().unwrap() <= last);
            }
            if let CallAttention::Mask { affected, .. } = &call.attention {
                assert!(affected.len() == call.rows.len() && affected.contains(&true));
            }
        }
        let mut finals = self.calls.iter().filter(|call| call.layers.end == params.n_layer);
        assert_eq!(
            finals.next_back().and_then(|call| call.rows.last()),
            Some(&last_row),
            "the last call has the logits"
        );
    }

    pub fn calls_of_layer(&self, il: usize) -> impl Iterator<Item = &RangeCall> {
        self.calls.iter().filter(move |call| call.layers.contains(&il))
    }
}

/// The drops are the places where a layer has fewer vision tokens than the one before, and nothing else.
fn check_drops(trace: &PrefillTrace, layout: &PromptLayout) {
    let mut n_before = layout.n_vision();
    let mut fewer = Vec::new();
    for (il, layer) in trace.layers.iter().enumerate() {
        if layer.vision.len() < n_before {
            fewer.push((il.checked_sub(1), layer.vision.clone()));
        }
        n_before = layer.vision.len();
    }
    let drops: Vec<_> = trace
        .drops
        .iter()
        .map(|drop| (drop.after, drop.kept.clone()))
        .collect();
    assert_eq!(drops, fewer);
}

pub fn hidden(attention: &CallAttention) -> Option<&[Row]> {
    match attention {
        CallAttention::Plain => None,
        CallAttention::Zero { hidden }
        | CallAttention::Merge { hidden }
        | CallAttention::Mask { hidden, .. } => Some(hidden),
    }
}

/// All text rows and the rows of these vision tokens.
fn expected_rows(layout: &PromptLayout, vision: &[VisionIndex]) -> Vec<Row> {
    let vision_rows = layout.vision_rows();
    let is_text = |row: &Row| !vision_rows.contains(row);
    let mut rows: Vec<Row> = (0..layout.n_rows as u32).map(Row).filter(is_text).collect();
    rows.extend(vision.iter().map(|token| vision_rows[token.0 as usize]));
    rows.sort_unstable();
    rows
}

impl LayerRanges for Fake {
    type Error = FakeError;

    fn run(&mut self, call: &RangeCall) -> Result<(), FakeError> {
        if self.fail_at_call == Some(self.calls.len()) {
            return Err(FakeError);
        }
        let reached = self.reached();
        for row in &call.rows {
            let reached = reached[row.0 as usize];
            assert_eq!(
                reached, call.layers.start,
                "row {} was run up to layer {reached}",
                row.0
            );
        }
        self.calls.push(call.clone());
        Ok(())
    }

    /// By row, as the real one: vision tokens by the script where the layer ran them, NaN elsewhere. Text rows hold
    /// numbers that must not be used.
    fn probe(&mut self, il: usize) -> Result<RowProbe, FakeError> {
        let calls: Vec<&RangeCall> = self.calls_of_layer(il).collect();
        let asked = calls.last().unwrap().probe.as_ref().unwrap();
        assert!(asked.layers.contains(&il) && asked.statistic == Statistic::Contribution);
        let n_rows = self.layout.n_rows;
        let mut probe = RowProbe {
            norm2: vec![f32::NAN; n_rows],
            dot: vec![f32::NAN; n_rows],
            output_norm2: (self.output_norm * self.output_norm) as f32,
        };
        let vision_rows = self.layout.vision_rows();
        for row in calls.iter().flat_map(|call| &call.rows) {
            let token = vision_rows.iter().position(|vision| vision == row);
            let (norm, dot) = match token.map(|token| (self.script)(il, VisionIndex(token as u32))) {
                Some(Contribution::Along(norm)) => (norm, norm),
                Some(Contribution::Turning(norm)) => (norm, 0.0),
                None => (1e9, -1e9),
            };
            probe.norm2[row.0 as usize] = (norm * norm * self.output_norm * self.output_norm) as f32;
            probe.dot[row.0 as usize] = (dot * self.output_norm * self.output_norm) as f32;
        }
        Ok(probe)
    }

    /// By row: vision tokens by the script, summed over the queries that see them, NaN where the layer ran no row. Text
    /// rows hold numbers that must not be used.
    fn attention(&mut self, il: usize) -> Result<Vec<f32>, FakeError> {
        let mut weight = vec![f32::NAN; self.layout.n_rows];
        let calls: Vec<&RangeCall> = self.calls_of_layer(il).collect();
        for row in calls.iter().flat_map(|call| &call.rows) {
            weight[row.0 as usize] = 0.0;
        }
        let vision_rows = self.layout.vision_rows();
        let queries = calls
            .iter()
            .filter_map(|call| call.probe.as_ref())
            .filter(|probe| probe.layers.contains(&il));
        for query in queries.flat_map(|probe| &probe.queries) {
            for (key, weight) in weight.iter_mut().enumerate().take(query.0 as usize + 1) {
                *weight += match vision_rows.iter().position(|row| row.0 as usize == key) {
                    Some(token) => (self.attention)(il, *query, VisionIndex(token as u32)) as f32,
                    None => -1e9,
                };
            }
        }
        Ok(weight)
    }

    /// The calls of the last range end there.
    fn rewind(&mut self, il: usize) -> Result<(), FakeError> {
        let last = self.calls.last().expect("a call").layers.clone();
        assert!(
            last.start < il && il < last.end,
            "{last:?} has no layer {il} within"
        );
        let of_range = self.calls.iter_mut().rev().take_while(|call| call.layers == last);
        for call in of_range {
            assert!(call.can_rewind);
            call.layers.end = il;
            if let Some(probe) = &mut call.probe {
                probe.layers.end = il;
            }
        }
        self.rewinds.push(il);
        Ok(())
    }

    /// Nothing is shared unless a test says so.
    fn branch(&mut self, il: usize, left: &[Row], kept: &[Row]) -> Result<Vec<Row>, FakeError> {
        self.branches.push((il, left.to_vec(), kept.to_vec()));
        Ok(Vec::new())
    }

    fn evict(&mut self, layers: Range<usize>, rows: Range<usize>) -> Result<(), FakeError> {
        self.evictions.push((layers, rows));
        Ok(())
    }

    fn before_call(&mut self, progress: Progress) -> ControlFlow<()> {
        self.progress.push(progress);
        if self.stop_at_call == Some(self.calls.len()) {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    }
}
