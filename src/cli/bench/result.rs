//! What a benchmark comes to: medians, spreads, ratios to the model as it is.

use serde::Serialize;
use visipruner::report::Fallback;

/// Everything that was measured (`--json`).
#[derive(Debug, Clone, Serialize)]
pub struct BenchReport {
    /// This program's version.
    pub version: &'static str,
    /// The language model's file.
    pub model: String,
    /// The projector's file.
    pub mmproj: String,
    /// `general.name` of the model.
    pub name: String,
    /// `general.architecture` of the model.
    pub arch: String,
    /// Layers of the model.
    pub n_layer: usize,
    /// Bytes of the model's file.
    pub file_bytes: u64,
    /// Where the model's layers run, and with how many CPU threads.
    pub compute: Compute,
    /// One entry per number of pictures.
    pub cases: Vec<Case>,
}

/// What did the work.
#[derive(Debug, Clone, Serialize)]
pub struct Compute {
    /// Devices that the engine knows, the CPU first.
    pub devices: Vec<String>,
    /// CPU threads.
    pub n_threads: u32,
    /// Layers on GPUs, negative for all.
    pub n_gpu_layers: i32,
    /// `--flash-attn`
    pub flash_attn: String,
    /// `--cache-type-k` and `--cache-type-v`
    pub kv_types: [String; 2],
    /// `--batch-size` and `--ubatch-size`
    pub batch: [u32; 2],
}

/// A prompt, and every way in which it was run.
#[derive(Debug, Clone, Serialize)]
pub struct Case {
    /// Pictures in the prompt.
    pub n_images: usize,
    /// Tokens in the prompt, text and vision.
    pub n_rows: usize,
    /// Vision tokens among them.
    pub n_vision: usize,
    /// Tokens generated after it.
    pub n_gen: usize,
    /// Questions about the pictures, one after the other.
    pub n_questions: usize,
    /// Size of the context.
    pub n_ctx: u32,
    /// Milliseconds of encoding the pictures, once.
    pub encode_ms: f64,
    /// Rounds measured.
    pub n_rounds: usize,
    /// `dense` first.
    pub variants: Vec<VariantResult>,
}

/// One way to run a prompt.
#[derive(Debug, Clone, Serialize)]
pub struct VariantResult {
    /// Its name.
    pub label: String,
    /// Milliseconds of the prefill.
    pub prefill_ms: Measured,
    /// Milliseconds per token decoded after it; `None` if fewer than two tokens were generated.
    pub decode_ms_per_token: Option<Measured>,
    /// Prefill of `dense` over that of this variant: the median over the rounds.
    pub prefill_speedup: f64,
    /// The same of decode.
    pub decode_speedup: Option<f64>,
    /// What the engine reported; `None` for stock llama.cpp.
    pub work: Option<Work>,
    /// The most memory that the process held in a run of this variant alone, mapped files included; `None` where the
    /// system does not tell, and for stock llama.cpp.
    pub peak_memory_bytes: Option<u64>,
    /// Whether the generated tokens equal those of `dense`, for every question.
    pub same_tokens: bool,
    /// The questions after the first; `None` if there was one.
    pub further: Option<Further>,
    /// Several answers together; `None` if there was one at a time, and for stock llama.cpp.
    pub together: Option<Together>,
}

/// Questions about pictures that the KV cache has.
#[derive(Debug, Clone, Serialize)]
pub struct Further {
    /// Milliseconds of the prefill, the mean of each round's.
    pub prefill_ms: Measured,
    /// Prefill of the variant's own first question over that of these: the median over the rounds.
    pub speedup_to_first: f64,
    /// Prefill of these questions with `dense` over that of this variant.
    pub prefill_speedup: f64,
    /// Milliseconds per token decoded after it; `None` if fewer than two tokens were generated.
    pub decode_ms_per_token: Option<Measured>,
    /// Its speed to that of `dense`.
    pub decode_speedup: Option<f64>,
    /// Bytes of keys, values and hidden rows held between the first and the second question; `None` for stock llama.cpp.
    pub held_bytes: Option<u64>,
    /// Rows of the second question's prompt that were there already; `None` for stock llama.cpp.
    pub reused_rows: Option<usize>,
}

/// Several answers in one batch.
#[derive(Debug, Clone, Serialize)]
pub struct Together {
    /// How many.
    pub n_sequences: u32,
    /// Milliseconds for each of all their tokens.
    pub ms_per_token: Measured,
    /// Tokens per second, all together over one alone: the median over the rounds.
    pub speedup: f64,
}

/// What was run and held, by count.
#[derive(Debug, Clone, Serialize)]
pub struct Work {
    /// Rows of each layer.
    pub rows: Vec<usize>,
    /// Rows times layers of `dense` over those of this variant.
    pub ideal_by_rows: f64,
    /// FLOPs of the prefill without the vision encoder, `dense` over this variant.
    pub ideal_by_flops: f64,
    /// What reading weights and computing rows allow at the peaks of this machine, dense over this variant; `None` if fewer than
    /// two tokens were generated.
    pub ideal_by_roofline: Option<f64>,
    /// `prefill_speedup / ideal_by_roofline`
    pub efficiency_by_roofline: Option<f64>,
    /// `prefill_speedup / ideal_by_rows`
    pub efficiency_by_rows: f64,
    /// `prefill_speedup / ideal_by_flops`
    pub efficiency_by_flops: f64,
    /// What another device computed than the one that holds its layer.
    pub fallbacks: Vec<Fallback>,
    /// Bytes of keys and values held after the prefill.
    pub kv_held_bytes: u64,
    /// Bytes allocated for keys and values.
    pub kv_allocated_bytes: u64,
    /// Milliseconds of the prefill that went into reading probes and deciding, the last round.
    pub policy_ms: f64,
}

/// A quantity measured several times.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Measured {
    /// The median.
    pub median: f64,
    /// First and third quartile.
    pub quartiles: [f64; 2],
    /// Every measurement, in order.
    pub samples: Vec<f64>,
}

impl Measured {
    /// Of at least one sample.
    pub fn of(samples: Vec<f64>) -> Self {
        Self {
            median: quantile(&samples, 0.5),
            quartiles: [quantile(&samples, 0.25), quantile(&samples, 0.75)],
            samples,
        }
    }

    /// Half the distance of the quartiles, relative to the median.
    pub fn spread(&self) -> f64 {
        (self.quartiles[1] - self.quartiles[0]) / 2.0 / self.median
    }

    /// The median over the rounds of `self / other`: what was measured one after the other is compared, so that a
    /// machine that gets slower over time does not matter.
    pub fn ratio(&self, other: &Self) -> f64 {
        let ratios: Vec<f64> = self
            .samples
            .iter()
            .zip(&other.samples)
            .map(|(a, b)| a / b)
            .collect();
        quantile(&ratios, 0.5)
    }
}

/// The quantile of some samples, linear between neighbours; NaN of none.
fn quantile(samples: &[f64], q: f64) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = q * last as f64;
    let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles() {
        let measured = Measured::of(vec![5.0, 1.0, 4.0, 2.0, 3.0]);
        assert_eq!(measured.median, 3.0);
        assert_eq!(measured.quartiles, [2.0, 4.0]);
        assert!((measured.spread() - 1.0 / 3.0).abs() < 1e-12);
        assert_eq!(Measured::of(vec![1.0, 2.0]).median, 1.5);
        assert_eq!(Measured::of(vec![7.0]).quartiles, [7.0, 7.0]);
    }

    #[test]
    fn ratios_compare_rounds() {
        // the machine halves its speed after the first round
        let dense = Measured::of(vec![10.0, 20.0, 20.0, 20.0]);
        let pruned = Measured::of(vec![5.0, 5.0, 10.0, 10.0]);
        assert_eq!(dense.ratio(&pruned), 2.0);
    }
}
