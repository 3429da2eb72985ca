//! A model's file that goes away, is replaced or cut short while the model is in use.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

use super::{Folder, MODEL, killed_by};

const SIGBUS: i32 = 7;

/// A conversation with a model of its own.
struct Chat {
    child: Child,
    answers: BufReader<std::process::ChildStdout>,
}

impl Chat {
    fn begin(model: &Path, more: &[&str]) -> Self {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("visipruner"))
            .args([
                "chat",
                "-q",
                "-t",
                "1",
                "-n",
                "2",
                "-m",
                model.to_str().expect("text"),
            ])
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        let answers = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, answers }
    }

    /// An answer; `None` if the program is no more.
    fn ask(&mut self, question: &str) -> Option<String> {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{question}").ok()?;
        let mut answer = String::new();
        let n_bytes = self.answers.read_line(&mut answer).expect("text");
        (n_bytes > 0).then_some(answer)
    }

    fn end(mut self) -> ExitStatus {
        drop(self.child.stdin.take());
        self.child.wait().expect("ends")
    }
}

#[test]
fn a_file_that_goes_away_or_is_replaced_is_read_on() {
    for is_replaced in [false, true] {
        let folder = Folder::new();
        let model = folder.path("model.gguf");
        fs::copy(MODEL, &model).expect("copies");
        let mut chat = Chat::begin(&model, &[]);
        assert!(chat.ask("hello").is_some());
        fs::remove_file(&model).expect("goes away");
        if is_replaced {
            fs::write(&model, "another file").expect("writes");
        }
        assert!(chat.ask("and now?").is_some());
        assert!(chat.end().success());
    }
}

#[test]
fn a_file_that_is_cut_short_does_no_harm_once_it_is_in_memory() {
    let folder = Folder::new();
    let model = folder.path("model.gguf");
    fs::copy(MODEL, &model).expect("copies");
    let mut chat = Chat::begin(&model, &["--no-mmap"]);
    assert!(chat.ask("hello").is_some());
    cut_short(&model);
    assert!(chat.ask("and now?").is_some());
    assert!(chat.end().success());
}

/// docs/models.md says so: pages that are not there any more are a signal, which nothing can make an error.
#[test]
fn a_mapped_file_that_is_cut_short_ends_the_program() {
    let folder = Folder::new();
    let model = folder.path("model.gguf");
    fs::copy(MODEL, &model).expect("copies");
    let mut chat = Chat::begin(&model, &[]);
    assert!(chat.ask("hello").is_some());
    cut_short(&model);
    assert!(chat.ask("and now?").is_none());
    assert_eq!(killed_by(chat.end()), Some(SIGBUS));
}

fn cut_short(path: &Path) {
    let file = fs::OpenOptions::new().write(true).open(path).expect("opens");
    file.set_len(4096).expect("is cut");
}
