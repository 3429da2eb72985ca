//! What was done so far, as Prometheus reads it.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::engine::{Outcome, StopReason};

type Seconds = Counter<f64, AtomicU64>;

/// Counters of all models together.
pub(crate) struct Metrics {
    registry: Registry,
    pub(crate) answered: Counter,
    pub(crate) cancelled: Counter,
    pub(crate) failed: Counter,
    pub(crate) refused: Counter,
    pub(crate) waiting: Gauge,
    pub(crate) pictures: Counter,
    pub(crate) encode_seconds: Seconds,
    pub(crate) wait_seconds: Seconds,
    prompt_tokens: Counter,
    cached_tokens: Counter,
    tokens: Counter,
    rows: Counter,
    rows_dropped: Counter,
    prompt_seconds: Seconds,
    predicted_seconds: Seconds,
    first_token: Histogram,
    duration: Histogram,
    kept_bytes: Gauge,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let from_milliseconds = || Histogram::new(exponential_buckets(0.01, 2.0, 16));
        let mut metrics = Self {
            registry: Registry::with_prefix("visipruner"),
            answered: Counter::default(),
            cancelled: Counter::default(),
            failed: Counter::default(),
            refused: Counter::default(),
            waiting: Gauge::default(),
            pictures: Counter::default(),
            encode_seconds: Seconds::default(),
            wait_seconds: Seconds::default(),
            prompt_tokens: Counter::default(),
            cached_tokens: Counter::default(),
            tokens: Counter::default(),
            rows: Counter::default(),
            rows_dropped: Counter::default(),
            prompt_seconds: Seconds::default(),
            predicted_seconds: Seconds::default(),
            first_token: from_milliseconds(),
            duration: from_milliseconds(),
            kept_bytes: Gauge::default(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let Self { registry, .. } = self;
        let counters = [
            ("requests_answered", "Requests that were answered", &self.answered),
            (
                "requests_cancelled",
                "Requests whose client went away",
                &self.cancelled,
            ),
            (
                "requests_failed",
                "Requests that failed in the engine",
                &self.failed,
            ),
            (
                "requests_refused",
                "Requests that found no room in the queue",
                &self.refused,
            ),
            ("pictures", "Pictures that were asked about", &self.pictures),
            ("prompt_tokens", "Tokens of prompts", &self.prompt_tokens),
            (
                "prompt_tokens_cached",
                "Tokens of prompts that were there already",
                &self.cached_tokens,
            ),
            ("tokens_predicted", "Tokens of answers", &self.tokens),
            (
                "prompt_rows",
                "Rows times layers of prompts, if nothing were dropped",
                &self.rows,
            ),
            (
                "prompt_rows_dropped",
                "Of these, rows that were dropped",
                &self.rows_dropped,
            ),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let seconds = [
            (
                "wait",
                "Time that requests waited for the engine",
                &self.wait_seconds,
            ),
            (
                "encode",
                "Time for pictures through the vision encoder",
                &self.encode_seconds,
            ),
            (
                "prompt",
                "Time for prompts through the language model",
                &self.prompt_seconds,
            ),
            (
                "predicted",
                "Time for answers, one token at a time",
                &self.predicted_seconds,
            ),
        ];
        for (name, help, counter) in seconds {
            registry.register_with_unit(name, help, Unit::Seconds, counter.clone());
        }
        let gauges = [
            (
                "requests_waiting",
                "Requests that wait for the engine",
                &self.waiting,
            ),
            (
                "kept_bytes",
                "Bytes held for requests that begin as earlier ones",
                &self.kept_bytes,
            ),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        registry.register_with_unit(
            "time_to_first_token",
            "From the turn of a request to its first token",
            Unit::Seconds,
            self.first_token.clone(),
        );
        registry.register_with_unit(
            "request",
            "From the turn of a request to the end of its answer",
            Unit::Seconds,
            self.duration.clone(),
        );
    }

    /// Counts an answer.
    pub(crate) fn note(&self, outcome: &Outcome, took: Duration) {
        let report = &outcome.report;
        let counter = if outcome.stop == StopReason::Cancelled {
            &self.cancelled
        } else {
            &self.answered
        };
        counter.inc();
        let rows: usize = report.layers.iter().map(|layer| layer.rows).sum();
        let all = report.n_tokens * report.layers.len();
        self.prompt_tokens.inc_by(report.n_tokens as u64);
        self.cached_tokens.inc_by(report.reused_rows as u64);
        self.tokens.inc_by(outcome.tokens.len() as u64);
        self.rows.inc_by(all as u64);
        self.rows_dropped.inc_by(all.saturating_sub(rows) as u64);
        self.prompt_seconds.inc_by(report.times_ms.prefill / 1e3);
        self.predicted_seconds.inc_by(report.times_ms.decode / 1e3);
        self.first_token.observe(report.times_ms.prefill / 1e3);
        self.duration.observe(took.as_secs_f64());
        self.kept_bytes
            .set(i64::try_from(report.prefix_bytes).unwrap_or(i64::MAX));
    }

    /// As text, in the OpenMetrics format.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        let _ = text::encode(&mut out, &self.registry); // a string takes whatever is written
        out
    }
}
