//! `-hf`: models of a hub on this machine, which speaks the protocol of Hugging Face's.

use assert_cmd::Command;

use super::common::hub::{Access, Fault, Hub, POOR_TOKEN, Repo, TOKEN};
use super::{Folder, MODEL, Ran, assert_error, assert_failed};
#[cfg(feature = "native")]
use super::{MMPROJ, PICTURE};
#[cfg(feature = "native")]
use std::path::Path;

const REPO: &str = "user/shapes";
const POLICY: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/models/tiny-llava-shapes.policy.toml"
);

/// Variables that would lead elsewhere.
const OTHERS: [&str; 9] = [
    "HF_TOKEN",
    "HUGGING_FACE_HUB_TOKEN",
    "HF_TOKEN_PATH",
    "HF_HUB_CACHE",
    "HUGGINGFACE_HUB_CACHE",
    "HF_HUB_OFFLINE",
    "ALL_PROXY",
    "HTTPS_PROXY",
    "HTTP_PROXY",
];

/// A hub, and the folder of a user who has downloaded nothing.
struct Setup {
    hub: Hub,
    folder: Folder,
}

fn bytes(path: &str) -> Vec<u8> {
    std::fs::read(path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// A model, and nothing that turns pictures into tokens.
fn blind() -> Repo {
    Repo::new(4).lfs("shapes-F16.gguf", &bytes(MODEL))
}

impl Setup {
    fn new(repo: Repo) -> Self {
        let hub = Hub::start();
        hub.put(REPO, repo);
        Self {
            hub,
            folder: Folder::new(),
        }
    }

    fn command(&self, program: std::process::Command) -> std::process::Command {
        let mut command = program;
        command
            .env("HF_ENDPOINT", self.hub.endpoint())
            .env("HF_HOME", self.folder.path("home"));
        for name in OTHERS {
            command.env_remove(name).env_remove(name.to_ascii_lowercase());
        }
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_in(args, &[], "")
    }

    fn run_in(&self, args: &[&str], vars: &[(&str, &str)], stdin: &str) -> Ran {
        let program = std::process::Command::new(assert_cmd::cargo::cargo_bin!("visipruner"));
        let output = Command::from_std(self.command(program))
            .args(args)
            .envs(vars.iter().copied())
            .write_stdin(stdin)
            .output()
            .expect("starts");
        Ran::from(output)
    }

    #[track_caller]
    fn ok(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        ran
    }

    #[track_caller]
    fn error(&self, args: &[&str], parts: &[&str]) {
        assert_failed(&self.run(args), parts);
    }
}

#[cfg(feature = "native")]
mod with_engine {
    use super::*;

    /// The shipped model under two names, with its projector and its policy.
    fn shapes() -> Repo {
        Repo::new(3)
            .lfs("shapes-F16.gguf", &bytes(MODEL))
            .lfs("shapes-Q4_K_M.gguf", b"another one")
            .lfs("mmproj-shapes-f16.gguf", &bytes(MMPROJ))
            .small("shapes.policy.toml", &bytes(POLICY))
            .small("README.md", b"# Shapes")
    }

    const QUESTION: [&str; 6] = ["-t", "1", "--image", PICTURE, "-p", "What color is the star?"];

    #[test]
    fn a_model_answers_and_is_there_from_then_on() {
        let setup = Setup::new(shapes());
        let args = [&["run", "-hf", "user/shapes:f16"], &QUESTION[..]].concat();
        let first = setup.ok(&args);
        assert_eq!(first.stdout, "yellow\n");
        for part in [
            "downloading shapes-F16.gguf of user/shapes (7.50 MiB)",
            "downloading mmproj-shapes-f16.gguf of user/shapes (1.83 MiB)",
            "downloading shapes.policy.toml",
            "pruned: ",
        ] {
            assert!(
                first.stderr.contains(part),
                "{part:?} is not in\n{}",
                first.stderr
            );
        }
        assert!(setup.hub.seen().iter().any(|request| request.is_store));

        for (more, vars) in [(Some("--offline"), None), (None, Some(("HF_HUB_OFFLINE", "1")))] {
            let args: Vec<&str> = args.iter().copied().chain(more).collect();
            let again = setup.run_in(&args, vars.as_slice(), "");
            assert_eq!(
                (again.code, again.stdout.as_str()),
                (Some(0), "yellow\n"),
                "{}",
                again.stderr
            );
            assert!(again.stderr.starts_with("pruned: "), "{}", again.stderr);
            assert!(setup.hub.seen().is_empty());
        }
        let quiet = setup.ok(&[&args[..], &["-q"]].concat());
        assert_eq!(quiet.stderr, "");
        assert_eq!(setup.hub.seen().len(), 1);
    }

    #[test]
    fn all_parts_of_a_split_model() {
        let folder = Folder::new();
        let parts = crate::split::split(&folder);
        let name = |path: &Path| {
            path.file_name()
                .expect("a name")
                .to_str()
                .expect("text")
                .to_owned()
        };
        let repo = parts.iter().fold(
            Repo::new(6).lfs("mmproj-shapes-f16.gguf", &bytes(MMPROJ)),
            |repo, part| {
                repo.lfs(
                    &format!("f16/{}", name(part)),
                    &bytes(part.to_str().expect("text")),
                )
            },
        );
        let setup = Setup::new(repo);
        let args = [&["run", "-hf", REPO], &QUESTION[..]].concat();
        assert_eq!(setup.ok(&args).stdout, "yellow\n");
        let offline = setup.ok(&["info", "-hf", REPO, "--offline", "--json"]);
        let info: serde_json::Value = serde_json::from_str(&offline.stdout).expect("JSON");
        let n_bytes: u64 = parts
            .iter()
            .map(|part| part.metadata().expect("is there").len())
            .sum();
        assert_eq!(info["model"]["file_bytes"], n_bytes);
    }

    #[test]
    fn a_conversation() {
        let setup = Setup::new(shapes());
        let args = ["chat", "-t", "1", "-q", "-hf", REPO, "-hff", "shapes-F16.gguf"];
        let lines = format!("/image {PICTURE}\nWhat color is the star?\n");
        let ran = setup.run_in(&args, &[], &lines);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(0), "yellow\n"),
            "{}",
            ran.stderr
        );
    }

    #[test]
    fn quantizations_are_compared() {
        let setup = Setup::new(shapes().lfs("shapes-BF16.gguf", &bytes(MODEL)));
        let questions = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/questions.json");
        let results = setup.folder.path("results.json");
        setup.ok(&[
            "eval",
            "-t",
            "1",
            "-hf",
            "user/shapes:F16",
            "-hf",
            "user/shapes:BF16",
            "--questions",
            questions,
            "--limit",
            "2",
            "--json",
            results.to_str().expect("text"),
        ]);
        let results: serde_json::Value =
            serde_json::from_slice(&std::fs::read(results).expect("a file")).expect("JSON");
        let labels: Vec<_> = results["policies"]
            .as_array()
            .expect("policies")
            .iter()
            .map(|policy| policy["policy"].as_str().expect("a name"))
            .collect();
        assert_eq!(
            labels,
            [
                "shapes-F16 off",
                "shapes-F16 visipruner",
                "shapes-BF16 off",
                "shapes-BF16 visipruner"
            ]
        );
    }

    #[test]
    fn a_policy_is_found_and_measured_and_looked_into() {
        let setup = Setup::new(shapes());
        let file = |name: &str| setup.folder.path(name).to_str().expect("text").to_owned();
        let model = ["-t", "1", "-hf", "user/shapes:F16"];
        let (policy, report) = (file("found.toml"), file("report.html"));
        setup.ok(&[&["bench"], &model[..], &["-r", "1", "-n", "1"]].concat());
        setup.ok(&[
            &["inspect"],
            &model[..],
            &["--image", PICTURE, "-p", "What?", "-o", &report],
        ]
        .concat());
        let max = [
            "--max-changed",
            "100%",
            "--image",
            PICTURE,
            "-p",
            "What is red?",
            "-p",
            "What is green?",
            "-o",
            &policy,
        ];
        setup.ok(&[&["calibrate"], &model[..], &max].concat());
        for path in [policy, report] {
            assert!(!bytes(&path).is_empty());
        }
    }

    #[test]
    fn pictures_without_a_projector() {
        let setup = Setup::new(blind());
        let args = [&["run", "-hf", REPO], &QUESTION[..]].concat();
        let ran = setup.run(&[&args[..], &["-q"]].concat());
        assert_failed(&ran, &["user/shapes has none", "give one with --mmproj"]);
        assert_eq!(
            setup.ok(&[&args[..], &["--mmproj", MMPROJ]].concat()).stdout,
            "yellow\n"
        );
        let setup = Setup::new(shapes());
        let args = [
            &["run", "-q", "-hf", "user/shapes:F16", "--no-mmproj"],
            &QUESTION[..],
        ]
        .concat();
        assert_failed(
            &setup.run(&args),
            &["need the model's projector", "give it with --mmproj"],
        );
        assert!(
            !setup
                .hub
                .seen()
                .iter()
                .any(|request| request.target.contains("mmproj"))
        );
    }

    #[cfg(unix)]
    #[test]
    fn ctrl_c_leaves_a_download_that_goes_on_later() {
        use crate::{killed_by, press_ctrl_c};

        let setup = Setup::new(shapes());
        setup.hub.fail("shapes-F16.gguf", &[Fault::Slow]);
        let args = [&["run", "-hf", "user/shapes:F16"], &QUESTION[..]].concat();
        let mut command = setup.command(std::process::Command::new(assert_cmd::cargo::cargo_bin!(
            "visipruner"
        )));
        let child = command
            .args(&args)
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("starts");
        let blobs = setup.folder.path("home/hub/models--user--shapes/blobs");
        let has_begun = || {
            let entries = std::fs::read_dir(&blobs).into_iter().flatten();
            entries
                .flatten()
                .any(|entry| entry.metadata().is_ok_and(|file| file.len() > 0))
        };
        while !has_begun() {
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        press_ctrl_c(&child);
        let output = child.wait_with_output().expect("ends");
        let said = String::from_utf8(output.stderr).expect("is text");
        assert!(said.contains("error: fetching user/shapes was stopped"), "{said}");
        assert_eq!(killed_by(output.status), Some(2));
        let names: Vec<_> = std::fs::read_dir(&blobs)
            .expect("a folder")
            .flatten()
            .map(|entry| entry.file_name())
            .collect();
        assert!(
            names.len() == 1 && names[0].to_string_lossy().ends_with(".incomplete"),
            "{names:?}"
        );

        let again = setup.ok(&args);
        assert_eq!(again.stdout, "yellow\n");
        assert!(again.stderr.contains(" of it there)"), "{}", again.stderr);
    }
}

#[test]
fn info_needs_no_engine() {
    let setup = Setup::new(blind().small("shapes.policy.toml", &bytes(POLICY)));
    let ran = setup.ok(&["info", "--hf-repo", "user/shapes:f16"]);
    assert!(ran.stdout.contains("stages middle,deep"), "{}", ran.stdout);
}

#[test]
fn every_command_that_takes_a_model_fetches_one() {
    let setup = Setup::new(blind());
    let picture = super::PICTURE;
    let questions = concat!(env!("CARGO_MANIFEST_DIR"), "/models/demo/questions.json");
    let file = setup.folder.path("out");
    let file = file.to_str().expect("text");
    let mut commands = vec![vec!["info"], vec!["run", "-p", "x"]];
    if cfg!(feature = "native") {
        commands.extend([
            vec!["chat"],
            vec!["bench"],
            vec!["eval", "--questions", questions],
            vec!["inspect", "--image", picture, "-p", "x", "-o", file],
            vec!["calibrate", "--image", picture, "-p", "x", "-o", file],
        ]);
    }
    for command in commands {
        let args = [&command[..], &["-hf", "user/none"]].concat();
        setup.error(
            &args,
            &["has no repository user/none", "HF_TOKEN", "(--hf-token)"],
        );
    }
}

#[test]
fn tokens() {
    let setup = Setup::new(blind().access(Access::Private));
    let info = ["info", "-hf", REPO];
    setup.error(&info, &["has no repository user/shapes", "or it is private"]);
    let poor = [("HF_TOKEN", POOR_TOKEN)];
    assert_failed(
        &setup.run_in(&info, &poor, ""),
        &["does not let this token see it"],
    );
    let given = setup.run_in(&[&info[..], &["-hft", TOKEN]].concat(), &poor, "");
    assert_eq!(given.code, Some(0), "{}", given.stderr);
    setup.error(
        &[&info[..], &["-hft", "a b"]].concat(),
        &["token", "copy it again"],
    );

    let setup = Setup::new(blind().access(Access::Gated));
    setup.error(
        &info,
        &[
            "user/shapes is gated",
            "accept its terms at http://127.0.0.1",
            "(--hf-token)",
        ],
    );
    std::fs::create_dir_all(setup.folder.path("home")).expect("a folder");
    setup.folder.file("home/token", TOKEN.as_bytes());
    setup.ok(&info);
}

#[test]
fn what_is_not_there() {
    let setup = Setup::new(blind());
    setup.error(
        &["info", "-hf", REPO, "--offline"],
        &["user/shapes is not in the cache", "home/hub", "(--offline)"],
    );
    setup.error(
        &["info", "-hf", "user/shapes:Q9"],
        &["has no model called Q9", "shapes-F16.gguf"],
    );
    setup.error(
        &["info", "-hf", REPO, "-hff", "b.gguf"],
        &["has no file b.gguf", "shapes-F16.gguf"],
    );
    setup.hub.fail("shapes-F16.gguf", &[Fault::Damage]);
    let ran = setup.run(&["info", "-hf", REPO]);
    assert_eq!(ran.code, Some(1));
    assert!(
        ran.stderr.contains("error: shapes-F16.gguf arrived damaged"),
        "{}",
        ran.stderr
    );
    setup.ok(&["info", "-hf", REPO]);
}

#[test]
fn flags_that_contradict_each_other() {
    assert_error(
        &["info", "-hf", "shapes"],
        &["\"shapes\" is no repository", "user/repo:QUANT"],
    );
    assert_error(
        &["info", "-hf", REPO, "-m", MODEL],
        &["'--model <GGUF>'", "cannot be used with"],
    );
    assert_error(
        &["info", "-m", MODEL, "-hff", "a.gguf"],
        &["'--hf-file <PATH>'", "cannot be used with"],
    );
    assert_error(
        &["info", "-hf", REPO, "--no-mmproj", "--mmproj", "a.gguf"],
        &["'--no-mmproj' cannot be used with '--mmproj <GGUF>'"],
    );
    assert_error(&["info"], &["--model <GGUF>"]);
    assert_error(&["eval", "--questions", "q.jsonl"], &["--model <GGUF>"]);
}
