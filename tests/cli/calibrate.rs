//! `visipruner calibrate` on the model that ships, with a few of the demo's questions.

use serde_json::Value;

use super::{Folder, MMPROJ, MODEL, PICTURE, Ran, assert_error, visipruner};

const QUESTIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/questions.json");

/// A calibration of the shipped model into `out`.
fn calibrate_with<'a>(out: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [
        &["calibrate", "-t", "1", "-m", MODEL, "--mmproj", MMPROJ, "-o", out],
        more,
    ]
    .concat()
}

fn text(path: &std::path::Path) -> &str {
    path.to_str().expect("text")
}

#[track_caller]
fn succeeded(ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

/// What a policy file says, without the comments, in which measured numbers stand.
fn fields(path: &std::path::Path) -> Vec<String> {
    let file = std::fs::read_to_string(path).expect("a file");
    let lines = file.lines().filter(|line| !line.starts_with('#'));
    lines.map(str::to_owned).collect()
}

#[test]
fn pictures_that_are_read_once_lead_to_the_same_policy() {
    let folder = Folder::new();
    let [once, anew] = ["once.toml", "anew.toml"].map(|name| folder.path(name));
    let few = ["--questions", QUESTIONS, "--limit", "6", "--max-runs", "30"];
    succeeded(&visipruner(&calibrate_with(text(&once), &few)));
    let few = [&few[..], &["--no-prefix-cache"]].concat();
    succeeded(&visipruner(&calibrate_with(text(&anew), &few)));
    assert!(
        fields(&once)
            .iter()
            .any(|line| line.starts_with("shallow_mid_layer = "))
    );
    assert_eq!(fields(&once), fields(&anew));
}

/// Few questions, few runs: what is checked is that all results say the same, and that the policy is one.
#[test]
fn the_policy_that_is_found_can_be_used() {
    let folder = Folder::new();
    let files = ["found.policy.toml", "found.json", "found.svg"].map(|name| folder.path(name));
    let [policy, report, svg] = files.each_ref().map(|path| text(path));
    let ran = visipruner(&calibrate_with(
        policy,
        &[
            "--questions",
            QUESTIONS,
            "--limit",
            "8",
            "--max-changed",
            "0%",
            "--profile-questions",
            "4",
            "--max-runs",
            "60",
            "--report",
            report,
            "--plot",
            svg,
        ],
    ));
    succeeded(&ran);
    assert!(
        ran.stderr.contains("8 questions: 8 answers without pruning"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains(&format!("the policy is in {policy}")),
        "{}",
        ran.stderr
    );
    assert!(ran.stdout.contains("hidden below the layer"), "{}", ran.stdout);
    assert!(ran.stdout.contains("█"), "{}", ran.stdout);

    let json: Value = serde_json::from_str(&std::fs::read_to_string(report).expect("a file")).expect("JSON");
    let found = &json["found"];
    assert_eq!(found["score"]["n"], 8);
    assert_eq!(found["score"]["n_changed"], 0);
    // Layers 0 and 1 do without the picture, layers 8 and 9, too (models/README.md).
    let (from, until) = (&json["profile"]["reads_from"], &json["profile"]["reads_until"]);
    assert!((1..=4).contains(&from.as_u64().expect("a layer")), "{from}");
    assert!((3..=8).contains(&until.as_u64().expect("a layer")), "{until}");
    assert!(found["rows"].as_f64().expect("a share") < 0.9, "{found}");
    let n_searched: u64 = json["tried"]
        .as_array()
        .expect("what was tried")
        .iter()
        .map(|tried| tried["score"]["n"].as_u64().expect("a number"))
        .sum();
    assert!(n_searched <= 60, "{n_searched}");

    let toml = std::fs::read_to_string(policy).expect("a file");
    let k = found["policy"]["shallow_mid_layer"].as_u64().expect("a layer");
    assert!(toml.contains(&format!("\nshallow_mid_layer = {k}\n")), "{toml}");
    assert!(std::fs::read_to_string(svg).expect("a file").starts_with("<svg"));

    let answer = visipruner(&[
        "run",
        "-t",
        "1",
        "-m",
        MODEL,
        "--mmproj",
        MMPROJ,
        "--policy-file",
        policy,
        "--image",
        PICTURE,
        "-p",
        "What color is the star?",
        "--json",
    ]);
    succeeded(&answer);
    let answer: Value = serde_json::from_str(&answer.stdout).expect("JSON");
    assert_eq!(answer["text"].as_str().map(str::trim), Some("yellow"));
    assert_eq!(answer["policy"]["shallow_mid_layer"], k);
    assert_eq!(answer["skipped"], Value::Null);

    // It is not replaced unasked.
    let again = calibrate_with(policy, &["--max-runs", "1"]);
    assert_error(&again, &["found.policy.toml", "is there already", "--force"]);
    assert_eq!(std::fs::read_to_string(policy).expect("a file"), toml);
}

#[test]
fn pictures_and_questions_may_be_flags() {
    let folder = Folder::new();
    let policy = folder.path("p.toml");
    let flags = [
        "--image",
        PICTURE,
        "-p",
        "What color is the star?",
        "-p",
        "How many objects are there?",
        "--profile-questions",
        "1",
        "--stride",
        "10",
        "--max-kl",
        "5",
        "--max-runs",
        "12",
        "-q",
    ];
    let ran = visipruner(&calibrate_with(text(&policy), &flags));
    succeeded(&ran);
    assert_eq!(ran.stderr, "");
    let toml = std::fs::read_to_string(&policy).expect("a file");
    assert!(
        toml.contains("Measured on 2 prompts (2 questions about 1 pictures)"),
        "{toml}"
    );
    assert!(toml.contains("a mean KL of at most 5 nats."), "{toml}");
}

/// Any policy that drops something changes the logits a little, and nothing is allowed.
#[test]
fn a_target_that_cannot_be_met_writes_no_policy() {
    let folder = Folder::new();
    let (policy, report) = (folder.path("p.toml"), folder.path("r.json"));
    let flags = [
        "--questions",
        QUESTIONS,
        "--limit",
        "4",
        "--max-kl",
        "0",
        "--profile-questions",
        "1",
        "--stride",
        "10",
        "--report",
        text(&report),
        "-q",
    ];
    let ran = visipruner(&calibrate_with(text(&policy), &flags));
    assert_eq!(ran.code, Some(1));
    for part in [
        "error: no policy was found with a mean KL of at most 0 nats",
        "the closest has",
        "nothing was written",
    ] {
        assert!(ran.stderr.contains(part), "{part:?} is not in {:?}", ran.stderr);
    }
    assert!(!policy.exists());
    let json: Value = serde_json::from_str(&std::fs::read_to_string(&report).expect("a file")).expect("JSON");
    assert_eq!(json["found"], Value::Null);
    assert_eq!(json["closest"]["score"]["n"], 3);
}

#[test]
fn flags_that_make_no_sense() {
    let folder = Folder::new();
    let out = folder.path("p.toml");
    let with = |more: &[&'static str]| -> Vec<String> {
        calibrate_with(text(&out), more)
            .into_iter()
            .map(str::to_owned)
            .collect()
    };
    for (flags, parts) in [
        (
            &["--max-changed", "101%"][..],
            &["--max-changed", "0 to 100 %"][..],
        ),
        (&["--max-kl", "-1"], &["--max-kl", "from 0 to 1000 nats"]),
        (&["--max-runs", "0"], &["--max-runs", "1 or more"]),
        (&["--stride", "none"], &["--stride", "1 or more"]),
        (&["--limit", "3"], &["--questions <FILE>"]),
        (&["--image", PICTURE], &["--prompt <QUESTION>"]),
        (&["-p", "What?"], &["--image <FILE>"]),
        (
            &["--image", PICTURE, "-p", "What?", "--questions", QUESTIONS],
            &["cannot be used with", "--questions"],
        ),
        (
            &["--image", PICTURE, "-p", "What?"],
            &["1 questions", "two or more"],
        ),
        (&["--questions", "no/such.jsonl"], &["no/such.jsonl"]),
    ] {
        assert_error(&with(flags), parts);
    }
    assert_error(
        &["calibrate", "-m", MODEL, "--mmproj", MMPROJ],
        &["required arguments were not provided", "--out <TOML>"],
    );
    assert_error(
        &[
            "calibrate",
            "-m",
            MODEL,
            "--mmproj",
            MMPROJ,
            "-o",
            "no/such/folder/p.toml",
        ],
        &["cannot write the policy", "there is no folder no/such/folder"],
    );
    assert_error(
        &["calibrate", "-m", MODEL, "-o", text(&out)],
        &["projector", "--mmproj"],
    );
}

#[test]
fn a_question_file_without_pictures() {
    let folder = Folder::new();
    let questions = folder.file("q.jsonl", b"{\"question\": \"What?\"}\n");
    let out = folder.path("p.toml");
    let ran = visipruner(&calibrate_with(text(&out), &["--questions", &questions]));
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("1 of 1 questions have no picture"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr.contains("0 questions cannot be calibrated with"),
        "{}",
        ran.stderr
    );
}
