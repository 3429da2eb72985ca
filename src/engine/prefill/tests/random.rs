//! Random prompts, policies and contributions, against the decisions written down a second time.

use super::*;

/// A small linear congruential generator.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % n
    }

    fn choice<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    /// Up to three images with up to two text rows before each, and at least one after the last.
    fn layout(&mut self) -> PromptLayout {
        let mut vision = Vec::new();
        let mut row = 0;
        for _ in 0..1 + self.below(3) {
            row += self.below(3) as usize;
            let end = row + 1 + self.below(5) as usize;
            vision.push(row..end);
            row = end;
        }
        PromptLayout {
            n_rows: row + 1 + self.below(3) as usize,
            vision,
        }
    }

    fn config(&mut self) -> VisiPrunerConfig {
        let on = |bit: u64| bit == 1;
        VisiPrunerConfig {
            stages: Stages {
                shallow: on(self.below(2)),
                middle: on(self.below(2)),
                deep: on(self.below(2)),
            },
            shallow_mid_layer: 1 + self.below(6) as usize,
            exit_layers: 1 + self.below(3) as usize,
            exit_count: self.choice(&[ExitCount::Cumulative, ExitCount::Consecutive]),
            mid_deep_layer: Some(1 + self.below(9) as usize),
            layer0: self.choice(&[Layer0::Merge, Layer0::Half, Layer0::None]),
            shallow_mask: self.choice(&[ShallowMask::Sink, ShallowMask::Skip]),
            visual_self_attention: self.choice(&[VisualSelfAttention::Keep, VisualSelfAttention::Remove]),
            evict_shallow_kv: on(self.below(2)),
            ..VisiPrunerConfig::default()
        }
    }
}

/// What a contribution does, by thresholds: fires a layer, is kept, keeps a layer from counting towards the exit.
#[derive(Clone, Copy)]
struct Effect {
    fires: bool,
    kept: bool,
    matters: bool,
}

const KINDS: [(Contribution, Effect); 5] = [
    (
        Contribution::Turning(0.001),
        Effect {
            fires: false,
            kept: false,
            matters: false,
        },
    ),
    (
        Contribution::Turning(0.06),
        Effect {
            fires: false,
            kept: false,
            matters: true,
        },
    ),
    (
        Contribution::Turning(0.15),
        Effect {
            fires: true,
            kept: false,
            matters: true,
        },
    ),
    (
        Contribution::Turning(0.3),
        Effect {
            fires: true,
            kept: true,
            matters: true,
        },
    ),
    (
        Contribution::Along(0.3),
        Effect {
            fires: false,
            kept: true,
            matters: false,
        },
    ),
];

/// The vision tokens of each layer and of the layer after the last, as the method's text has it.
fn expected(
    config: &VisiPrunerConfig,
    n_vision: u32,
    effect: impl Fn(usize, u32) -> Effect,
) -> Vec<Vec<u32>> {
    let mut present: Vec<u32> = (0..n_vision).collect();
    let mut layers = Vec::new();
    let (mut fused, mut n_counted) = (false, 0);
    for il in 0..N_LAYER {
        layers.push(present.clone());
        if config.stages.deep && !config.stages.middle && config.mid_deep_layer == Some(il + 1) {
            present.clear();
        }
        if !config.stages.middle || il <= config.shallow_mid_layer || present.is_empty() {
            continue;
        }
        if !fused {
            fused = present.iter().any(|&token| effect(il, token).fires);
            present.retain(|&token| !fused || effect(il, token).kept);
        } else if config.stages.deep {
            if present.iter().all(|&token| !effect(il, token).matters) {
                n_counted += 1;
            } else if config.exit_count == ExitCount::Consecutive {
                n_counted = 0;
            }
            if n_counted == config.exit_layers {
                present.clear();
            }
        }
    }
    layers.push(present);
    layers
}

#[test]
fn random_policies_on_random_prompts() {
    let mut random = Random(11);
    let (mut n_fused, mut n_exited, mut n_untouched) = (0, 0, 0);
    for seed in 0..400 {
        let (layout, config) = (random.layout(), random.config());
        // Mostly of no effect, so that layers differ.
        let kind = move |il: usize, token: u32| {
            let mut random = Random(seed * 7919 + (il as u64) * 131 + u64::from(token));
            random.below(1 << 20);
            KINDS[random.choice(&[0, 0, 0, 0, 0, 0, 1, 2, 3, 4])]
        };
        let mut engine = Fake::new(move |il, token| kind(il, token.0).0);
        let longest_image = layout.vision.iter().map(Range::len).max().unwrap();
        let policy = PolicyConfig::VisiPruner(config.clone());
        let trace = run_with(&mut engine, &layout, &policy, |params| {
            params.causal_images = random.below(2) == 0;
            params.max_rows_per_call = longest_image + random.below(8) as usize;
        });
        let expected = expected(&config, layout.n_vision() as u32, |il, token| kind(il, token).1);
        for (il, layer) in trace.layers.iter().enumerate() {
            let present: Vec<u32> = layer.vision.iter().map(|token| token.0).collect();
            assert_eq!(present, expected[il], "run {seed}, layer {il}");
        }
        let was_exited = expected[N_LAYER].is_empty();
        assert_eq!(trace.exit_layer.is_some(), was_exited, "run {seed}");
        let n_first_gone = expected.iter().position(Vec::is_empty);
        assert_eq!(trace.exit_from(), n_first_gone, "run {seed}");
        n_fused += usize::from(trace.fusion_layer.is_some());
        n_exited += usize::from(was_exited);
        n_untouched += usize::from(trace.skipped.is_some());
    }
    assert!(
        n_fused > 50 && n_exited > 50 && n_untouched > 20,
        "{n_fused} {n_exited} {n_untouched}"
    );
}
