//! Conversations in a terminal: what is typed is edited, remembered and completed.

use std::fs::OpenOptions;
use std::process::Command;

use rexpect::process::WaitStatus;
use rexpect::session::{PtySession, spawn_command};

use super::{MMPROJ, MODEL, PICTURE};

const QUESTION: &str = "What color is the star?";
/// How long something may take to appear, in milliseconds.
const PATIENCE_MS: u64 = 120_000;

/// A conversation about a picture, in a terminal of its own; `None`, and why, where none can be had.
fn chat() -> Option<PtySession> {
    if let Err(error) = OpenOptions::new().read(true).write(true).open("/dev/ptmx") {
        eprintln!("skipped: this system gives no pseudo-terminal (/dev/ptmx: {error})");
        return None;
    }
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("visipruner"));
    command.args([
        "chat", "-t", "1", "-m", MODEL, "--mmproj", MMPROJ, "--image", PICTURE,
    ]);
    command.env("TERM", "xterm").env_remove("NO_COLOR");
    let mut session = spawn_command(command, Some(PATIENCE_MS)).expect("starts");
    expect(&mut session, "Ctrl-D ends the conversation");
    expect(&mut session, "with the next message: shapes.png");
    expect(&mut session, "> ");
    Some(session)
}

#[track_caller]
fn expect(session: &mut PtySession, text: &str) {
    if let Err(error) = session.exp_string(text) {
        panic!("{text:?} does not appear: {error}");
    }
}

#[track_caller]
fn send(session: &mut PtySession, keys: &str) {
    session.send(keys).expect("is typed");
    session.flush().expect("is typed");
}

#[track_caller]
fn ends_well(session: &mut PtySession) {
    session.exp_eof().expect("it ends");
    let status = session.process().wait().expect("a status");
    assert!(matches!(status, WaitStatus::Exited(_, 0)), "{status:?}");
}

#[test]
fn a_question_is_answered_and_comes_back_with_the_arrow_key() {
    let Some(mut session) = chat() else { return };
    send(&mut session, QUESTION);
    expect(&mut session, QUESTION);
    send(&mut session, "\r");
    expect(&mut session, "yellow");
    expect(&mut session, "> ");
    send(&mut session, "\u{1b}[A");
    expect(&mut session, QUESTION);
    send(&mut session, "\r");
    expect(&mut session, "yellow");
    expect(&mut session, "> ");
    send(&mut session, "\u{4}");
    ends_well(&mut session);
}

#[test]
fn ctrl_c_clears_the_line_and_commands_are_completed() {
    let Some(mut session) = chat() else { return };
    send(&mut session, "nonsense");
    expect(&mut session, "nonsense");
    send(&mut session, "\u{3}");
    expect(&mut session, "> ");
    send(&mut session, "\u{3}");
    expect(&mut session, "(Ctrl-D or /exit ends the conversation)");
    expect(&mut session, "> ");
    send(&mut session, "/und\t");
    expect(&mut session, "/undo");
    send(&mut session, "\r");
    expect(&mut session, "took back shapes.png");
    expect(&mut session, "> ");
    send(&mut session, "/exit\r");
    ends_well(&mut session);
}
