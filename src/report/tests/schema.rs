//! The schema and the documentation of a report's JSON: they have its keys, and no others.

use super::*;
use crate::policy::PolicyOverrides;
use crate::policy::config::PolicyName;

fn schema() -> serde_json::Value {
    serde_json::from_str(include_str!("../../../docs/report.schema.json")).unwrap()
}

#[test]
fn reports_of_every_kind_satisfy_the_schema() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let fixed = "\nfusion_layer = 4\nkeep = 2\nexit_from = 7";
    let policies = [
        ("visipruner", ""),
        ("dense_staged", ""),
        ("fixed", fixed),
        ("vtw", ""),
        ("fastv", ""),
        ("pyramiddrop", ""),
        ("sparsevlm", ""),
        ("divprune", ""),
        ("random", "\nbudget = 64"),
        ("uniform", ""),
        ("divprune+visipruner", ""),
        ("random+sparsevlm", ""),
        ("uniform+fixed", fixed),
        ("random+dense_staged", ""),
    ];
    for name in PolicyName::ALL.iter().map(ToString::to_string) {
        assert!(
            name == "off" || policies.iter().any(|(given, _)| *given == name),
            "{name}"
        );
    }
    let with_policy = |(name, fields): (&str, &str)| {
        let file = format!("policy = '{name}'{fields}");
        let overrides = PolicyOverrides::from_toml(&file).unwrap();
        RunReport {
            policy: overrides.apply(&PolicyConfig::Off).unwrap(),
            ..sample()
        }
    };
    let custom = RunReport {
        policy: PolicyConfig::Off,
        custom_policy: Some(String::from("centre")),
        ..sample()
    };
    let others = [
        sample(),
        of_prefill(false),
        RunReport::default(),
        ranked(),
        custom,
    ];
    for report in policies.into_iter().map(with_policy).chain(others) {
        let json = serde_json::to_value(&report).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(&json)
            .map(|error| error.to_string())
            .collect();
        assert!(errors.is_empty(), "{errors:?}");
    }
}

/// Every object of the schema names all its keys, so that a key that code and schema do not share is an error.
#[test]
fn the_schema_refuses_what_is_not_a_report() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let spoil = |path: &str, value: serde_json::Value| {
        let mut json = serde_json::to_value(sample()).unwrap();
        let (parent, key) = path.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[key] = value;
        validator.is_valid(&json)
    };
    assert!(spoil("/skipped", "no image".into()));
    for (path, value) in [
        ("/unknown", 1.into()),
        ("/layers/3/unknown", 1.into()),
        ("/times_ms/unknown", 1.into()),
        ("/compute/unknown", 1.into()),
        ("/compute/fallbacks/0/unknown", 1.into()),
        ("/compute/fallbacks/0/n", 0.into()),
        ("/policy/unknown", 1.into()),
        ("/flops/paper/unknown", 1.into()),
        ("/n_tokens", (-1).into()),
        ("/layers/3/stage", "shallower".into()),
        ("/layers/3/probe", "both".into()),
        ("/layers/0/shallow/text_to_vision", "sink".into()),
        ("/policy/layer0", "both".into()),
        ("/policy/exit_from", 3.into()),
        ("/policy/policy", "vtw".into()),
        ("/policy/policy", "visipruner+divprune".into()),
        ("/entered", serde_json::json!(["1"])),
        ("/image_spans", serde_json::json!([[1, 2, 3]])),
    ] {
        assert!(!spoil(path, value), "{path}");
    }
    let mut json = serde_json::to_value(sample()).unwrap();
    let keys: Vec<String> = json.as_object().unwrap().keys().cloned().collect();
    for key in keys.iter().filter(|key| *key != "logits") {
        let value = json.as_object_mut().unwrap().remove(key).unwrap();
        assert!(!validator.is_valid(&json), "{key} is required");
        json[key] = value;
    }
}

#[test]
fn every_key_is_documented() {
    let docs = include_str!("../../../docs/report.md");
    let schema = schema();
    let mut objects = vec![&schema];
    while let Some(object) = objects.pop() {
        if let Some(properties) = object.get("properties").and_then(|value| value.as_object()) {
            for key in properties.keys() {
                assert!(
                    docs.contains(&format!("`{key}`")),
                    "docs/report.md does not mention `{key}`"
                );
            }
        }
        match object {
            serde_json::Value::Object(map) => objects.extend(map.values()),
            serde_json::Value::Array(values) => objects.extend(values),
            _ => {}
        }
    }
}
