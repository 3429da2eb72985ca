//! Question files of every format, and stores of answers. The input: a byte that says which, then the file.

use std::path::Path;

use visipruner::eval::{Contents, Format, QuestionFile, Scoring};

use super::folder;

const FORMATS: [Option<Format>; 9] = [
    None,
    Some(Format::Jsonl),
    Some(Format::Pictures),
    Some(Format::Pope),
    Some(Format::Gqa),
    Some(Format::TextVqa),
    Some(Format::Mme),
    Some(Format::ScienceQa),
    Some(Format::MmBench),
];

/// What answers are graded against.
const ANSWERS: [&str; 6] = [
    "",
    "yes",
    "No, it isn't.",
    "(B) two",
    "\u{130}\u{df}\u{1f600} 10,000.5",
    "a.b..c",
];

pub fn check(data: &[u8]) {
    let Some((&which, content)) = data.split_first() else {
        return;
    };
    let folder = folder::folder();
    if which == b's' {
        let _ = Contents::read(&folder::file(&folder, "answers.jsonl", content));
        return;
    }
    let format = FORMATS[usize::from(which) % FORMATS.len()];
    // the answers beside the questions are the same bytes
    for name in [
        "coco_pope_random.json",
        "testdev_balanced_questions.json",
        "TextVQA_0.5.1_val.json",
    ] {
        folder::file(&folder, name, content);
    }
    let file = |name: &str| question_file(&folder::file(&folder, name, content), format);
    for questions in ["llava_pope_gqa.jsonl", "questions.tsv"].map(file).iter() {
        let _ = questions.detect();
        for question in questions.read().unwrap_or_default() {
            for answer in ANSWERS {
                let score = question.grade(answer).score;
                assert!((0.0..=1.0).contains(&score), "{question:?}: {score}");
            }
        }
    }
}

fn question_file(path: &Path, format: Option<Format>) -> QuestionFile {
    QuestionFile {
        questions: path.to_owned(),
        format,
        without_answers: false,
        image_dir: None,
        annotations: None,
        scoring: Scoring::default(),
    }
}
