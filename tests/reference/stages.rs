//! What the stages, the shallow operators and the schedules do.

use super::*;

/// Thresholds with which a model that is not trained fuses and exits.
fn lively() -> VisiPrunerConfig {
    VisiPrunerConfig {
        stages: Stages::ALL,
        shallow_mid_layer: 2,
        layer_threshold: 0.99,
        tokens_threshold: 0.3,
        tokens_threshold_unit: TokensThresholdUnit::Relative,
        exit_threshold: 0.5,
        exit_layers: 1,
        ..VisiPrunerConfig::default()
    }
}

fn shallow(changes: impl FnOnce(&mut VisiPrunerConfig)) -> VisiPrunerConfig {
    let stages = Stages {
        shallow: true,
        middle: false,
        deep: false,
    };
    let mut config = VisiPrunerConfig { stages, ..lively() };
    changes(&mut config);
    config
}

fn vision_weights(weights: &[f64], layout: &PromptLayout) -> Vec<f64> {
    layout
        .vision_rows()
        .iter()
        .map(|row| weights[row.0 as usize])
        .collect()
}

/// What the last row's weights on vision become in layer 0 (whose input no operator has touched) and in layer
/// 1.
#[test]
fn shallow_operators_do_what_they_are_called() {
    let fixture = fixture(&gqa());
    let layout = two_images();
    let prompt = prompt(&fixture.reference, &layout, 10);
    let run = |config: VisiPrunerConfig| fixture.reference.run(&prompt, &layout, &staged(config));
    let dense = fixture.reference.run(&prompt, &layout, &off());
    let merge = run(shallow(|c| c.layer0 = Layer0::Merge));
    let half = run(shallow(|c| c.layer0 = Layer0::Half));
    let none = run(shallow(|c| c.layer0 = Layer0::None));
    let skip = run(shallow(|c| {
        c.layer0 = Layer0::None;
        c.shallow_mask = ShallowMask::Skip;
    }));
    for h in 0..fixture.reference.n_head {
        let before = vision_weights(&dense.layers[0].weights[h], &layout);
        let mut summed = vec![0.0; 10];
        summed[0] = before.iter().sum();
        assert_close(
            &vision_weights(&merge.layers[0].weights[h], &layout),
            &summed,
            1e-15,
        );
        let halved = [&[0.0; 5][..], &before[5..]].concat();
        assert_eq!(vision_weights(&half.layers[0].weights[h], &layout), halved);
        assert_eq!(vision_weights(&none.layers[0].weights[h], &layout), before);

        let sunk = &none.layers[1].weights[h];
        assert_eq!(vision_weights(sunk, &layout), [0.0; 10]);
        let on_vision: f64 = vision_weights(&dense.layers[1].weights[h], &layout).iter().sum();
        assert!((sunk.iter().sum::<f64>() - (1.0 - on_vision)).abs() < 1e-12);
        let skipped = &skip.layers[1].weights[h];
        assert_eq!(vision_weights(skipped, &layout), [0.0; 10]);
        assert!((skipped.iter().sum::<f64>() - 1.0).abs() < 1e-12);
    }
}

/// Every combination of the shallow stage is another function.
#[test]
fn shallow_variants_differ() {
    let fixture = fixture(&gqa());
    let layout = two_images();
    let prompt = prompt(&fixture.reference, &layout, 11);
    let mut all = vec![fixture.reference.run(&prompt, &layout, &off()).logits];
    for layer0 in [Layer0::Merge, Layer0::Half, Layer0::None] {
        for shallow_mask in [ShallowMask::Sink, ShallowMask::Skip] {
            for visual_self_attention in [VisualSelfAttention::Keep, VisualSelfAttention::Remove] {
                let config = shallow(|c| {
                    (c.layer0, c.shallow_mask, c.visual_self_attention) =
                        (layer0, shallow_mask, visual_self_attention);
                });
                all.push(fixture.reference.run(&prompt, &layout, &staged(config)).logits);
            }
        }
    }
    for (i, a) in all.iter().enumerate() {
        for b in &all[..i] {
            let largest = a.iter().zip(b).map(|(x, y)| (x - y).abs()).fold(0.0, f64::max);
            assert!(largest > 1e-3);
        }
    }
}

fn summary(run: &Run) -> (Option<usize>, Option<usize>, Vec<usize>) {
    (run.fusion_layer, run.exit_layer, run.n_cells())
}

/// The stages at work: fusion above `k`, the kept set, the exit, and what is left for decode.
#[test]
fn stages() {
    let fixture = fixture(&gqa());
    let layout = two_images();
    let prompt = prompt(&fixture.reference, &layout, 12);
    let run = |config: &VisiPrunerConfig| fixture.reference.run(&prompt, &layout, &staged(config.clone()));
    let with = |changes: &dyn Fn(&mut VisiPrunerConfig)| {
        let mut config = VisiPrunerConfig {
            stages: Stages::MIDDLE_DEEP,
            ..lively()
        };
        changes(&mut config);
        run(&config)
    };

    let both = with(&|_| {});
    let n_kept = both.kept.as_ref().unwrap().len();
    assert!((1..10).contains(&n_kept), "{n_kept}");
    let text = 10;
    let left = text + n_kept;
    assert_eq!(
        summary(&both),
        (Some(3), Some(4), vec![20, 20, 20, 20, left, text])
    );

    let middle = with(&|c| c.stages.deep = false);
    assert_eq!(
        summary(&middle),
        (Some(3), None, vec![20, 20, 20, 20, left, left])
    );

    let nothing_fires = with(&|c| c.layer_threshold = -1.0);
    assert_eq!(summary(&nothing_fires), (None, None, vec![20; 6]));
    assert_eq!(nothing_fires.kept, None);

    let empty = with(&|c| c.tokens_threshold = 1e9);
    assert_eq!(
        summary(&empty),
        (Some(3), Some(3), vec![20, 20, 20, 20, text, text])
    );

    let everything = with(&|c| c.tokens_threshold = 0.0);
    assert_eq!(
        summary(&everything),
        (Some(3), Some(4), vec![20, 20, 20, 20, 20, text])
    );

    let never_counted = with(&|c| c.exit_threshold = 1.0);
    assert_eq!(
        summary(&never_counted),
        (Some(3), None, vec![20, 20, 20, 20, left, left])
    );

    let first = with(&|c| c.shallow_mid_layer = 0);
    assert_eq!(first.fusion_layer, Some(1));

    let by_layer = with(&|c| {
        c.stages.middle = false;
        c.mid_deep_layer = Some(4);
    });
    assert_eq!(
        summary(&by_layer),
        (None, Some(3), vec![20, 20, 20, 20, text, text])
    );

    let evicted = with(&|c| c.evict_shallow_kv = true);
    assert_eq!(
        summary(&evicted),
        (Some(3), Some(4), vec![text, text, 20, 20, left, text])
    );
    assert_eq!(evicted.logits, both.logits);
    assert_ne!(evicted.decode(2).logits[1], both.decode(2).logits[1]);
}

/// With a threshold between the counts of its layers, one that misses resets consecutive counting only.
#[test]
fn exit_counting() {
    let fixture = fixture(&RandomLlm { n_layer: 10, ..gqa() });
    let layout = two_images();
    let counting = VisiPrunerConfig {
        stages: Stages::MIDDLE_DEEP,
        shallow_mid_layer: 0,
        tokens_threshold: 0.1,
        exit_layers: 2,
        ..lively()
    };
    let mut differ = 0;
    for seed in 0..8 {
        let prompt = prompt(&fixture.reference, &layout, 100 + seed);
        let run = |config: VisiPrunerConfig| fixture.reference.run(&prompt, &layout, &staged(config));
        // The kept tokens' least cosine in each layer after fusion, without an exit.
        let without = run(VisiPrunerConfig {
            exit_threshold: 1.0,
            ..counting.clone()
        });
        let fusion = without.fusion_layer.unwrap();
        let least: Vec<f64> = without.layers[fusion + 1..]
            .iter()
            .map(|l| l.cos.iter().copied().fold(1.0, f64::min))
            .collect();
        let mut sorted = least.clone();
        sorted.sort_by(f64::total_cmp);
        let exit_threshold = sorted[sorted.len() / 2];
        let hits: Vec<usize> = (0..least.len()).filter(|&i| least[i] >= exit_threshold).collect();

        let cumulative = run(VisiPrunerConfig {
            exit_threshold,
            ..counting.clone()
        });
        assert_eq!(cumulative.exit_layer, hits.get(1).map(|i| fusion + 1 + i));
        let exit_count = ExitCount::Consecutive;
        let consecutive = run(VisiPrunerConfig {
            exit_threshold,
            exit_count,
            ..counting.clone()
        });
        let pair = hits.windows(2).find(|pair| pair[1] == pair[0] + 1);
        assert_eq!(consecutive.exit_layer, pair.map(|pair| fusion + 1 + pair[1]));
        differ += usize::from(cumulative.exit_layer != consecutive.exit_layer);
    }
    assert!(differ > 0);
}

#[test]
fn fixed_schedules() {
    let fixture = fixture(&gqa());
    let layout = two_images();
    let prompt = prompt(&fixture.reference, &layout, 13);
    let run = |text: &str| {
        let schedule: Schedule = text.parse().unwrap();
        fixture
            .reference
            .run(&prompt, &layout, &Rule::Policy(PolicyConfig::Fixed(schedule)))
    };
    let some = run("2/3/5");
    assert_eq!(summary(&some), (Some(2), Some(4), vec![20, 20, 20, 13, 13, 10]));
    let norms = &some.layers[2].norm;
    let kept = some.kept.unwrap();
    let least_kept = kept.iter().map(|&token| norms[token]).fold(f64::MAX, f64::min);
    let above = norms.iter().filter(|&&norm| norm >= least_kept).count();
    assert_eq!((kept.len(), above), (3, 3));
    assert_eq!(run("1/0/5").n_cells(), [20, 20, 10, 10, 10, 10]);
    assert_eq!(run("1/99/6").n_cells(), [20; 6]);
    assert_eq!(run("0/2/1").n_cells(), [20, 10, 10, 10, 10, 10]);
}
