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
