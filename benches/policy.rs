//! What policies cost by themselves: the arithmetic on a probe, the loop of the staged prefill on an engine that does
//! nothing, and the choice of tokens before the model. Sizes are LLaVA-1.5-7B's.

use std::convert::Infallible;
use std::hint::black_box;
use std::ops::Range;

use criterion::{Criterion, criterion_group, criterion_main};
use visipruner::engine::prefill::{LayerRanges, PrefillParams, RangeCall, RowProbe, Shared, prefill};
use visipruner::policy::config::VisiPrunerConfig;
use visipruner::policy::{
    Embeddings, PolicyConfig, PolicyOverrides, ProbeReading, PromptLayout, Row, VisionIndex,
};

const N_LAYER: usize = 32;
/// Before every layer.
const CUTS: [usize; N_LAYER - 1] = {
    let mut cuts = [0; N_LAYER - 1];
    let mut i = 0;
    while i < cuts.len() {
        cuts[i] = i + 1;
        i += 1;
    }
    cuts
};
const N_EMBD: usize = 4096;
const N_ROWS: usize = 624;
const VISION: Range<usize> = 35..611;

/// Numbers in [0, 1) that look random.
fn noise(n: usize) -> impl Iterator<Item = f32> {
    (0..n).map(|i| ((i as u32).wrapping_mul(2_654_435_761) >> 8) as f32 / (1 << 24) as f32)
}

fn layout() -> PromptLayout {
    PromptLayout {
        n_rows: N_ROWS,
        vision: vec![VISION],
    }
}

fn params<'a>(layout: &'a PromptLayout, vision: &'a [f32]) -> PrefillParams<'a> {
    PrefillParams {
        layout,
        n_layer: N_LAYER,
        cuts: &CUTS,
        max_rows_per_call: 2048,
        max_rows_per_attention_probe: 512,
        probe_stride: 1,
        causal_images: true,
        embeddings: Some(Embeddings {
            n_embd: N_EMBD,
            vision,
            text: None,
        }),
        shared: Shared::default(),
    }
}

/// Runs nothing, and reads the same small contributions from every layer.
struct Nothing(RowProbe);

impl LayerRanges for Nothing {
    type Error = Infallible;

    fn run(&mut self, call: &RangeCall) -> Result<(), Infallible> {
        black_box(call);
        Ok(())
    }

    fn probe(&mut self, _il: usize) -> Result<RowProbe, Infallible> {
        Ok(self.0.clone())
    }

    fn attention(&mut self, _il: usize) -> Result<Vec<f32>, Infallible> {
        Ok(self.0.norm2.clone())
    }

    fn rewind(&mut self, _il: usize) -> Result<(), Infallible> {
        Ok(())
    }

    fn branch(&mut self, _il: usize, _left: &[Row], _kept: &[Row]) -> Result<Vec<Row>, Infallible> {
        Ok(Vec::new())
    }

    fn evict(&mut self, _layers: Range<usize>, _rows: Range<usize>) -> Result<(), Infallible> {
        Ok(())
    }
}

fn arithmetic(c: &mut Criterion) {
    let n = VISION.len();
    let reading = ProbeReading {
        tokens: (0..n as u32).map(VisionIndex).collect(),
        norm2: noise(n).map(|x| f64::from(x) * 1e-4).collect(),
        dot: noise(n).map(|x| f64::from(x) * 1e-4).collect(),
        output_norm2: 1.0,
    };
    c.bench_function("policy/cosines and norms of 576 tokens", |b| {
        b.iter(|| (black_box(&reading).cosines(), black_box(&reading).norms()));
    });
}

fn staged_loop(c: &mut Criterion) {
    let layout = layout();
    let embd = Vec::new();
    let policies = [
        (
            "visipruner, nothing fires",
            PolicyConfig::VisiPruner(VisiPrunerConfig::default()),
        ),
        (
            "fixed 13/10/24",
            PolicyConfig::Fixed("13/10/24".parse().expect("a schedule")),
        ),
    ];
    for (name, policy) in policies {
        c.bench_function(&format!("policy/staged loop without an engine: {name}"), |b| {
            b.iter(|| {
                let mut engine = Nothing(RowProbe {
                    norm2: noise(N_ROWS).map(|x| x * 1e-6).collect(),
                    dot: vec![0.0; N_ROWS],
                    output_norm2: 1.0,
                });
                let mut policy = policy.build(N_LAYER, &layout).expect("the policy fits");
                prefill(&mut engine, &params(&layout, &embd), policy.as_mut()).expect("nothing fails")
            });
        });
    }
}

fn before_the_model(c: &mut Criterion) {
    let layout = layout();
    let embd: Vec<f32> = noise(VISION.len() * N_EMBD).map(|x| x - 0.5).collect();
    let policy = PolicyOverrides::from_toml("policy = 'divprune'\nbudget = 64")
        .and_then(|fields| fields.apply(&PolicyConfig::Off))
        .expect("a policy");
    let mut group = c.benchmark_group("policy");
    group.sample_size(10);
    group.bench_function("divprune, 64 of 576 tokens of width 4096", |b| {
        b.iter(|| {
            let mut policy = policy.build(N_LAYER, &layout).expect("the policy fits");
            let all: Vec<VisionIndex> = (0..VISION.len() as u32).map(VisionIndex).collect();
            policy.start(&all, &params(&layout, &embd).embeddings.expect("they are there"))
        });
    });
    group.finish();
}

criterion_group!(benches, arithmetic, staged_loop, before_the_model);
criterion_main!(benches);
