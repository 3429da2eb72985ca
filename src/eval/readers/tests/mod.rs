//! Our own formats, and what is wrong with files.

mod benchmarks;

use std::fs;

use tempfile::TempDir;

use super::*;
use crate::eval::question::ImageSource;

/// A folder with files, by relative path.
fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    folder
}

fn file(folder: &TempDir, name: &str) -> QuestionFile {
    QuestionFile {
        questions: folder.path().join(name),
        ..QuestionFile::default()
    }
}

fn image(question: &Question, folder: &TempDir) -> String {
    match &question.images[..] {
        [ImageSource::Path(path)] => path.strip_prefix(folder.path()).unwrap().display().to_string(),
        other => panic!("{other:?}"),
    }
}

fn error(folder: &TempDir, name: &str) -> String {
    file(folder, name).read().unwrap_err().to_string()
}

/// As `models/train/make_eval.py` writes it.
const HELD_OUT: &str = concat!(
    r#"{"id": "00000-0", "image": "00000.png", "question": "What color is the star?", "answers": ["yellow"], "category": "colour"}"#,
    "\n\n",
    r#"{"image": ["a.png", "b.png"], "question": "Same?", "answer": "yes", "scoring": "yes_no", "id": 7}"#,
    "\n",
    r#"{"question": "2 + 2?", "answers": ["4", "four"], "image": null}"#,
    "\n"
);

#[test]
fn a_byte_order_mark_is_no_part_of_the_first_question() {
    let marked = format!("\u{feff}{HELD_OUT}");
    let pictures =
        "\u{feff}[{\"image\": \"a.png\", \"questions\": [{\"question\": \"What?\", \"answer\": \"x\"}]}]";
    let folder = folder(&[
        ("q.jsonl", HELD_OUT),
        ("marked.jsonl", &marked),
        ("p.json", pictures),
    ]);
    let [plain, marked] = ["q.jsonl", "marked.jsonl"].map(|name| file(&folder, name).read().unwrap());
    assert_eq!(marked, plain);
    assert_eq!(file(&folder, "p.json").read().unwrap()[0].prompt, "What?");
}

#[test]
fn our_own_lines() {
    let folder = folder(&[("questions.jsonl", HELD_OUT)]);
    let questions = QuestionFile {
        scoring: Scoring::Relaxed,
        ..file(&folder, "questions.jsonl")
    };
    assert_eq!(questions.detect().unwrap(), Format::Jsonl);
    let questions = questions.read().unwrap();
    let ids: Vec<_> = questions.iter().map(|question| question.id.as_str()).collect();
    assert_eq!(ids, ["00000-0", "7", "line 4"]);
    assert_eq!(image(&questions[0], &folder), "00000.png");
    assert_eq!(questions[0].category.as_deref(), Some("colour"));
    assert_eq!(questions[0].prompt, "What color is the star?");
    assert_eq!(questions[1].images.len(), 2);
    assert_eq!(
        (questions[0].scoring, questions[1].scoring),
        (Scoring::Relaxed, Scoring::YesNo)
    );
    assert_eq!(questions[2].answers, ["4", "four"]);
    assert!(questions[2].images.is_empty());
}

#[test]
fn answers_may_be_missing_where_nothing_is_judged() {
    let folder = folder(&[(
        "questions.jsonl",
        "{\"image\": \"a.png\", \"question\": \"What is this?\"}\n",
    )]);
    let judged = file(&folder, "questions.jsonl");
    assert!(judged.read().is_err());
    let questions = QuestionFile {
        without_answers: true,
        ..judged
    };
    let questions = questions.read().unwrap();
    assert_eq!((questions.len(), questions[0].answers.len()), (1, 0));
    assert_eq!(image(&questions[0], &folder), "a.png");
}

/// The file that ships with the demo.
#[test]
fn pictures_with_questions() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo/questions.json");
    let file = QuestionFile {
        questions: path.clone(),
        ..QuestionFile::default()
    };
    assert_eq!(file.detect().unwrap(), Format::Pictures);
    let questions = file.read().unwrap();
    assert_eq!(questions.len(), 18);
    assert_eq!(
        (questions[2].id.as_str(), questions[2].prompt.as_str()),
        ("entry 1.3", "How many objects are there?")
    );
    assert_eq!(questions[2].answers, ["5"]);
    assert_eq!(
        questions[6].images,
        [ImageSource::Path(path.with_file_name("crosses.png"))]
    );
    crate::eval::check_images(&questions).unwrap();
    let folder = folder(&[(
        "q.json",
        r#"[{"image": "a.png", "questions": [{"question": "q"}]}]"#,
    )]);
    assert!(error(&folder, "q.json").contains("entry 1.1: answers is missing"));
}

#[test]
fn an_image_folder_of_ones_own() {
    let folder = folder(&[("questions.jsonl", HELD_OUT)]);
    let questions = QuestionFile {
        image_dir: Some(folder.path().join("pictures")),
        ..file(&folder, "questions.jsonl")
    };
    assert_eq!(
        image(&questions.read().unwrap()[0], &folder),
        "pictures/00000.png"
    );
}

#[test]
fn bad_lines_are_named_with_their_field() {
    let good = r#"{"image": "a.png", "question": "q", "answers": ["x"]}"#;
    for (bad, parts) in [
        ("{\"image\"", &["line 2", "not JSON"][..]),
        ("[1]", &["line 2", "not a JSON object"]),
        (r#"{"question": "q"}"#, &["line 2", "answers is missing"]),
        (r#"{"answers": ["x"]}"#, &["line 2", "question is missing"]),
        (
            r#"{"question": 1, "answers": [["x"]]}"#,
            &["line 2", "answers is [\"x\"]"],
        ),
        (
            r#"{"question": "q", "answers": "x", "scoring": "best"}"#,
            &["line 2", "scoring is \"best\"", "relaxed"],
        ),
        (
            r#"{"question": "q", "answers": "x", "scoring": "vqa"}"#,
            &["line 2", "answers has 1"],
        ),
        (
            r#"{"question": "q", "answers": "x", "id": "line 1"}"#,
            &["line 2", "id \"line 1\" was there before"],
        ),
    ] {
        let folder = folder(&[("q.jsonl", &format!("{good}\n{bad}\n"))]);
        let message = error(&folder, "q.jsonl");
        assert!(message.contains("q.jsonl"), "{message}");
        for part in parts {
            assert!(message.contains(part), "{bad}: {message}");
        }
    }
}

#[test]
fn files_of_no_format() {
    let folder = folder(&[
        ("empty.jsonl", "\n"),
        ("prose.txt", "hello"),
        ("other.jsonl", r#"{"q": 1}"#),
        (
            "unknown.jsonl",
            r#"{"question_id": 1, "image": "a.jpg", "text": "t", "category": "default"}"#,
        ),
    ]);
    assert!(error(&folder, "empty.jsonl").contains("has no questions"));
    for name in ["prose.txt", "other.jsonl", "unknown.jsonl"] {
        assert!(error(&folder, name).ends_with("say which it is"));
    }
    assert!(error(&folder, "none.jsonl").starts_with("cannot read"));
}

#[test]
fn format_names_read_back_and_are_documented() {
    for (name, format) in Format::ALL {
        assert_eq!((name.parse(), format.name()), (Ok(format), name));
        assert!(include_str!("../../../../docs/eval.md").contains(&format!("| `{name}` |")));
    }
    assert!("vqav2".parse::<Format>().unwrap_err().contains("textvqa"));
}
