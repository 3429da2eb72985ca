//! The whole way, on a model whose truth is known.

use super::fake::Fake;
use super::*;
use crate::policy::{PolicyConfig, PolicyOverrides};

fn settings(target: Target) -> Settings {
    Settings {
        target,
        n_profile: 8,
        stride: None,
        max_runs: None,
    }
}

const NEAR: Target = Target {
    max_kl: Some(0.005),
    max_changed: None,
};

fn calibrated(fake: &mut Fake, target: Target) -> Calibration {
    let pictures: Vec<usize> = (0..24).map(|i| i / 2).collect();
    match calibrate(fake, &pictures, &settings(target)) {
        Ok(calibration) => calibration,
        Err(never) => match never {},
    }
}

/// It reads in layers 3 and 4, so that fusion belongs on layer 3: four layers with all rows, and three of 32 tokens in
/// layer 4 and in the one after it, which completes the exit.
#[test]
fn it_finds_where_a_model_reads() {
    let mut fake = Fake::default();
    let calibration = calibrated(&mut fake, NEAR);
    assert_eq!(
        (calibration.profile.reads_from, calibration.profile.reads_until),
        (3, 5)
    );
    let found = calibration.found.as_ref().unwrap();
    assert_eq!(found.policy.shallow_mid_layer, 2);
    assert_eq!(found.decisions.fusion_layers, Some([3, 3]));
    assert_eq!((found.decisions.mean_kept, found.decisions.max_kept), (3.0, 3));
    let with_three_tokens = |n_layers: f64| (4.0 + n_layers * 3.0 / 32.0) / 10.0;
    let expected = with_three_tokens(2.0) - 1e-12..with_three_tokens(3.0);
    assert!(expected.contains(&found.rows), "{}", found.rows);
    assert!(NEAR.is_met(&found.score) && found.score.n == 24);
    assert_eq!((found.searched.n, found.held_out.n), (18, 6));
    assert_eq!(calibration.n_runs, fake.runs.len());
    assert_eq!(calibration.n_untried, 0);
}

/// The same picture seen deeper in the model.
#[test]
fn it_follows_the_layers() {
    let mut fake = Fake {
        n_layer: 24,
        reads: 14..17,
        ..Fake::default()
    };
    let calibration = calibrated(&mut fake, NEAR);
    assert_eq!(
        (calibration.profile.reads_from, calibration.profile.reads_until),
        (14, 17)
    );
    let found = calibration.found.unwrap();
    assert_eq!(found.policy.shallow_mid_layer, 13);
    assert_eq!(found.decisions.mean_kept, 3.0);
    // Every second layer, and what halving adds.
    assert!(
        calibration.profile.hidden_below.len() <= 14,
        "{}",
        calibration.profile.hidden_below.len()
    );
}

#[test]
fn a_changed_answer_is_a_target_of_its_own() {
    let none = Target {
        max_kl: None,
        max_changed: Some(0.0),
    };
    let found = calibrated(&mut Fake::default(), none).found.unwrap();
    assert_eq!(found.score.n_changed, 0);
    let near = calibrated(&mut Fake::default(), NEAR).found.unwrap();
    assert!(
        found.rows <= near.rows,
        "half of what was seen is enough for the answer"
    );
}

/// A prompt held out counts: what only fits those that were searched with is not taken.
#[test]
fn prompts_held_out_decide_too() {
    /// The fake, with prompts of the held-out pictures changed by any policy that drops vision before layer 8.
    struct Tricky(Fake);
    impl Runner for Tricky {
        type Error = std::convert::Infallible;
        fn run(&mut self, i: usize, experiment: &Experiment) -> Result<Observation, Self::Error> {
            let mut observed = self.0.run(i, experiment)?;
            if matches!(experiment, Experiment::Policy(_)) && (i / 2) % 4 == 3 {
                observed.logits[3] = 9.0;
            }
            Ok(observed)
        }
    }
    let pictures: Vec<usize> = (0..24).map(|i| i / 2).collect();
    let Ok(calibration) = calibrate(&mut Tricky(Fake::default()), &pictures, &settings(NEAR));
    assert_eq!(calibration.found, None);
    let closest = calibration.closest.unwrap();
    assert!(closest.score.n == 24 && closest.score.max_kl > 1.0);
}

/// It reads up to the last layer, and any token that is missing shows.
#[test]
fn what_cannot_be_met_is_said_with_what_came_closest() {
    let mut fake = Fake {
        n_layer: 6,
        reads: 0..6,
        ..Fake::default()
    };
    let target = Target {
        max_kl: Some(1e-9),
        max_changed: None,
    };
    let calibration = calibrated(&mut fake, target);
    assert_eq!(calibration.found, None);
    assert_eq!(calibration.policy_file("fake", "some"), None);
    let closest = calibration.closest.unwrap();
    assert_eq!(closest.score.n, 18);
    assert!(closest.score.mean_kl > 1e-9 && closest.rows > 0.5);
}

#[test]
fn a_model_of_two_layers_leaves_nothing_to_choose() {
    let mut fake = Fake {
        n_layer: 2,
        reads: 0..1,
        ..Fake::default()
    };
    let calibration = calibrated(&mut fake, NEAR);
    assert_eq!(
        (calibration.found, calibration.closest, calibration.n_candidates),
        (None, None, 0)
    );
}

#[test]
fn the_plan_is_an_upper_bound() {
    for (n_layer, reads) in [(10, 3..5), (24, 14..17), (33, 0..33), (7, 6..7)] {
        let mut fake = Fake {
            n_layer,
            reads,
            ..Fake::default()
        };
        let calibration = calibrated(&mut fake, NEAR);
        let planned = settings(NEAR).planned(n_layer, 24);
        let n_hidden = fake
            .runs
            .iter()
            .filter(|(_, experiment)| matches!(experiment, Experiment::Hide(_) | Experiment::DropFrom(_)))
            .count();
        assert!(n_hidden <= planned.n_profile, "{n_hidden} {planned:?}");
        assert_eq!(n_hidden, calibration.profile.n_points() * 8);
        assert_eq!((planned.n_dense, planned.n_search), (24, 960));
    }
}

/// Comments and all, it is the policy.
#[test]
fn the_file_reads_back_as_the_policy() {
    let targets = [
        NEAR,
        Target {
            max_kl: None,
            max_changed: Some(1.0),
        },
    ];
    for target in targets {
        let calibration = calibrated(&mut Fake::default(), target);
        let found = calibration.found.clone().unwrap();
        let text = calibration
            .policy_file("a \"model\"\nof mine", "24 made up")
            .unwrap();
        let read = PolicyOverrides::from_toml(&text)
            .unwrap()
            .apply(&PolicyConfig::Off)
            .unwrap();
        assert_eq!(read, PolicyConfig::VisiPruner(found.policy));
        assert!(text.lines().all(|line| line.len() < 300));
    }
}

#[test]
fn a_policy_file() {
    let calibration = calibrated(&mut Fake::default(), NEAR);
    insta::assert_snapshot!(calibration.policy_file("fake", "made up").unwrap());
}

#[test]
fn a_picture_names_what_was_found() {
    let calibration = calibrated(&mut Fake::default(), NEAR);
    let svg = calibration.profile_svg("fake");
    for part in [
        "Where fake reads the picture",
        ">fusion<",
        "allowed",
        "hidden from here on",
    ] {
        assert!(svg.contains(part), "{part}");
    }
    let json = serde_json::to_value(&calibration).unwrap();
    assert_eq!(json["found"]["policy"]["shallow_mid_layer"], 2);
    assert_eq!(json["profile"]["hidden_from"].as_array().map(Vec::len), Some(9));
}
