//! Conversations: lines on standard input, answers on standard output.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::ControlFlow;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use serde_json::Value;
use visipruner::engine::{
    Cuts, Exchange, Image, Model, ModelOptions, Part, Projector, ProjectorOptions, Prompt, Request, Session,
    SessionOptions,
};
use visipruner::policy::{PolicyConfig, PolicyOverrides};

use super::{Folder, MMPROJ, MODEL, PICTURE, Ran, assert_error, run_with, visipruner, with_stdin};
#[cfg(unix)]
use super::{killed_by, press_ctrl_c, send};

const QUESTION: &str = "What color is the star?";
const SECOND: &str = "How many objects are there?";
const OTHER_PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/crosses.png");

fn chat_with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    [&["chat", "-t", "1", "-m", MODEL, "--mmproj", MMPROJ], more].concat()
}

/// A conversation that must end well.
#[track_caller]
fn chat(more: &[&str], lines: &[&str]) -> Ran {
    let ran = with_stdin(&chat_with(more), (lines.join("\n") + "\n").as_bytes());
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    ran
}

fn answers(ran: &Ran) -> Vec<&str> {
    ran.stdout.lines().collect()
}

#[track_caller]
fn assert_said(ran: &Ran, parts: &[&str]) {
    for part in parts {
        assert!(ran.stderr.contains(part), "{part:?} is not in\n{}", ran.stderr);
    }
}

/// What `run` answers about a picture.
fn run_answer(picture: &str, question: &str) -> String {
    let ran = visipruner(&run_with(&["-q", "--image", picture, "-p", question]));
    ran.stdout.trim().to_owned()
}

/// The answers to questions about one picture, each computed from its beginning.
fn computed_afresh(policy: PolicyConfig, questions: &[&str]) -> Vec<String> {
    let go_on = |_| ControlFlow::Continue(());
    let model = Model::load(MODEL, &ModelOptions::default(), go_on).expect("the model");
    let options = ProjectorOptions::default();
    let mut projector = Projector::load(MMPROJ, &model, &options, go_on).expect("the projector");
    let options = SessionOptions {
        policy,
        cuts: Cuts::EveryLayer,
        remember: false,
        n_threads: Some(1),
        ..SessionOptions::default()
    };
    let mut session = Session::new(&model, options).expect("a session");
    let pixels = image::open(PICTURE).expect("the picture").to_rgb8();
    let image = Image::from_rgb8(pixels.width(), pixels.height(), pixels.into_raw()).expect("an image");
    let mut history = Vec::new();
    for question in questions {
        let mut user = vec![Part::Text((*question).to_owned())];
        if history.is_empty() {
            user.splice(0..0, [Part::Image, Part::Text("\n".to_owned())]);
        }
        let prompt = Prompt::Chat {
            system: None,
            history: history.clone(),
            user: user.clone(),
        };
        let request = Request {
            images: vec![image.clone()],
            ..Request::new(prompt)
        };
        let outcome = session
            .generate(Some(&mut projector), &request, |_| ControlFlow::Continue(()))
            .expect("an answer");
        assert_eq!(outcome.report.reused_rows, 0);
        history.push(Exchange {
            user,
            answer: outcome.text,
            tokens: Some(outcome.tokens),
        });
    }
    history
        .into_iter()
        .map(|exchange| exchange.answer.trim().to_owned())
        .collect()
}

fn own_policy() -> PolicyConfig {
    let file = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/models/tiny-llava-shapes.policy.toml"
    );
    let overrides = PolicyOverrides::from_file(file.as_ref()).expect("the policy");
    overrides.apply(&PolicyConfig::Off).expect("fits")
}

#[test]
fn questions_about_one_picture_are_answered_as_if_computed_afresh() {
    let questions = [QUESTION, SECOND, "What shape is red?"];
    for (flags, policy) in [(&[][..], own_policy()), (&["--policy", "off"], PolicyConfig::Off)] {
        let ran = chat(&[&["--image", PICTURE], flags].concat(), &questions);
        assert_eq!(answers(&ran), computed_afresh(policy, &questions), "{flags:?}");
        assert_eq!(answers(&ran)[0], run_answer(PICTURE, QUESTION));
        let lines: Vec<_> = ran.stderr.lines().collect();
        assert_eq!(lines[0], "with the next message: shapes.png");
        assert!(!lines[1].contains("read before"), "{}", lines[1]);
        for line in &lines[2..] {
            assert!(line.contains("rows read before"), "{line}");
        }
        assert_eq!(lines.len(), 4, "{lines:?}");
    }
}

#[test]
fn quiet_leaves_the_answers_alone() {
    let ran = chat(
        &["-q"],
        &[&format!("/image {PICTURE}"), QUESTION, "", "/policy off"],
    );
    assert_eq!((ran.stdout.as_str(), ran.stderr.as_str()), ("yellow\n", ""));
    let ran = chat(&["-q"], &["/help", "/stats"]);
    assert_said(&ran, &["/image FILE", "nothing has been answered"]);
}

#[test]
fn a_picture_may_come_later_and_several_are_allowed() {
    let other = format!("/image {OTHER_PICTURE}");
    let ran = chat(
        &["--image", PICTURE],
        &[QUESTION, &other, SECOND, "/image", "/stats"],
    );
    assert_eq!(answers(&ran).len(), 2);
    assert_said(
        &ran,
        &[
            "with the next message: crosses.png",
            "128 of them vision; 2 message(s)",
            "no picture waits",
        ],
    );
    let ran = chat(
        &["--image", PICTURE, "--image", OTHER_PICTURE],
        &["Look: <image> and <image> differ how?", "/stats"],
    );
    assert_said(
        &ran,
        &[
            "with the next message: shapes.png, crosses.png",
            "128 of them vision",
        ],
    );
}

#[test]
fn lines_go_on_after_a_backslash() {
    let folder = Folder::new();
    let path = folder.path("c.json");
    let save = format!("/save {}", path.display());
    chat(&[], &["one\\", "two", " /three", &save]);
    assert_eq!(texts(&path), ["one\ntwo", "/three"]);
}

fn texts(path: &std::path::Path) -> Vec<String> {
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("the file")).expect("JSON");
    let exchanges = saved["exchanges"].as_array().expect("a list");
    let text = |exchange: &Value| exchange["text"].as_str().expect("text").to_owned();
    exchanges.iter().map(text).collect()
}

#[test]
fn undo_goes_back_to_before_the_message() {
    let ran = chat(
        &["--image", PICTURE],
        &[
            QUESTION, SECOND, "/undo", SECOND, "/undo", "/undo", QUESTION, "/stats",
        ],
    );
    let answers = answers(&ran);
    assert_eq!(answers[1], answers[2]);
    assert_eq!(answers[0], answers[3]);
    assert_said(
        &ran,
        &["with the next message: shapes.png", "vision; 1 message(s)"],
    );
    let ran = chat(&["--image", PICTURE], &["/undo", "/undo", "/kept"]);
    assert_said(
        &ran,
        &[
            "took back shapes.png",
            "nothing to take back",
            "nothing has been answered",
        ],
    );
}

#[test]
fn after_clear_nothing_is_left() {
    let ran = chat(
        &["--image", PICTURE],
        &[QUESTION, "/clear", "Hello?", "/stats", "/kept"],
    );
    assert_said(&ran, &["0 of them vision; 1 message(s)", "has no picture"]);
}

#[test]
fn a_saved_conversation_goes_on_as_it_would_have() {
    let folder = Folder::new();
    let path = folder.path("c.json");
    let path = path.to_str().expect("text");
    let save = format!("/save {path}");
    let system = ["--system", "Be brief."];
    let first = chat(
        &[&system[..], &["--image", PICTURE]].concat(),
        &[QUESTION, &save, SECOND],
    );
    let saved: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("the file")).expect("JSON");
    assert_eq!(saved["system"], "Be brief.");
    assert_eq!(saved["exchanges"][0]["pictures"], serde_json::json!([PICTURE]));
    for ran in [
        chat(&["--load", path], &[SECOND]),
        chat(&[], &["Hello?", &format!("/load {path}"), SECOND]),
    ] {
        assert_eq!(answers(&ran).last(), answers(&first).last());
    }
    // Tokens of another model are left out; the text is there.
    let foreign = std::fs::read_to_string(path)
        .expect("the file")
        .replace("276", "99999999");
    let foreign = folder.file("foreign.json", foreign.as_bytes());
    let ran = chat(&["--load", &foreign], &[SECOND, "/stats"]);
    assert_said(&ran, &["2 message(s)"]);
    assert_eq!(answers(&ran).len(), 1);
}

#[test]
fn policies_change_between_messages() {
    let ran = chat(
        &["--image", PICTURE],
        &[
            QUESTION,
            "/kept",
            "/policy fastv rank_layers=1 keep=25%",
            QUESTION,
            "/kept",
            "/policy",
            "/policy divprune+vtw budget=8 exit_from=4",
            QUESTION,
            "/policy divprune budget=8",
            QUESTION,
            "/policy off",
            QUESTION,
            "/kept",
            "/stats",
        ],
    );
    assert_eq!(answers(&ran)[0], "yellow");
    assert_eq!(answers(&ran).len(), 5);
    assert_said(
        &ran,
        &[
            "64 vision tokens of shapes.png went on after layer",
            "16 of 64 vision tokens of shapes.png went on after layer 1",
            "fastv rank_layers=1 keep=25%",
            "0 of 64 vision tokens kept",
            "8 of 64 vision tokens kept",
            "nothing of shapes.png was dropped (the policy is off)",
            "nothing was pruned: the policy is off",
        ],
    );
}

#[test]
fn what_cannot_be_done_is_told_and_the_conversation_goes_on() {
    let folder = Folder::new();
    let text = folder.file("text.png", b"no picture");
    let long = QUESTION.repeat(100);
    let no_picture = format!("/image {text}");
    let no_conversation = format!("/load {text}");
    let ran = chat(
        &["--image", PICTURE, "-c", "256"],
        &[
            "/nope",
            "/image /no/such.png",
            &no_picture,
            "/image -",
            &no_conversation,
            "/load /no/such.json",
            "/save /no/such/folder/c.json",
            "/policy best",
            "/policy fastv rank_layers=99",
            "/policy vtw exit_from",
            "<image> and <image>?",
            &long,
            QUESTION,
            &long,
            "/exit",
            "not answered",
        ],
    );
    assert_eq!(ran.stdout, "yellow\n");
    let errors: Vec<_> = ran
        .stderr
        .lines()
        .filter(|line| line.starts_with("error: "))
        .collect();
    for (error, part) in errors.iter().zip([
        "there is no command /nope, only /image, /policy",
        "/no/such.png",
        "not an image",
        "standard input",
        "text.png: expected",
        "/no/such.json: No such file",
        "/no/such/folder",
        "best",
        "from 0 to",
        "FIELD=VALUE",
        "2 image marker(s)",
        "holds 256",
        "holds 256",
    ]) {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
    assert_eq!(errors.len(), 13, "{}", ran.stderr);
    assert!(ran.stderr.ends_with("/undo and /clear make room in it)\n"));
}

#[test]
fn what_is_wrong_before_the_conversation_ends_the_program() {
    assert_error(&["chat"], &["--model <GGUF>"]);
    assert_error(&chat_with(&["--load", "/no/such.json"]), &["/no/such.json"]);
    assert_error(&chat_with(&["--image", "/no/such.png"]), &["/no/such.png"]);
    assert_error(&chat_with(&["--image", "-"]), &["standard input"]);
    assert_error(&["chat", "-m", MODEL, "--image", PICTURE], &["--mmproj"]);
    assert_error(
        &chat_with(&["--policy", "fixed", "--keep", "3"]),
        &["fusion_layer is missing"],
    );
    let ran = with_stdin(
        &["chat", "-t", "1", "-m", MODEL],
        format!("/image {PICTURE}\nHi?\n").as_bytes(),
    );
    assert_eq!(
        (ran.code, ran.stdout.lines().count()),
        (Some(0), 1),
        "{}",
        ran.stderr
    );
    assert_said(&ran, &["pictures need the model's projector"]);
}

/// A conversation whose answers have thousands of tokens: the one that ends them is drawn that late with this seed.
fn endless() -> Child {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("visipruner"));
    command
        .args(chat_with(&["--image", PICTURE, "-n", "-1", "-c", "8192"]))
        .args([
            "--temp", "50", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "10",
        ])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command.spawn().expect("starts")
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_an_answer_and_no_more() {
    let mut child = endless();
    let mut stdin = child.stdin.take().expect("a pipe");
    let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let (pieces, answered) = mpsc::channel();
    std::thread::spawn(move || stdout.bytes().try_for_each(|byte| pieces.send(byte)));
    let mut said = BufReader::new(child.stderr.take().expect("a pipe")).lines();
    let mut next_line = || said.next().expect("it goes on").expect("is text");
    for _ in 0..2 {
        writeln!(stdin, "{QUESTION}").expect("is read");
        answered.recv().expect("the answer begins").expect("is read");
        press_ctrl_c(&child);
        while next_line() != "(stopped)" {}
        while answered.recv_timeout(Duration::from_millis(200)).is_ok() {}
    }
    writeln!(stdin, "/stats").expect("is read");
    while !next_line().contains("2 message(s)") {}
    drop(stdin);
    assert_eq!(child.wait().expect("ends").code(), Some(0));
}

#[cfg(unix)]
#[test]
fn ctrl_c_between_answers_ends_the_program() {
    let mut child = endless();
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stderr = child.stderr.take().expect("a pipe");
    writeln!(stdin, "/help").expect("is read");
    let mut said = Vec::new();
    while !String::from_utf8_lossy(&said).contains("/exit") {
        let mut byte = [0];
        stderr.read_exact(&mut byte).expect("help is printed");
        said.push(byte[0]);
    }
    // It waits for the next line a moment after that.
    std::thread::sleep(Duration::from_millis(300));
    press_ctrl_c(&child);
    assert_eq!(killed_by(child.wait().expect("ends")), Some(2));
}

#[cfg(unix)]
#[test]
fn what_asks_for_the_end_ends_the_conversation_with_its_answer() {
    let mut child = endless();
    let mut stdin = child.stdin.take().expect("a pipe");
    let mut stdout = child.stdout.take().expect("a pipe");
    writeln!(stdin, "{QUESTION}").expect("is read");
    stdout.read_exact(&mut [0]).expect("the answer begins");
    send("TERM", &child);
    std::io::copy(&mut stdout, &mut std::io::sink()).expect("the answer ends");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(killed_by(output.status), Some(15));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(stderr.contains("(stopped)"), "{stderr}");
}

#[test]
fn a_reader_that_goes_away_ends_the_conversation() {
    let mut child = endless();
    let mut stdin = child.stdin.take().expect("a pipe");
    drop(child.stdout.take());
    writeln!(stdin, "{QUESTION}").expect("is read");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
