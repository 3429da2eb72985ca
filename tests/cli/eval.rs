//! `visipruner eval` on the model that ships, with the demo's questions, all of which it answers right.

use std::path::Path;

use serde_json::Value;

use super::{Folder, MMPROJ, MODEL, Ran, assert_error, visipruner};
#[cfg(unix)]
use super::{killed_by, press_ctrl_c};

const QUESTIONS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/questions.json");

/// An evaluation of the shipped model.
fn eval_with<'a>(questions: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [
        &[
            "eval",
            "-t",
            "1",
            "-m",
            MODEL,
            "--mmproj",
            MMPROJ,
            "--questions",
            questions,
        ],
        more,
    ]
    .concat()
}

#[track_caller]
fn eval(more: &[&str]) -> Ran {
    let ran = visipruner(&eval_with(QUESTIONS, more));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran
}

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a file")
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&read(path)).expect("JSON")
}

fn labels(results: &Value) -> Vec<&str> {
    let policies = results["policies"].as_array().expect("policies");
    policies
        .iter()
        .filter_map(|policy| policy["policy"].as_str())
        .collect()
}

/// Attention from and to vision tokens, as a share of that without pruning.
fn vision_attention(results: &Value, i: usize) -> f64 {
    results["policies"][i]["all"]["cost"]["vision_attention"]
        .as_f64()
        .expect("a number")
}

/// The lines of a store that are answers, without the times, which differ from run to run.
fn answers(store: &Path) -> Vec<Value> {
    let lines = read(store);
    let lines = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let mut answers: Vec<Value> = lines.filter(|line| line["kind"] == "answer").collect();
    for answer in &mut answers {
        let fields = answer.as_object_mut().expect("an object");
        fields.retain(|name, _| !name.ends_with("_ms"));
    }
    answers
}

#[test]
fn tables_and_files_say_the_same() {
    let folder = Folder::new();
    let files = ["t.md", "t.csv", "t.json", "t.svg"].map(|name| folder.path(name));
    let [markdown, csv, json_file, svg] = &files;
    let ran = eval(&[
        "--limit",
        "6",
        "--markdown",
        text(markdown),
        "--csv",
        text(csv),
        "--json",
        text(json_file),
        "--plot",
        text(svg),
    ]);
    assert_eq!(ran.stderr, "");
    let rows: Vec<Vec<&str>> = ran
        .stdout
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(rows[2][..4], ["off", "6", "100.0", "%"]);
    assert_eq!(rows[3][..4], ["visipruner", "6", "100.0", "%"]);

    let results = json(json_file);
    assert_eq!(labels(&results), ["off", "visipruner"]);
    assert_eq!(results["baseline"], "off");
    assert_eq!(results["settings"]["n_predict"], 32);
    assert_eq!(
        results["fields"]["visipruner"]["fields"]["tokens_threshold"],
        0.06
    );
    assert_eq!(results["policies"][1]["all"]["accuracy"]["value"], 1.0);
    assert_eq!(vision_attention(&results, 0), 1.0);
    assert!((0.4..0.8).contains(&vision_attention(&results, 1)));

    let csv = read(csv);
    let rows: Vec<&str> = csv.lines().collect();
    assert_eq!(rows.len(), 3);
    assert!(rows[0].starts_with("policy,category,n,accuracy"), "{}", rows[0]);
    assert!(rows[2].starts_with("visipruner,,6,1"), "{}", rows[2]);
    assert!(read(markdown).contains("| visipruner | 6 | 100.0 % |"));
    let svg = read(svg);
    assert!(svg.starts_with("<svg") && svg.contains("visipruner"));
}

/// A store that ends in the middle of a line, as after a kill: what was whole stays as it is to the byte, the rest is
/// asked again, and comes out the same.
#[test]
fn an_interrupted_run_goes_on() {
    let folder = Folder::new();
    let store = folder.path("answers.jsonl");
    let run = || eval(&["--limit", "4", "--shuffle", "5", "--out", text(&store)]);
    run();
    let whole = read(&store);
    let all = answers(&store);
    assert_eq!(all.len(), 8);

    let third = whole
        .match_indices("{\"kind\":\"answer\"")
        .nth(3)
        .expect("four answers")
        .0;
    std::fs::write(&store, &whole[..third + 40]).expect("writes");
    let ran = run();
    assert_eq!(ran.stderr, "");
    assert_eq!(read(&store)[..third], whole[..third]);
    assert_eq!(answers(&store), all);

    // Nothing is left to be asked, so that not a byte changes.
    let before = read(&store);
    let again = run();
    assert_eq!((read(&store), again.stdout), (before, ran.stdout));
}

#[test]
fn a_store_of_other_settings_is_refused() {
    let folder = Folder::new();
    let store = folder.path("answers.jsonl");
    eval(&["--limit", "1", "--out", text(&store)]);
    let before = read(&store);
    let out = ["--limit", "1", "--policy", "off", "--out", text(&store)];
    assert_error(
        &eval_with(QUESTIONS, &[&out[..], &["-n", "8"]].concat()),
        &["other settings", "n_predict: 32 then, 8 now"],
    );
    let other = folder.path("other.gguf");
    std::fs::copy(MODEL, &other).expect("copies");
    let args = [
        "eval",
        "-t",
        "1",
        "-m",
        text(&other),
        "--mmproj",
        MMPROJ,
        "--questions",
        QUESTIONS,
    ];
    assert_error(&[&args[..], &out].concat(), &["policy off", "other.gguf"]);
    assert_eq!(read(&store), before);
}

#[test]
fn sweeps_and_policies_with_fields() {
    let folder = Folder::new();
    let file = folder.path("t.json");
    eval(&[
        "--limit",
        "2",
        "--policy",
        "uniform",
        "--policy",
        "fastv:rank_layers=0,keep=25%",
        "--policy",
        "vtw",
        "--sweep",
        "budget=8,50%",
        "--sweep",
        "exit_from=4",
        "--json",
        text(&file),
    ]);
    let results = json(&file);
    assert_eq!(
        labels(&results),
        [
            "off",
            "uniform budget=8",
            "uniform budget=50%",
            "fastv rank_layers=0 keep=25%",
            // Its default, layer 15, is not in this model.
            "vtw exit_from=4"
        ]
    );
    let rows = |i: usize| results["policies"][i]["all"]["cost"]["vision_rows"].as_f64();
    // 8 and 32 of 64 in all of ten layers; all in the first and 16 in the nine others.
    assert_eq!([rows(1), rows(2), rows(3)], [0.125, 0.5, 0.325].map(Some));
}

#[test]
fn policies_are_given_the_budget_of_equal_cost() {
    let folder = Folder::new();
    let file = folder.path("t.json");
    eval(&[
        "--limit",
        "3",
        "--policy",
        "vtw:exit_from=1",
        "--policy",
        "uniform:budget=1",
        "--at-cost",
        "50%",
        "--json",
        text(&file),
    ]);
    let results = json(&file);
    // Of ten equal layers five see vision.
    assert_eq!(labels(&results)[1], "vtw exit_from=5");
    assert!((vision_attention(&results, 1) - 0.5).abs() < 1e-9);
    assert!((vision_attention(&results, 2) - 0.5).abs() < 0.02, "{results}");
    assert!(labels(&results)[2].starts_with("uniform budget="), "{results}");

    eval(&[
        "--limit",
        "3",
        "--no-off",
        "--policy",
        "vtw:exit_from=3",
        "--policy",
        "random",
        "--equal-cost",
        "vtw exit_from=3",
        "--json",
        text(&file),
    ]);
    let results = json(&file);
    assert_eq!(results["baseline"], "vtw exit_from=3");
    assert!((vision_attention(&results, 1) - 0.3).abs() < 0.02, "{results}");
}

#[test]
fn several_models_are_told_apart() {
    let folder = Folder::new();
    let (other, file) = (folder.path("copy.gguf"), folder.path("t.json"));
    std::fs::copy(MODEL, &other).expect("copies");
    eval(&[
        "-m",
        text(&other),
        "--limit",
        "2",
        "--policy",
        "uniform:budget=16",
        "--json",
        text(&file),
    ]);
    let results = json(&file);
    assert_eq!(
        labels(&results),
        [
            "tiny-llava-shapes-f16 off",
            "tiny-llava-shapes-f16 uniform budget=16",
            "copy off",
            "copy uniform budget=16"
        ]
    );
    assert_eq!(results["baseline"], "tiny-llava-shapes-f16 off");
    assert_eq!(results["policies"][2]["all"]["agreement"]["value"], 1.0);
}

#[test]
fn what_cannot_be_asked_is_said_before_the_work() {
    let refused = |more: &[&str], parts: &[&str]| assert_error(&eval_with(QUESTIONS, more), parts);
    refused(
        &["--format", "coco"],
        &["--format", "\"coco\"", "jsonl, pictures"],
    );
    refused(
        &["--policy", "fastv:kept=3"],
        &["--policy", "\"kept\" is not a field"],
    );
    refused(&["--policy", "vtw:exit_from=11"], &["exit_from is 11"]);
    refused(
        &["--policy", "vtw:exit_from=2", "--policy", "vtw:exit_from=2"],
        &["\"vtw exit_from=2\" is asked for twice"],
    );
    refused(
        &["--sweep", "budget=1,2"],
        &["--sweep budget", "none of the policies"],
    );
    refused(&["--sweep", "budget"], &["--sweep", "no '='"]);
    refused(
        &["--equal-cost", "fastv"],
        &["\"fastv\" is none", "off, visipruner"],
    );
    refused(&["--limit", "0"], &["--limit", "1 or more"]);
    refused(&["--json", "/no/such/folder/x.json"], &["no folder"]);
    assert_error(&["eval", "-m", MODEL, "--questions", QUESTIONS], &["--mmproj"]);

    let folder = Folder::new();
    let unknown = folder.file("questions.jsonl", br#"{"text": "Which?", "picture": "a.png"}"#);
    assert_error(&eval_with(&unknown, &[]), &["questions.jsonl", "--format"]);
    let line = br#"{"id": "q7", "image": "gone.png", "question": "Which?", "answers": ["a"]}"#;
    let missing = folder.file("missing.jsonl", line);
    assert_error(
        &eval_with(&missing, &[]),
        &["question q7", "gone.png", "--image-dir"],
    );
    let broken = folder.file("gone.png", b"no picture");
    assert_error(
        &eval_with(&missing, &[]),
        &["question q7", &broken, "not an image"],
    );
}

#[test]
fn a_question_that_cannot_be_asked_is_found_before_the_first_is() {
    let folder = Folder::new();
    std::fs::copy(super::PICTURE, folder.path("shapes.png")).expect("copies");
    let line = |id: &str, question: &str| {
        format!(r#"{{"id": "{id}", "image": "shapes.png", "question": "{question}", "answers": ["x"]}}"#)
    };
    let lines = [line("a", "What is it?"), line("b", "<image> is what in <image>?")].join("\n");
    let questions = folder.file("q.jsonl", lines.as_bytes());
    let store = folder.path("answers.jsonl");
    let out = ["--out", text(&store)];
    assert_error(
        &eval_with(&questions, &out),
        &[
            "question b cannot be asked",
            "2 image marker(s)",
            "1 image(s)",
            "--image-marker none",
        ],
    );
    assert!(!store.exists());
    let ran = visipruner(&eval_with(
        &questions,
        &[&out[..], &["--image-marker", "none"]].concat(),
    ));
    assert_eq!((ran.code, answers(&store).len()), (Some(0), 4), "{}", ran.stderr);
    let calibrate = [
        "calibrate",
        "-m",
        MODEL,
        "--mmproj",
        MMPROJ,
        "--questions",
        &questions,
        "-o",
        text(&folder.path("p.toml")),
    ]
    .map(str::to_owned);
    assert_error(&calibrate, &["question b cannot be asked"]);
}

/// Ctrl-C in the middle: what was answered is in the table and in the store, and the same store goes on.
#[cfg(unix)]
#[test]
fn ctrl_c_loses_no_answer_and_a_second_run_goes_on() {
    use std::process::{Command, Stdio};
    use std::time::Duration;

    let folder = Folder::new();
    let (questions, store) = (many_questions(&folder, 500), folder.path("answers.jsonl"));
    let out = ["--out", text(&store)];
    let mut child = Command::new(assert_cmd::cargo::cargo_bin!("visipruner"))
        .args(eval_with(&questions, &out))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let n_stored = || {
        let lines = std::fs::read_to_string(&store).unwrap_or_default();
        lines.matches("{\"kind\":\"answer\"").count()
    };
    while n_stored() < 3 {
        assert!(child.try_wait().expect("is known").is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    press_ctrl_c(&child);
    let output = child.wait_with_output().expect("ends");
    let [stdout, stderr] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).expect("text"));
    assert_eq!(killed_by(output.status), Some(2), "{stderr}");
    let before = read(&store);
    let n_answered = answers(&store).len();
    assert!((3..1000).contains(&n_answered), "{n_answered}");
    let said = format!("{n_answered} of 1000 answers; the same command goes on with them");
    assert!(stderr.contains(&said), "{stderr}");
    assert!(before.ends_with('\n') && stdout.contains("100.0 %"), "{stdout}");

    // Two more questions suffice, and each has one answer from each policy.
    let limit = n_answered.div_ceil(2) + 2;
    let ran = visipruner(&eval_with(
        &questions,
        &[&out[..], &["--limit", &limit.to_string()]].concat(),
    ));
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    assert!(read(&store).starts_with(&before));
    assert_eq!(answers(&store).len(), 2 * limit);
    let row = ran.stdout.lines().nth(2).expect("a row").split_whitespace();
    assert_eq!(
        row.take(3).collect::<Vec<_>>(),
        ["off", &limit.to_string(), "100.0"]
    );
}

/// The one that comes second goes away with an error, or finds all answers there.
#[test]
fn two_processes_on_one_store_lose_nothing() {
    use std::process::{Command, Stdio};

    let folder = Folder::new();
    let (questions, store) = (many_questions(&folder, 20), folder.path("answers.jsonl"));
    let begin = || {
        Command::new(assert_cmd::cargo::cargo_bin!("visipruner"))
            .args(eval_with(&questions, &["--out", text(&store)]))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts")
    };
    let ended = [begin(), begin()].map(|child| child.wait_with_output().expect("ends"));
    let n_good = ended.iter().filter(|output| output.status.success()).count();
    assert!(n_good > 0);
    for output in ended.iter().filter(|output| !output.status.success()) {
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains("answers.jsonl"), "{said}");
    }
    assert_eq!(answers(&store).len(), 40);
}

/// The demo's questions again and again, as a file of our own lines.
fn many_questions(folder: &Folder, n: usize) -> String {
    let scenes = json(Path::new(QUESTIONS));
    let of_scene = |scene: &Value| -> Vec<Value> {
        let questions = scene["questions"].as_array().expect("questions").iter();
        let with_image = questions.map(|question| {
            let image = Path::new(QUESTIONS).with_file_name(scene["image"].as_str().expect("a name"));
            serde_json::json!({
                "image": image, "question": question["question"], "answers": question["answers"],
            })
        });
        with_image.collect()
    };
    let questions: Vec<Value> = scenes
        .as_array()
        .expect("scenes")
        .iter()
        .flat_map(of_scene)
        .collect();
    let lines: Vec<String> = questions.iter().cycle().take(n).map(Value::to_string).collect();
    folder.file("many.jsonl", lines.join("\n").as_bytes())
}

#[test]
fn policies_from_files_are_called_by_their_names() {
    let folder = Folder::new();
    let results = folder.path("t.json");
    let early = folder.file(
        "early.policy.toml",
        b"policy = \"fixed\"\nfusion_layer = 3\nkeep = 5\nexit_from = 7\n",
    );
    let half = folder.file("half.toml", b"policy = \"uniform\"\nbudget = \"50%\"\n");
    eval(&[
        "--limit",
        "2",
        "--policy-file",
        &early,
        "--policy-file",
        &half,
        "--policy",
        "vtw:exit_from=5",
        "--json",
        text(&results),
    ]);
    let results = json(&results);
    assert_eq!(labels(&results), ["off", "vtw exit_from=5", "early", "half"]);
    assert_eq!(results["fields"]["early"]["fields"]["keep"], 5);
    assert_eq!(results["fields"]["half"]["fields"]["policy"], "uniform");
    let rows = |i: usize| {
        results["policies"][i]["all"]["cost"]["vision_rows"]
            .as_f64()
            .expect("a number")
    };
    // 64 in four layers, 5 in three, none in three; 32 in all of ten.
    assert!((rows(2) - (4.0 * 64.0 + 3.0 * 5.0) / 640.0).abs() < 1e-9);
    assert_eq!(rows(3), 0.5);

    let wrong = folder.file("wrong.toml", b"policy = \"fixed\"\nkep = 5\n");
    assert_error(
        &eval_with(QUESTIONS, &["--policy-file", &wrong]),
        &["wrong.toml", "line 2", "kep"],
    );
}

/// An error after the first answers comes after their table, with exit code 1.
#[test]
fn what_was_answered_before_an_error_is_shown() {
    let folder = Folder::new();
    let broken = folder.file("broken.png", b"no picture");
    let mut lines = read(Path::new(&many_questions(&folder, 2)));
    lines.push_str(&format!(
        "\n{{\"id\": \"q9\", \"image\": \"{broken}\", \"question\": \"Which?\", \"answers\": [\"a\"]}}\n"
    ));
    let questions = folder.file("then.jsonl", lines.as_bytes());
    let table = folder.path("t.md");
    let ran = visipruner(&eval_with(&questions, &["--markdown", text(&table)]));
    assert_eq!(ran.code, Some(1), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("visipruner") && ran.stdout.contains("100.0 %"),
        "{}",
        ran.stdout
    );
    assert!(read(&table).contains("| visipruner | 2 |"));
    let error = ran.stderr.lines().last().expect("an error");
    assert!(
        error.starts_with("error: question q9 could not be answered") && error.contains("not an image"),
        "{error}"
    );
}
