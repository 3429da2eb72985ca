//! How values are written.

use super::*;

#[test]
fn words_round_trip() {
    for word in Layer0::WORDS {
        assert_eq!(word.parse::<Layer0>().unwrap().as_str(), *word);
    }
    let error = "both".parse::<Layer0>().unwrap_err().to_string();
    assert_eq!(error, "layer0 is \"both\", but must be one of: merge, half, none");
    assert_eq!(format!("[{:>8}]", ShallowMask::Sink), "[    sink]");
}

#[test]
fn stages_are_a_set() {
    let parse = |text: &str| text.parse::<Stages>();
    assert_eq!(parse("deep, middle").unwrap(), Stages::MIDDLE_DEEP);
    assert_eq!(parse("shallow,middle,deep").unwrap(), Stages::ALL);
    assert_eq!(parse("").unwrap(), parse("none").unwrap());
    assert_eq!(
        [StageName::Deep, StageName::Deep]
            .into_iter()
            .collect::<Stages>()
            .to_string(),
        "deep"
    );
    assert_eq!(Stages::ALL.to_string(), "shallow,middle,deep");
    assert_eq!(Stages::default().to_string(), "none");
    let error = parse("middle,depp").unwrap_err().to_string();
    assert_eq!(
        error,
        "stages is \"depp\", but must be one of: shallow, middle, deep"
    );
}

#[test]
fn schedules_are_written_with_slashes() {
    for text in ["18/10/28", "18/10/28/3"] {
        assert_eq!(text.parse::<Schedule>().unwrap().to_string(), text);
    }
    for bad in ["", "18", "18/10", "18/10/28/3/2", "a/b/c", "18/-1/28"] {
        let error = bad.parse::<Schedule>().unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("the schedule {bad:?} is not of the form F/K/E")),
            "{error}"
        );
    }
    assert_eq!(
        "18/10/18".parse::<Schedule>().unwrap_err().to_string(),
        "exit_from is 18, but must be 19 or more"
    );
}

#[test]
fn a_default_that_a_help_tells_is_the_policys() {
    let defaults: toml::Table = visipruner(|_| {}).to_toml().parse().unwrap();
    let told = |field: &'static Field| Some((field.name, field.help.split_once("[default: ")?.1));
    for (name, default) in Field::ALL.iter().filter_map(told) {
        assert_eq!(format!("{}]", defaults[name]), default, "{name}");
    }
}

#[test]
fn fields_are_set_by_name_as_files_set_them() {
    for (field, word, line) in [
        ("stages", "deep,middle", "stages = ['middle', 'deep']"),
        ("exit_count", "consecutive", "exit_count = 'consecutive'"),
        ("rank_layers", "1, 4", "rank_layers = [1, 4]"),
        ("keep", "50%,7", "keep = ['50%', 7]"),
        ("evict_shallow_kv", "true", "evict_shallow_kv = true"),
        ("layer_threshold", "-1", "layer_threshold = -1"),
    ] {
        let mut fields = PolicyOverrides::default();
        fields.set(field, word).unwrap();
        assert_eq!(fields, PolicyOverrides::from_toml(line).unwrap());
        assert_eq!(fields.given(), [field]);
    }
    let refused = |field: &str, word: &str| {
        let error = PolicyOverrides::default().set(field, word).unwrap_err();
        error.to_string()
    };
    assert_eq!(
        refused("exit_layers", "two"),
        "exit_layers is two, but must be a whole number, 0 or more"
    );
    assert!(
        refused("exit_layer", "2").starts_with("unknown field `exit_layer`: perhaps exit_layers is meant")
    );
}
