//! What was measured of one variant, round after round.

use visipruner::report::RunReport;

use super::result::{Further, Measured, Together, VariantResult, Work};
use super::roofline::Roofline;

/// An answer to one question.
pub struct Answered {
    pub prefill_ms: f64,
    pub decode_ms: f64,
    pub generated: Vec<i32>,
    /// `None` for stock llama.cpp.
    pub report: Option<RunReport>,
}

/// What one variant did in one round.
pub struct Run {
    /// One for each question, in order: at least one.
    pub answers: Vec<Answered>,
    /// Milliseconds per token of several answers together, if there were several.
    pub together_ms: Option<f64>,
}

/// One variant, round after round.
pub struct Series {
    label: String,
    /// The last round: its reports and answers stand for all.
    last: Option<Run>,
    /// Of the first question of each round, and of one after it: milliseconds of the prefill, and per token decoded.
    first: Times,
    further: Times,
    /// Milliseconds per token of several answers together.
    together_ms: Vec<f64>,
    /// The most memory that the process held.
    peak: Option<u64>,
}

#[derive(Default)]
struct Times {
    prefill_ms: Vec<f64>,
    decode_ms: Vec<f64>,
}

impl Series {
    pub fn new(label: String, peak: Option<u64>) -> Self {
        Self {
            label,
            last: None,
            first: Times::default(),
            further: Times::default(),
            together_ms: Vec::new(),
            peak,
        }
    }

    pub fn n_rounds(&self) -> usize {
        self.first.prefill_ms.len()
    }

    pub fn push(&mut self, run: Run) {
        if let Some((first, further)) = run.answers.split_first() {
            self.first.push(std::slice::from_ref(first));
            self.further.push(further);
        }
        self.together_ms.extend(run.together_ms);
        self.last = Some(run);
    }

    /// What it comes to. `n_sequences` answers were generated together.
    /// `layer_share`: see [`Roofline::of`].
    pub fn result(
        &self,
        dense: &Self,
        encoder_flops: u64,
        n_sequences: u32,
        layer_share: f64,
    ) -> VariantResult {
        let prefill_ms = Measured::of(self.first.prefill_ms.clone());
        let prefill_speedup = Measured::of(dense.first.prefill_ms.clone()).ratio(&prefill_ms);
        let decode = self.first.decode();
        let report = self.report(0);
        VariantResult {
            label: self.label.clone(),
            prefill_speedup,
            decode_speedup: speedup(dense.first.decode(), decode.as_ref()),
            work: report.map(|report| {
                let roofline = dense.roofline(report, layer_share);
                work(report, prefill_speedup, encoder_flops, roofline)
            }),
            peak_memory_bytes: self.peak,
            same_tokens: self.generated().eq(dense.generated()),
            further: self.further(dense),
            together: self.together(n_sequences),
            decode_ms_per_token: decode,
            prefill_ms,
        }
    }

    /// As measured by this series, which is dense; `None` where nothing was decoded.
    fn roofline(&self, report: &RunReport, layer_share: f64) -> Option<Roofline> {
        let prefill = Measured::of(self.first.prefill_ms.clone());
        let decode = self.first.decode()?;
        Some(Roofline::of(
            (prefill.median, report.n_tokens),
            decode.median,
            report.n_layer,
            layer_share,
        ))
    }

    fn further(&self, dense: &Self) -> Option<Further> {
        if self.further.prefill_ms.is_empty() {
            return None;
        }
        let prefill_ms = Measured::of(self.further.prefill_ms.clone());
        let decode = self.further.decode();
        Some(Further {
            speedup_to_first: Measured::of(self.first.prefill_ms.clone()).ratio(&prefill_ms),
            prefill_speedup: Measured::of(dense.further.prefill_ms.clone()).ratio(&prefill_ms),
            decode_speedup: speedup(dense.further.decode(), decode.as_ref()),
            held_bytes: self.report(0).map(|report| report.prefix_bytes),
            reused_rows: self.report(1).map(|report| report.reused_rows),
            decode_ms_per_token: decode,
            prefill_ms,
        })
    }

    fn together(&self, n_sequences: u32) -> Option<Together> {
        if self.together_ms.is_empty() {
            return None;
        }
        let ms_per_token = Measured::of(self.together_ms.clone());
        Some(Together {
            n_sequences,
            speedup: speedup(self.first.decode(), Some(&ms_per_token))?,
            ms_per_token,
        })
    }

    fn answers(&self) -> &[Answered] {
        self.last.as_ref().map_or(&[], |run| &run.answers)
    }

    fn generated(&self) -> impl Iterator<Item = &Vec<i32>> {
        self.answers().iter().map(|answer| &answer.generated)
    }

    fn report(&self, question: usize) -> Option<&RunReport> {
        self.answers().get(question)?.report.as_ref()
    }
}

impl Times {
    /// One round: the mean of its answers.
    fn push(&mut self, answers: &[Answered]) {
        if answers.is_empty() {
            return;
        }
        let mean = |of: &dyn Fn(&Answered) -> f64| answers.iter().map(of).sum::<f64>() / answers.len() as f64;
        self.prefill_ms.push(mean(&|answer| answer.prefill_ms));
        // the first token comes from the prefill, so one fewer is decoded than is generated
        let n_decoded = answers[0].generated.len().saturating_sub(1);
        if n_decoded > 0 {
            self.decode_ms
                .push(mean(&|answer| answer.decode_ms) / n_decoded as f64);
        }
    }

    /// Milliseconds per token; `None` if fewer than two tokens were generated.
    fn decode(&self) -> Option<Measured> {
        (!self.decode_ms.is_empty()).then(|| Measured::of(self.decode_ms.clone()))
    }
}

fn speedup(reference: Option<Measured>, measured: Option<&Measured>) -> Option<f64> {
    Some(reference?.ratio(measured?))
}

fn work(report: &RunReport, prefill_speedup: f64, encoder_flops: u64, roofline: Option<Roofline>) -> Work {
    let rows: Vec<usize> = report.layers.iter().map(|layer| layer.rows).collect();
    let n_dense = report.n_tokens * report.n_layer;
    let ideal_by_rows = n_dense as f64 / rows.iter().sum::<usize>() as f64;
    let llm_flops = |flops: u64| flops.saturating_sub(encoder_flops) as f64;
    let ideal_by_flops = llm_flops(report.flops.model.dense) / llm_flops(report.flops.model.actual);
    let all_rows = vec![report.n_tokens; report.n_layer];
    let ideal_by_roofline = roofline.map(|roofline| roofline.ms(&all_rows) / roofline.ms(&rows));
    Work {
        rows,
        ideal_by_roofline,
        efficiency_by_roofline: ideal_by_roofline.map(|ideal| prefill_speedup / ideal),
        ideal_by_rows,
        ideal_by_flops,
        efficiency_by_rows: prefill_speedup / ideal_by_rows,
        efficiency_by_flops: prefill_speedup / ideal_by_flops,
        fallbacks: report.compute.fallbacks.clone(),
        kv_held_bytes: report.kv_bytes.actual,
        kv_allocated_bytes: report.kv_allocated_bytes,
        policy_ms: report.times_ms.policy,
    }
}
