//! Values that a field, or a model, does not take.

use super::*;

#[test]
fn values_out_of_range_say_the_range() {
    for (text, expected) in [
        (
            "layer_threshold = 1.5",
            "layer_threshold is 1.5, but must be from -1 to 1",
        ),
        (
            "layer_threshold = nan",
            "layer_threshold is NaN, but must be from -1 to 1",
        ),
        (
            "exit_threshold = -1.01",
            "exit_threshold is -1.01, but must be from -1 to 1",
        ),
        (
            "tokens_threshold = -0.1",
            "tokens_threshold is -0.1, but must be 0 or more",
        ),
        (
            "tokens_threshold = inf",
            "tokens_threshold is inf, but must be 0 or more",
        ),
        ("exit_layers = 0", "exit_layers is 0, but must be 1 or more"),
        ("mid_deep_layer = 0", "mid_deep_layer is 0, but must be 1 or more"),
        (
            "stages = ['shallow']\nshallow_mid_layer = 0",
            "shallow_mid_layer is 0, but must be 1 or more",
        ),
        (
            "fusion_layer = 5\nkeep = 1\nexit_from = 5",
            "exit_from is 5, but must be 6 or more",
        ),
        (
            "stages = ['deep']",
            "mid_deep_layer is missing: the stage `deep` runs without `middle`, so it must be said from which layer \
             on vision is dropped",
        ),
    ] {
        assert_eq!(message(read(text)), expected);
    }
}

#[test]
fn layers_past_the_last_say_the_range() {
    let check = |policy: PolicyConfig| policy.validate_for(10).map_err(|error| error.to_string());
    let refused = |policy, expected: &str| assert_eq!(check(policy).unwrap_err(), expected);
    refused(
        visipruner(|config| config.shallow_mid_layer = 10),
        "shallow_mid_layer is 10, but must be from 0 to 9",
    );
    refused(
        visipruner(|config| config.exit_layers = 11),
        "exit_layers is 11, but must be from 1 to 10",
    );
    let deep = |il| {
        visipruner(|config| {
            config.stages = "deep".parse().unwrap();
            config.mid_deep_layer = Some(il);
        })
    };
    refused(deep(10), "mid_deep_layer is 10, but must be from 1 to 9");
    refused(schedule("10/3/11"), "fusion_layer is 10, but must be from 0 to 9");
    refused(schedule("4/3/11"), "exit_from is 11, but must be from 5 to 10");
    for policy in [
        deep(9),
        schedule("9/0/10"),
        visipruner(|config| config.shallow_mid_layer = 9),
        PolicyConfig::Off,
    ] {
        check(policy).unwrap();
    }
    // It has no effect beside the middle stage, so that one file serves both.
    check(visipruner(|config| config.mid_deep_layer = Some(99))).unwrap();
}

#[test]
fn build_checks_what_validate_checks() {
    let layout = PromptLayout {
        n_rows: 5,
        vision: vec![1..3, 3..4],
    };
    assert!(schedule("10/3/11").build(10, &layout).is_err());
    assert!(
        visipruner(|config| config.tokens_threshold = -1.0)
            .build(10, &layout)
            .is_err()
    );
}
