//! The fields of the policies beside `visipruner` and `fixed`, and of two that act together.

use super::*;
use crate::policy::Policy;

/// Every policy with its defaults, as a file.
const DEFAULTS: [&str; 8] = [
    "policy = \"vtw\"\nexit_from = 15\n",
    "policy = \"dense_staged\"\n",
    "policy = \"fastv\"\nrank_layers = [1]\nkeep = [\"50%\"]\n",
    "policy = \"pyramiddrop\"\nrank_layers = [7, 15, 23]\nkeep = [\"50%\", \"25%\", \"12.5%\"]\n",
    "policy = \"sparsevlm\"\nrank_layers = [2, 6, 15]\nkeep = [300, 200, 110]\n",
    "policy = \"divprune\"\nbudget = \"9.8%\"\n",
    "policy = \"random\"\nbudget = \"9.8%\"\npolicy_seed = 0\n",
    "policy = \"uniform\"\nbudget = \"9.8%\"\n",
];

fn of(text: &str) -> PolicyConfig {
    read(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn defaults_are_the_papers() {
    for text in DEFAULTS {
        let name = text.lines().next().unwrap();
        let policy = of(name);
        assert_eq!(policy.to_toml(), text);
        policy.validate_for(32).unwrap();
        assert_eq!(name, format!("policy = \"{}\"", Policy::name(&policy)));
    }
}

#[test]
fn what_is_written_reads_back_as_file_and_as_json() {
    let changed = [
        "policy = 'vtw'\nexit_from = 3",
        "policy = 'fastv'\nrank_layers = [0, 4]\nkeep = ['12.5%', 7]",
        "policy = 'random'\nbudget = 9\npolicy_seed = 1234567890123",
        "policy = 'divprune+visipruner'\nbudget = 80\nlayer_threshold = 0.9\nmid_deep_layer = 5",
        "policy = 'random+pyramiddrop'\nrank_layers = [5]\nkeep = 9\npolicy_seed = 3",
        "policy = 'uniform+fixed'\nfusion_layer = 3\nkeep = 9\nexit_from = 5",
        "policy = 'divprune+vtw'",
    ];
    for text in changed.iter().chain(&DEFAULTS) {
        let policy = of(text);
        let file = policy.to_toml();
        assert_eq!(of(&file), policy, "{file}");
        let json = serde_json::to_string(&policy).unwrap();
        assert_eq!(
            serde_json::from_str::<PolicyConfig>(&json).unwrap(),
            policy,
            "{json}"
        );
    }
    assert!(serde_json::from_str::<PolicyConfig>(r#"{"policy": "vtw", "exit_form": 3}"#).is_err());
}

#[test]
fn a_composed_file_has_the_fields_of_both() {
    let policy = of("policy = 'random+vtw'\nbudget = 7");
    insta::assert_snapshot!(policy.to_toml(), @r#"
    policy = "random+vtw"
    budget = 7
    policy_seed = 0
    exit_from = 15
    "#);
}

#[test]
fn every_field_of_every_policy_is_an_override() {
    for name in PolicyName::ALL {
        for field in name.fields() {
            assert!(PolicyOverrides::FIELDS.contains(field), "{field} of {name}");
        }
    }
    for field in PolicyOverrides::FIELDS {
        assert!(
            PolicyName::ALL.iter().any(|name| name.fields().contains(field)),
            "{field}"
        );
    }
    // A file has exactly the fields that are announced.
    for text in DEFAULTS {
        let keys: toml::Table = text.parse().unwrap();
        let name: PolicyName = keys["policy"].as_str().unwrap().parse().unwrap();
        let mut fields: Vec<&str> = name.fields().to_vec();
        fields.sort_unstable();
        let keys: Vec<&str> = keys
            .keys()
            .map(String::as_str)
            .filter(|key| *key != "policy")
            .collect();
        assert_eq!(keys, fields);
    }
}

#[test]
fn single_fields_go_over_what_was_there() {
    for (base, field, expected) in [
        (
            "policy = 'vtw'\nexit_from = 3",
            "exit_from = 4",
            "policy = 'vtw'\nexit_from = 4",
        ),
        (
            "policy = 'fastv'\nrank_layers = [4]\nkeep = [5]",
            "keep = '7%'",
            "policy = 'fastv'\nrank_layers = [4]\nkeep = ['7%']",
        ),
        (
            "policy = 'random'\nbudget = 5\npolicy_seed = 2",
            "policy_seed = 3",
            "policy = 'random'\nbudget = 5\npolicy_seed = 3",
        ),
        (
            "policy = 'divprune+vtw'\nbudget = 5\nexit_from = 3",
            "exit_from = 4",
            "policy = 'divprune+vtw'\nbudget = 5\nexit_from = 4",
        ),
        // A policy that is a part keeps its fields, alone or with another one.
        (
            "policy = 'divprune+vtw'\nbudget = 5\nexit_from = 3",
            "policy = 'vtw'",
            "policy = 'vtw'\nexit_from = 3",
        ),
        (
            "policy = 'vtw'\nexit_from = 3",
            "policy = 'uniform+vtw'",
            "policy = 'uniform+vtw'\nexit_from = 3",
        ),
        // Policies with the same fields do not inherit from each other.
        (
            "policy = 'fastv'\nkeep = [5]",
            "policy = 'sparsevlm'",
            "policy = 'sparsevlm'",
        ),
    ] {
        let overrides = PolicyOverrides::from_toml(field).unwrap();
        assert_eq!(
            overrides.apply(&of(base)).unwrap(),
            of(expected),
            "{field} over {base}"
        );
    }
}

#[test]
fn fields_choose_their_policy_over_off_if_only_one_has_them() {
    assert_eq!(of("policy_seed = 4"), of("policy = 'random'\npolicy_seed = 4"));
    assert_eq!(
        of("budget = 3\npolicy_seed = 4").name(),
        PolicyName::Random.into()
    );
    assert_eq!(
        message(read("budget = 3")),
        "budget belongs to the policies divprune, random, uniform: say which one with policy"
    );
    assert_eq!(
        message(read("rank_layers = [3]\nkeep = 5")),
        "rank_layers belongs to the policies fastv, pyramiddrop, sparsevlm: say which one with policy"
    );
    assert_eq!(
        message(read("budget = 3\nstages = ['deep']")),
        "budget belongs to the policies divprune, random, uniform, but the policy in force is visipruner: \
         leave it out, or choose one of them"
    );
}

#[test]
fn only_one_before_the_model_and_one_in_it_go_together() {
    for (text, parts) in [
        (
            "divprune+visipruner",
            [PolicyName::DivPrune, PolicyName::VisiPruner],
        ),
        ("random + fastv", [PolicyName::Random, PolicyName::FastV]),
        ("uniform+fixed", [PolicyName::Uniform, PolicyName::Fixed]),
    ] {
        let choice: PolicyChoice = text.parse().unwrap();
        assert_eq!(choice.parts().collect::<Vec<_>>(), parts);
        assert_eq!(choice.to_string(), text.replace(' ', ""));
    }
    for text in [
        "visipruner+divprune",
        "divprune+random",
        "divprune+off",
        "off+vtw",
        "random+vtw+fixed",
    ] {
        assert_eq!(
            text.parse::<PolicyChoice>().unwrap_err().to_string(),
            format!(
                "the policies {text} do not go together: one that acts before the model (divprune, random, uniform) can \
                 be followed by one that acts in it (visipruner, fixed, vtw, fastv, pyramiddrop, sparsevlm, dense_staged)"
            )
        );
    }
    let error = "divprune+fastw".parse::<PolicyChoice>().unwrap_err().to_string();
    assert_eq!(
        error,
        "policy is \"fastw\", but must be one of: off, visipruner, fixed, vtw, fastv, pyramiddrop, sparsevlm, divprune, \
         random, uniform, dense_staged"
    );
    let error = PolicyOverrides::from_toml("\npolicy = 'best'")
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("policy, line 2: policy is \"best\", but must be one of: off, "),
        "{error}"
    );
}

#[test]
fn values_out_of_range_say_the_range() {
    for (text, expected) in [
        (
            "policy = 'vtw'\nexit_from = 0",
            "exit_from is 0, but must be 1 or more",
        ),
        (
            "policy = 'fastv'\nrank_layers = []\nkeep = []",
            "rank_layers is [], but must be at least one layer, ascending, each once",
        ),
        (
            "policy = 'fastv'\nrank_layers = [3, 3]\nkeep = [1, 1]",
            "rank_layers is [3,3], but must be at least one layer, ascending, each once",
        ),
        (
            "policy = 'pyramiddrop'\nkeep = [5, '4%']",
            "keep is [5,4%], but must be one budget for each of the 3 rank_layers",
        ),
        (
            "policy = 'divprune'\nbudget = 0",
            "budget is 0, but must be at least one token, or more than 0%",
        ),
        (
            "policy = 'uniform'\nbudget = '0%'",
            "budget is 0%, but must be at least one token, or more than 0%",
        ),
        (
            "policy = 'fixed'\nfusion_layer = 3\nkeep = '5%'\nexit_from = 9",
            "keep is 5%, but must be one number of tokens with the policy fixed",
        ),
        (
            "policy = 'fixed'\nfusion_layer = 3\nkeep = [5, 4]\nexit_from = 9",
            "keep is 5,4, but must be one number of tokens with the policy fixed",
        ),
    ] {
        assert_eq!(message(read(text)), expected);
    }
    let beyond = PolicyConfig::Random(crate::policy::random::RandomConfig {
        policy_seed: u64::MAX,
        ..Default::default()
    });
    assert!(read(&beyond.to_toml()).is_err());
    assert!(
        beyond
            .validate()
            .unwrap_err()
            .to_string()
            .ends_with("from 0 to 9223372036854775807")
    );
}

#[test]
fn defaults_that_a_small_model_does_not_have_say_what_to_set() {
    for (text, expected) in [
        (
            "policy = 'vtw'",
            "exit_from is 15, but must be from 1 to 8 in this model: choose layers of it with exit_from",
        ),
        (
            "policy = 'divprune+pyramiddrop'",
            "rank_layers is 7,15,23, but must be from 0 to 7 in this model: choose layers of it with rank_layers",
        ),
    ] {
        let policy = of(text);
        let layout = PromptLayout {
            n_rows: 5,
            vision: vec![1..2, 2..3],
        };
        assert_eq!(policy.validate_for(8).unwrap_err().to_string(), expected);
        assert!(policy.build(8, &layout).is_err());
    }
    of("policy = 'vtw'\nexit_from = 8").validate_for(8).unwrap();
    of("policy = 'fastv'\nrank_layers = [7]").validate_for(8).unwrap();
}

#[test]
fn cuts_follow_the_layers_that_decide() {
    for (text, expected) in [
        ("policy = 'vtw'\nexit_from = 3", &[3][..]),
        ("policy = 'vtw'\nexit_from = 9", &[]),
        ("policy = 'fastv'", &[2]),
        ("policy = 'pyramiddrop'\nrank_layers = [0, 4, 8]", &[1, 5]),
        ("policy = 'divprune'", &[]),
        ("policy = 'random+sparsevlm'\nrank_layers = [2, 6, 7]", &[3, 7, 8]),
    ] {
        assert_eq!(of(text).cuts(9), expected, "{text}");
    }
}

/// `docs/pruning.md` has a row `| field | ...` for every field, and the defaults as they stand in a file.
#[test]
fn the_documentation_has_every_field_and_default() {
    let docs = include_str!("../../../../docs/pruning.md");
    for field in PolicyOverrides::FIELDS {
        assert!(docs.contains(&format!("`{field}`")), "{field}");
    }
    for text in DEFAULTS {
        for line in text.lines().skip(1) {
            let (key, value) = line.split_once(" = ").unwrap();
            let name = text.split('"').nth(1).unwrap();
            let row = format!("| `{name}` | `{key}` | `{value}` |");
            assert!(docs.contains(&row), "no row {row}");
        }
    }
}
