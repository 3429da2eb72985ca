//! Policy files, over every base, for several models and prompts.

use visipruner::policy::config::PolicyChoice;
use visipruner::policy::{PolicyConfig, PolicyOverrides, PromptLayout};

pub fn check(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = text.parse::<PolicyChoice>();
    let Ok(overrides) = PolicyOverrides::from_toml(text) else {
        return;
    };
    for config in [PolicyConfig::Off, PolicyConfig::default()]
        .iter()
        .filter_map(|base| overrides.apply(base).ok())
    {
        let read_back = PolicyOverrides::from_toml(&config.to_toml()).expect("what is written is read");
        let read_back = read_back.apply(&PolicyConfig::Off).expect("and valid");
        assert!(same(&read_back, &config), "{config:?} came back as {read_back:?}");
        at_work(&config);
    }
}

/// NaN equals itself here.
fn same(a: &PolicyConfig, b: &PolicyConfig) -> bool {
    format!("{a:?}") == format!("{b:?}")
}

#[allow(
    clippy::single_range_in_vec_init,
    reason = "a list of image spans, of which there is one"
)]
fn at_work(config: &PolicyConfig) {
    let layouts = [
        (0, vec![]),
        (9, vec![2..6]),
        (40, vec![3..20, 24..30]),
        (5, vec![0..5]),
    ];
    for n_layer in [1, 4, 32] {
        let cuts = config.cuts(n_layer);
        assert!(cuts.iter().all(|cut| (1..n_layer).contains(cut)), "{cuts:?}");
        for (n_rows, vision) in &layouts {
            let layout = PromptLayout {
                n_rows: *n_rows,
                vision: vision.clone(),
            };
            if let Ok(mut policy) = config.build(n_layer, &layout) {
                for il in 0..n_layer {
                    policy.plan(il);
                    policy.decide(il, None);
                }
                policy.outcome();
            }
        }
    }
}
