mod policies;
mod ranges;
mod words;

use std::path::Path;

use super::*;
use crate::policy::config::keywords::StageName;
use crate::policy::fixed::Schedule;

const TINY: &str = r#"
policy = "visipruner"
stages = ["middle", "deep"]
shallow_mid_layer = 2
layer_threshold = 0.98
tokens_threshold = 0.05
tokens_threshold_unit = "relative"
exit_threshold = 0.999
exit_layers = 3
exit_count = "consecutive"
mid_deep_layer = 8
layer0 = "half"
shallow_mask = "skip"
visual_self_attention = "remove"
evict_shallow_kv = true
"#;

fn tiny() -> VisiPrunerConfig {
    VisiPrunerConfig {
        stages: Stages::MIDDLE_DEEP,
        shallow_mid_layer: 2,
        layer_threshold: 0.98,
        tokens_threshold: 0.05,
        tokens_threshold_unit: TokensThresholdUnit::Relative,
        exit_threshold: 0.999,
        exit_layers: 3,
        exit_count: ExitCount::Consecutive,
        mid_deep_layer: Some(8),
        layer0: Layer0::Half,
        shallow_mask: ShallowMask::Skip,
        visual_self_attention: VisualSelfAttention::Remove,
        evict_shallow_kv: true,
    }
}

fn read(text: &str) -> Result<PolicyConfig, PolicyError> {
    PolicyOverrides::from_toml(text)?.apply(&PolicyConfig::Off)
}

fn message(result: Result<PolicyConfig, PolicyError>) -> String {
    result.unwrap_err().to_string()
}

fn visipruner(change: impl FnOnce(&mut VisiPrunerConfig)) -> PolicyConfig {
    let mut config = VisiPrunerConfig::default();
    change(&mut config);
    PolicyConfig::VisiPruner(config)
}

fn schedule(text: &str) -> PolicyConfig {
    PolicyConfig::Fixed(text.parse().unwrap())
}

#[test]
fn a_policy_file_sets_every_field() {
    assert_eq!(read(TINY).unwrap(), PolicyConfig::VisiPruner(tiny()));
    let fixed = read("policy = 'fixed'\nfusion_layer = 18\nkeep = 10\nexit_from = 28").unwrap();
    assert_eq!(fixed, schedule("18/10/28"));
    assert_eq!(read("policy = 'off'").unwrap(), PolicyConfig::Off);
}

#[test]
fn what_is_written_reads_back() {
    for policy in [
        PolicyConfig::Off,
        PolicyConfig::VisiPruner(tiny()),
        visipruner(|_| {}),
        schedule("3/4/9"),
    ] {
        let file = policy.to_toml();
        assert_eq!(read(&file).unwrap(), policy, "{file}");
    }
}

#[test]
fn the_file_is_flat_and_ordered() {
    insta::assert_snapshot!(PolicyConfig::VisiPruner(tiny()).to_toml(), @r#"
    policy = "visipruner"
    stages = ["middle", "deep"]
    shallow_mid_layer = 2
    layer_threshold = 0.98
    tokens_threshold = 0.05
    tokens_threshold_unit = "relative"
    exit_threshold = 0.999
    exit_layers = 3
    exit_count = "consecutive"
    mid_deep_layer = 8
    layer0 = "half"
    shallow_mask = "skip"
    visual_self_attention = "remove"
    evict_shallow_kv = true
    "#);
}

#[test]
fn bad_files_name_line_and_key() {
    let text = "policy = 'visipruner'\n\ntoken_threshold = 0.2\n";
    let error = PolicyOverrides::from_toml(text).unwrap_err().to_string();
    assert_eq!(
        error,
        "policy, line 3: unknown field `token_threshold`: perhaps tokens_threshold is meant, of the policy visipruner"
    );
    let error = PolicyOverrides::from_toml("keep = 1\nlayer0 = 'both'")
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "policy, line 2: unknown variant `both`, expected one of `merge`, `half`, `none`"
    );
    let error = PolicyOverrides::from_toml("\nkeep = -1").unwrap_err().to_string();
    assert!(error.starts_with("policy, line 2: "), "{error}");
    assert!(
        PolicyOverrides::from_toml("keep = \n")
            .unwrap_err()
            .to_string()
            .starts_with("policy, line 1: ")
    );
    for text in [
        "policy = 'off'\nkeep = 1\nkeep = 2",
        "policy = [",
        "stages = ['middel']",
    ] {
        assert!(
            !PolicyOverrides::from_toml(text)
                .unwrap_err()
                .to_string()
                .contains('\n')
        );
    }
}

#[test]
fn files_are_named_in_errors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("policy.toml");
    std::fs::write(&path, "layers = 3").unwrap();
    let error = PolicyOverrides::from_file(&path).unwrap_err().to_string();
    assert!(
        error.starts_with(&format!(
            "policy file {}, line 1: unknown field `layers`",
            path.display()
        )),
        "{error}"
    );
    std::fs::write(&path, TINY).unwrap();
    assert_eq!(
        PolicyOverrides::from_file(&path).unwrap(),
        PolicyOverrides::from_toml(TINY).unwrap()
    );
    let error = PolicyOverrides::from_file(Path::new("/nowhere/policy.toml"))
        .unwrap_err()
        .to_string();
    assert_eq!(error, "cannot read the policy file /nowhere/policy.toml");
}

#[test]
fn every_field_can_be_overridden_by_itself() {
    // Each line of the file alone, over the defaults, gives the defaults with that one field changed.
    let base = visipruner(|_| {});
    let mut together = base.clone();
    for line in TINY.lines().filter(|line| line.contains('=')) {
        let overrides = PolicyOverrides::from_toml(line).unwrap();
        let alone = overrides.apply(&base).unwrap();
        let changes_nothing = ["policy", "stages", "exit_threshold"]
            .iter()
            .any(|key| line.starts_with(&format!("{key} ")));
        assert_eq!(alone == base, changes_nothing, "{line}");
        together = overrides.apply(&together).unwrap();
    }
    assert_eq!(together, PolicyConfig::VisiPruner(tiny()));
    for (field, expected) in [
        ("fusion_layer = 2", "2/4/9"),
        ("keep = 7", "3/7/9"),
        ("exit_from = 5", "3/4/5"),
    ] {
        let overrides = PolicyOverrides::from_toml(field).unwrap();
        assert_eq!(overrides.apply(&schedule("3/4/9")).unwrap(), schedule(expected));
    }
}

#[test]
fn nothing_given_changes_nothing() {
    for base in [
        PolicyConfig::Off,
        visipruner(|config| config.exit_layers = 5),
        schedule("1/2/3"),
    ] {
        assert_eq!(PolicyOverrides::default().apply(&base).unwrap(), base);
    }
}

#[test]
fn fields_choose_their_policy_over_off() {
    assert_eq!(
        read("tokens_threshold = 0.5").unwrap(),
        visipruner(|config| config.tokens_threshold = 0.5)
    );
    assert_eq!(
        read("fusion_layer = 1\nkeep = 2\nexit_from = 3").unwrap(),
        schedule("1/2/3")
    );
}

#[test]
fn fields_of_another_policy_are_refused() {
    let over =
        |text: &str, base: PolicyConfig| message(PolicyOverrides::from_toml(text).unwrap().apply(&base));
    assert_eq!(
        over("keep = 3", visipruner(|_| {})),
        "keep belongs to the policies fixed, fastv, pyramiddrop, sparsevlm, but the policy in force is visipruner: \
         leave it out, or choose one of them"
    );
    assert_eq!(
        over("exit_layers = 3", schedule("1/2/3")),
        "exit_layers belongs to the policy visipruner, but the policy in force is fixed: \
         leave it out, or choose the policy visipruner"
    );
    assert!(
        over("policy = 'off'\nkeep = 3", visipruner(|_| {}))
            .starts_with("keep belongs to the policies fixed")
    );
    assert!(over("keep = 3\nstages = []", PolicyConfig::Off).contains("policy in force is visipruner"));
}

#[test]
fn another_policy_starts_from_its_own_defaults() {
    let overrides = PolicyOverrides::from_toml("policy = 'visipruner'\nexit_layers = 4").unwrap();
    assert_eq!(
        overrides.apply(&schedule("1/2/3")).unwrap(),
        visipruner(|config| config.exit_layers = 4)
    );
    let off = PolicyOverrides {
        policy: Some(PolicyName::Off.into()),
        ..PolicyOverrides::default()
    };
    assert_eq!(off.apply(&visipruner(|_| {})).unwrap(), PolicyConfig::Off);
    let fixed = PolicyOverrides {
        policy: Some(PolicyName::Fixed.into()),
        keep: Some("3".parse().unwrap()),
        ..PolicyOverrides::default()
    };
    assert_eq!(
        message(fixed.apply(&visipruner(|_| {}))),
        "fusion_layer is missing: the policy fixed needs fusion_layer, keep and exit_from"
    );
}

#[test]
fn cuts_are_where_something_may_change() {
    let of = |change: fn(&mut VisiPrunerConfig)| {
        visipruner(|config| {
            config.shallow_mid_layer = 3;
            config.mid_deep_layer = Some(5);
            change(config);
        })
        .cuts(9)
    };
    assert_eq!(of(|_| {}), [5, 6, 7, 8]);
    assert_eq!(of(|config| config.evict_shallow_kv = true), [3, 5, 6, 7, 8]);
    assert_eq!(of(|config| config.stages = "shallow".parse().unwrap()), [1, 3]);
    assert_eq!(of(|config| config.stages = "deep".parse().unwrap()), [5]);
    assert_eq!(
        of(|config| config.stages = "shallow,deep".parse().unwrap()),
        [1, 3, 5]
    );
    assert_eq!(of(|config| config.stages = Stages::ALL), [1, 3, 5, 6, 7, 8]);
    assert_eq!(of(|config| config.stages = Stages::default()), [0; 0]);
    assert_eq!(schedule("3/4/7").cuts(9), [4, 7]);
    assert_eq!(schedule("3/0/7").cuts(9), [4]);
    assert_eq!(schedule("3/4/4").cuts(9), [4]);
    assert_eq!(schedule("8/4/9").cuts(9), [0; 0]);
    assert_eq!(PolicyConfig::Off.cuts(9), [0; 0]);
}

/// `docs/pruning.md` has a row `| key | values | default | meaning |` for every key of a policy file.
#[test]
fn the_documentation_states_every_field_and_its_default() {
    let docs = include_str!("../../../../docs/pruning.md");
    let column = |key: &str, n: usize| {
        let row = docs
            .lines()
            .find(|line| line.starts_with(&format!("| `{key}` |")));
        row.unwrap_or_else(|| panic!("no row for {key}"))
            .split('|')
            .nth(n)
            .unwrap()
            .trim()
            .to_owned()
    };
    let defaults: toml::Table = visipruner(|_| {}).to_toml().parse().unwrap();
    for key in read(TINY)
        .unwrap()
        .to_toml()
        .parse::<toml::Table>()
        .unwrap()
        .keys()
        .filter(|key| *key != "policy")
    {
        let default = match defaults.get(key) {
            Some(toml::Value::String(word)) => format!("`{word}`"),
            Some(toml::Value::Array(_)) => String::from("`middle`, `deep`"),
            Some(value) => value.to_string(),
            None => String::from("none"),
        };
        assert_eq!(column(key, 3), default, "{key}");
    }
    let words = |words: &[&str]| {
        words
            .iter()
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(", ")
    };
    assert_eq!(column("policy", 2), words(PolicyName::WORDS));
    assert_eq!(column("layer0", 2), words(Layer0::WORDS));
    assert_eq!(column("shallow_mask", 2), words(ShallowMask::WORDS));
    assert_eq!(
        column("visual_self_attention", 2),
        words(VisualSelfAttention::WORDS)
    );
    assert_eq!(column("exit_count", 2), words(ExitCount::WORDS));
    assert_eq!(
        column("tokens_threshold_unit", 2),
        words(TokensThresholdUnit::WORDS)
    );
}
