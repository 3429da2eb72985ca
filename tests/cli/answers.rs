//! Answers of the model that ships.

use std::io::Read;
use std::process::{Command, Stdio};

use image::ImageFormat;
use serde_json::Value;

use super::common::random_model::{Arch, RandomLlm, RandomProjector};
use super::{Folder, MMPROJ, MODEL, PICTURE, Ran, assert_error, png, run_with, visipruner, with_stdin};
#[cfg(unix)]
use super::{killed_by, send};

const QUESTION: &str = "What color is the star?";

/// Asks about the shipped picture.
fn ask(more: &[&str]) -> Ran {
    visipruner(&run_with(&[&["--image", PICTURE, "-p", QUESTION], more].concat()))
}

/// The report of a run that must succeed, checked against the schema.
#[track_caller]
fn report(args: &[&str]) -> Value {
    let ran = visipruner(&run_with(&[args, &["--json"]].concat()));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    checked(&ran.stdout)
}

#[track_caller]
fn checked(json: &str) -> Value {
    let report: Value = serde_json::from_str(json).expect("one JSON object");
    let schema = serde_json::from_str(include_str!("../../docs/report.schema.json")).expect("JSON");
    if let Err(error) = jsonschema::validate(&schema, &report) {
        panic!("{}: {error}", error.instance_path);
    }
    report
}

/// What each layer says under `key`.
fn of_layers(report: &Value, key: &str) -> Vec<Value> {
    report["layers"]
        .as_array()
        .expect("layers")
        .iter()
        .map(|layer| layer[key].clone())
        .collect()
}

#[test]
fn the_answer_goes_to_stdout_and_two_lines_to_stderr() {
    let ran = ask(&[]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert_eq!(ran.stdout, "yellow\n");
    let lines: Vec<_> = ran.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert!(
        lines[0].starts_with("pruned: ") && lines[1].starts_with("load "),
        "{lines:?}"
    );
}

#[test]
fn quiet_leaves_the_answer_alone() {
    let ran = ask(&["-q"]);
    assert_eq!(
        (ran.code, ran.stdout.as_str(), ran.stderr.as_str()),
        (Some(0), "yellow\n", "")
    );
}

#[test]
fn verbose_shows_the_log_of_the_engine() {
    let ran = ask(&["-v"]);
    assert_eq!(ran.stdout, "yellow\n");
    assert!(ran.stderr.contains("llama_model_loader"), "{}", ran.stderr);
}

#[test]
fn a_report_goes_to_a_file_and_with_json_to_stdout() {
    let folder = Folder::new();
    let path = folder.path("report.json");
    let path = path.to_str().expect("text");
    let ran = ask(&["--report", path, "--report-probes", "--report-logits", "--json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let written = std::fs::read_to_string(path).expect("the report");
    assert_eq!(ran.stdout, written);
    let report = checked(&written);
    assert_eq!(report["text"].as_str().map(str::trim), Some("yellow"));
    assert_eq!(report["policy"]["policy"], "visipruner");
    assert_eq!(report["skipped"], Value::Null);
    assert!(
        report["logits"]
            .as_array()
            .is_some_and(|logits| logits.len() > 500)
    );
    let n_vision = report["image_spans"][0][1].as_u64().expect("a number") as usize;
    let probed = of_layers(&report, "cos");
    assert!(
        probed
            .iter()
            .any(|cos| cos.as_array().is_some_and(|cos| cos.len() == n_vision))
    );
}

#[test]
fn without_pruning_every_layer_runs_all_rows() {
    let report = report(&["--image", PICTURE, "-p", QUESTION, "--policy", "off"]);
    assert_eq!(report["skipped"], "the policy is off");
    assert!(
        of_layers(&report, "rows")
            .iter()
            .all(|rows| *rows == report["n_tokens"])
    );
}

#[test]
fn a_fixed_schedule_drops_rows_where_it_says() {
    let schedule = [
        "--policy",
        "fixed",
        "--fusion-layer",
        "3",
        "--keep",
        "5",
        "--exit-from",
        "6",
    ];
    let report = report(&[&["--image", PICTURE, "-p", QUESTION], &schedule[..]].concat());
    let rows: Vec<_> = of_layers(&report, "rows")
        .iter()
        .map(|rows| rows.as_u64().expect("a number"))
        .collect();
    let (n, n_vision) = (rows[0], report["image_spans"][0][1].as_u64().expect("a number"));
    assert_eq!(rows[..4], [n; 4]);
    assert_eq!(rows[4..6], [n - n_vision + 5; 2]);
    assert!(rows[6..].iter().all(|&rows| rows == n - n_vision));
    assert_eq!(report["kept"].as_array().map(Vec::len), Some(5));
    assert_eq!(
        (&report["fusion_layer"], &report["exit_from"]),
        (&Value::from(3), &Value::from(6))
    );
}

#[test]
fn policy_flags_go_over_the_policy_file_beside_the_model() {
    let report = report(&[
        "--image",
        PICTURE,
        "-p",
        QUESTION,
        "--stages",
        "deep",
        "--mid-deep-layer",
        "4",
    ]);
    assert_eq!(report["policy"]["stages"], serde_json::json!(["deep"]));
    assert_eq!(report["exit_from"], 4);
}

#[test]
fn a_model_without_thresholds_runs_dense_with_a_hint() {
    let folder = Folder::new();
    let model = folder.path("other.gguf");
    std::fs::copy(MODEL, &model).expect("copies");
    let model = model.to_str().expect("text");
    let args = [
        "run", "-m", model, "--mmproj", MMPROJ, "--image", PICTURE, "-p", QUESTION,
    ];
    let ran = visipruner(&args);
    assert_eq!((ran.code, ran.stdout.as_str()), (Some(0), "yellow\n"));
    assert!(
        ran.stderr
            .starts_with("hint: no pruning thresholds are known for this model"),
        "{}",
        ran.stderr
    );
    assert!(
        ran.stderr
            .contains("nothing was pruned: there is no preset for this model"),
        "{}",
        ran.stderr
    );
    let ran = visipruner(&[&args[..], &["--policy", "visipruner"]].concat());
    assert!(
        ran.stderr
            .starts_with("warning: no thresholds are known for this model"),
        "{}",
        ran.stderr
    );
}

#[cfg(any(feature = "cuda", feature = "vulkan"))]
#[test]
fn without_a_gpu_a_build_for_one_says_so_and_answers_on_the_cpu() {
    let ask = |more: &[&str]| {
        let output = Command::new(assert_cmd::cargo::cargo_bin!("visipruner"))
            .args(run_with(&[&["--image", PICTURE, "-p", QUESTION], more].concat()))
            .env("CUDA_VISIBLE_DEVICES", "-1")
            .envs(["VK_DRIVER_FILES", "VK_ICD_FILENAMES"].map(|name| (name, "/dev/null")))
            .output()
            .expect("starts");
        let stderr = String::from_utf8(output.stderr).expect("is text");
        assert_eq!(
            (output.status.code(), output.stdout.as_slice()),
            (Some(0), b"yellow\n".as_slice()),
            "{stderr}"
        );
        stderr
    };
    let is_warning = |line: &&str| line.starts_with("warning: ");
    let stderr = ask(&[]);
    let warnings: Vec<_> = stderr.lines().filter(is_warning).collect();
    let [warning] = warnings.as_slice() else {
        panic!("not one warning: {stderr}");
    };
    assert!(
        warning.starts_with("warning: no ") && warning.ends_with(": the CPU computes everything"),
        "{warning}"
    );
    if cfg!(feature = "cuda") {
        assert!(warning.contains("failed to initialize CUDA"), "{warning}");
    }
    for on_cpu in [["--n-gpu-layers", "0"], ["--device", "none"]] {
        let stderr = ask(&on_cpu);
        assert_eq!(stderr.lines().find(is_warning), None, "{on_cpu:?}");
    }
}

#[test]
fn a_prompt_without_pictures_is_answered_too() {
    let report = report(&["-p", "How many objects are there?"]);
    assert_eq!(report["skipped"], "the prompt has no image");
    let ran = visipruner(&["run", "-m", MODEL, "-p", "How many objects are there?", "-n", "3"]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
}

#[test]
fn a_picture_from_stdin_is_the_same_picture() {
    let picture = std::fs::read(PICTURE).expect("a picture");
    let args = run_with(&["--image", "-", "-p", QUESTION, "--json"]);
    let from_stdin = checked(&with_stdin(&args, &picture).stdout);
    let from_file = report(&["--image", PICTURE, "-p", QUESTION]);
    for key in ["token_ids", "kept", "text"] {
        assert_eq!(from_stdin[key], from_file[key]);
    }
}

#[test]
fn pictures_of_any_size_are_read() {
    let folder = Folder::new();
    for (width, height) in [(1, 1), (20_000, 3), (3, 20_000)] {
        let picture = folder.file("picture.png", &png(width, height));
        let ran = visipruner(&run_with(&["--image", &picture, "-p", QUESTION]));
        assert_eq!(ran.code, Some(0), "{width} x {height}: {}", ran.stderr);
    }
}

#[test]
fn other_formats_are_read() {
    let folder = Folder::new();
    let picture = image::open(PICTURE).expect("a picture").to_rgb8();
    for (name, format) in [
        ("p.bmp", ImageFormat::Bmp),
        ("p.tiff", ImageFormat::Tiff),
        ("p.webp", ImageFormat::WebP),
        ("p.jpg", ImageFormat::Jpeg),
        ("wrong-name.png", ImageFormat::Bmp),
    ] {
        let path = folder.path(name);
        picture.save_with_format(&path, format).expect("writes");
        let ran = visipruner(&run_with(&[
            "--image",
            path.to_str().expect("text"),
            "-p",
            QUESTION,
        ]));
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(0), "yellow\n"),
            "{name}: {}",
            ran.stderr
        );
    }
}

/// The demo's picture with its ground cut out, and noise where nothing is seen.
fn cut_out() -> image::RgbaImage {
    let picture = image::open(PICTURE).expect("a picture").to_rgb8();
    let ground = *picture.get_pixel(0, 0);
    image::RgbaImage::from_fn(picture.width(), picture.height(), |x, y| {
        let pixel = picture.get_pixel(x, y);
        let noise = |factor: u32| ((x * x + 31 * y * y + x * y) * factor % 256) as u8;
        match *pixel == ground {
            true => image::Rgba([noise(7), noise(11), noise(13), 0]),
            false => image::Rgba([pixel[0], pixel[1], pixel[2], 255]),
        }
    })
}

#[test]
fn what_is_transparent_shows_the_background() {
    let folder = Folder::new();
    let ground = *image::open(PICTURE).expect("a picture").to_rgb8().get_pixel(0, 0);
    let [red, green, blue] = ground.0;
    let path = folder.path("cut-out.png");
    cut_out().save(&path).expect("writes");
    let path = path.to_str().expect("text");
    let seen = |more: &[&str]| {
        report(&[&["--image", path, "-p", QUESTION, "--report-logits"], more].concat())["logits"].clone()
    };
    let background = format!("#{red:02X}{green:02x}{blue:02x}");
    let opaque = report(&["--image", PICTURE, "-p", QUESTION, "--report-logits"]);
    assert_eq!(seen(&["--background", &background]), opaque["logits"]);
    assert_eq!(seen(&[]), seen(&["--background", "white"]));
    assert_ne!(seen(&[]), seen(&["--background", "black"]));
    assert_error(
        &run_with(&["--image", path, "-p", QUESTION, "--background", "none"]),
        &["--background", "'none'", "white, black or #rrggbb"],
    );
}

#[test]
fn several_pictures_and_places_for_them() {
    let pictures = ["--image", PICTURE, "--image", PICTURE];
    let first = report(&[&pictures[..], &["-p", QUESTION]].concat());
    assert_eq!(first["image_spans"].as_array().map(Vec::len), Some(2));
    let placed = report(
        &[
            &pictures[..],
            &["-p", "<image> and <__media__> What color is the star?"],
        ]
        .concat(),
    );
    let [one, other] = [0, 1].map(|i| placed["image_spans"][i][0].as_u64().expect("a number"));
    let n_vision = placed["image_spans"][0][1].as_u64().expect("a number");
    assert!(other > one + n_vision, "there is text between the pictures");
}

#[test]
fn a_question_may_hold_what_marks_pictures() {
    let question = "What does <image> mean beside <__media__>?";
    let asked = |more: &[&str]| report(&[&["-p", question, "--image-marker", "none"], more].concat());
    assert_eq!(asked(&[])["image_spans"], serde_json::json!([]));
    let n_before = |report: &Value| report["image_spans"][0][0].as_u64().expect("a number");
    let with_picture = asked(&["--image", PICTURE]);
    assert_eq!(with_picture["image_spans"].as_array().map(Vec::len), Some(1));
    let plain = report(&["--image", PICTURE, "-p", QUESTION]);
    assert_eq!(n_before(&with_picture), n_before(&plain));

    let marked = report(&[
        "--image",
        PICTURE,
        "-p",
        "<image> is here: [p]",
        "--image-marker",
        "[p]",
    ]);
    assert!(n_before(&marked) > n_before(&plain));
    assert_error(
        &run_with(&["-p", question, "--image", PICTURE]),
        &["2 image marker(s)", "1 image(s)", "--image-marker none"],
    );
    assert_error(
        &run_with(&["-p", question, "--image-marker", ""]),
        &["--image-marker"],
    );
}

#[test]
fn questions_come_from_files_and_with_sequences() {
    let folder = Folder::new();
    let tokens =
        |more: &[&str]| report(&[&["--image", PICTURE, "-n", "0"], more].concat())["token_ids"].clone();
    let plain = tokens(&["-p", "What\tcolor?\nSay."]);
    assert_eq!(tokens(&["-p", r"What\tcolor?\nSay."]), plain);
    assert_eq!(tokens(&["-e", "-p", r"What\tcolor?\nSay."]), plain);
    let as_it_is = tokens(&["--no-escape", "-p", r"What\tcolor?\nSay."]);
    assert_ne!(as_it_is, plain);
    assert_eq!(tokens(&["-p", r"What\\tcolor?\\nSay."]), as_it_is);
    let file = folder.file("question.txt", b"\xef\xbb\xbfWhat\tcolor?\nSay.\n");
    assert_eq!(tokens(&["-f", &file]), plain);
    let several = visipruner(&run_with(&[
        "-q", "--image", PICTURE, "-p", QUESTION, "-f", &file, "-n", "3",
    ]));
    assert_eq!(
        several.stdout.lines().next(),
        Some("yellow"),
        "{}",
        several.stderr
    );
    assert_error(&run_with(&["-f", "/no/such/file"]), &["--file", "/no/such/file"]);
    assert_error(&run_with(&["-p", r"\xff"]), &["no UTF-8", "--no-escape"]);
}

#[test]
fn a_system_prompt_comes_before_the_question() {
    let template = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}";
    let tokens = |more: &[&str]| report(&[&["-n", "0"], more].concat())["token_ids"].clone();
    let told = tokens(&["-p", QUESTION, "-sys", "-fa", "--chat-template", template]);
    assert_eq!(
        told,
        tokens(&["--raw", "-p", &format!("system: -fa\nuser: {QUESTION}\n")])
    );
    assert_error(
        &run_with(&["-p", "x", "--raw", "--system-prompt", "y"]),
        &["--raw", "--system-prompt"],
    );
}

#[cfg(target_os = "linux")]
#[test]
fn a_picture_may_have_a_name_that_is_no_text() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let folder = Folder::new();
    let path = folder.0.path().join(OsStr::from_bytes(b"p\xff.png"));
    std::fs::copy(PICTURE, &path).expect("copies");
    for command in ["run", "info"] {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("visipruner"));
        child
            .args([command, "-m", MODEL, "--mmproj", MMPROJ, "--image"])
            .arg(&path);
        if command == "run" {
            child.args(["-t", "1", "-p", QUESTION]);
        }
        let output = child.output().expect("starts");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert_eq!(
            output.status.code(),
            Some(0),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            stdout.contains(if command == "run" { "yellow" } else { "tokens" }),
            "{stdout}"
        );
    }
}

#[test]
fn memory_and_devices_are_as_the_flags_say() {
    for flags in [
        &["--no-mmap"][..],
        &["--mlock", "-nkvo"],
        &["-dev", "none"],
        &["--no-kv-offload", "--no-mmap"],
    ] {
        let ran = ask(flags);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(0), "yellow\n"),
            "{flags:?}: {}",
            ran.stderr
        );
    }
    for name in ["CPU", "NoSuch9"] {
        assert_error(
            &run_with(&["-q", "--image", PICTURE, "-p", QUESTION, "-dev", name]),
            &["there is no device", name, "(--device)"],
        );
    }
    assert_error(
        &run_with(&["-p", "x", "--image-min-tokens", "9", "--image-max-tokens", "8"]),
        &["image_max_tokens is 8", "9 to"],
    );
}

#[test]
fn pictures_whose_size_decides_take_as_many_tokens_as_asked() {
    let folder = Folder::new();
    let [model, mmproj] = ["m.gguf", "mmproj.gguf"].map(|name| folder.path(name));
    let llm = RandomLlm::new(Arch::Qwen2Vl, 7);
    llm.write(&model);
    RandomProjector::qwen2vl(8, llm.n_embd()).write(&mmproj);
    let picture = folder.file("p.png", &png(640, 480));
    let of_model = [
        "-m",
        model.to_str().expect("text"),
        "--mmproj",
        mmproj.to_str().expect("text"),
    ];
    let n_tokens = |more: &[&str]| {
        let info = visipruner(&[&["info", "--json", "--image", &picture], &of_model[..], more].concat());
        let info: Value = serde_json::from_str(&info.stdout).unwrap_or_else(|_| panic!("{}", info.stderr));
        let run = [
            &[
                "run", "-t", "1", "--raw", "-p", "<image>x", "-n", "0", "-c", "4096", "--json", "--image",
                &picture,
            ],
            &of_model[..],
            more,
        ];
        let run = visipruner(&run.concat());
        let run: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}", run.stderr));
        assert_eq!(info["images"][0]["n_tokens"], run["image_spans"][0][1]);
        info["images"][0]["n_tokens"].as_u64().expect("a number")
    };
    let as_it_is = n_tokens(&[]);
    let few = n_tokens(&["--image-max-tokens", "16"]);
    assert!((1..=16).contains(&few) && few < as_it_is, "{few} {as_it_is}");
    let many = n_tokens(&["--image-min-tokens", &(2 * as_it_is).to_string()]);
    assert!(many >= 2 * as_it_is, "{many} {as_it_is}");
}

#[test]
fn a_raw_prompt_is_used_as_it_is() {
    let prompt = format!("USER: <image>\n{QUESTION} ASSISTANT:");
    let raw = report(&["--raw", "--image", PICTURE, "-p", &prompt]);
    assert_eq!(raw["text"].as_str().map(str::trim), Some("yellow"));
    let template = "{% for message in messages %}{{ message.content }}{% endfor %}";
    let templated = report(&["--chat-template", template, "--image", PICTURE, "-p", &prompt]);
    assert_eq!(templated["token_ids"], raw["token_ids"]);
    let folder = Folder::new();
    let marked = folder.file("template.jinja", format!("\u{feff}{template}").as_bytes());
    let templated = report(&["--chat-template", &marked, "--image", PICTURE, "-p", &prompt]);
    assert_eq!(templated["token_ids"], raw["token_ids"]);
}

#[test]
fn a_prompt_that_does_not_fit_says_how_many_tokens_it_needs() {
    let long = QUESTION.repeat(100);
    let args = ["--image", PICTURE, "-p", &long, "-n", "0"];
    let needed = format!("needs {} tokens", report(&args)["n_tokens"]);
    assert_error(
        &run_with(&[&args[..], &["-c", "256"]].concat()),
        &[&needed, "holds 256", "-c"],
    );
}

#[test]
fn the_number_of_tokens_is_limited_and_that_is_said() {
    let ran = ask(&["-n", "1"]);
    assert_eq!(ran.code, Some(0));
    assert!(
        ran.stderr.starts_with("(stopped at the limit of -n 1)"),
        "{}",
        ran.stderr
    );
    let none = report(&["--image", PICTURE, "-p", QUESTION, "-n", "0"]);
    assert_eq!(
        (&none["text"], &none["generated"]),
        (&Value::from(""), &serde_json::json!([]))
    );
}

#[test]
fn the_same_seed_draws_the_same_tokens() {
    // Hot enough that every token of the vocabulary has a chance.
    let hot = ["--temp", "50", "--top-k", "0", "--top-p", "1", "--min-p", "0"];
    let draw = |seed| ask(&[&["-q", "-n", "24", "--seed", seed], &hot[..]].concat()).stdout;
    assert_eq!(draw("7"), draw("7"));
    assert_ne!(draw("7"), draw("8"));
}

#[test]
fn engine_flags_change_nothing_of_a_clear_answer() {
    for flags in [
        &["-fa", "off"][..],
        &["-fa", "-ctk", "q8_0", "-ctv", "q8_0"],
        &["-ctk", "f32", "-ctv", "f32", "-t", "1"],
        &["-ub", "16", "-b", "32"],
        &["-ngl", "0", "-c", "512"],
    ] {
        let ran = ask(flags);
        assert_eq!(
            (ran.code, ran.stdout.as_str()),
            (Some(0), "yellow\n"),
            "{flags:?}: {}",
            ran.stderr
        );
    }
    assert_error(
        &run_with(&[
            "-q", "--image", PICTURE, "-p", QUESTION, "-fa", "off", "-ctv", "q8_0",
        ]),
        &["q8_0", "flash attention"],
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_answer_without_an_error() {
    let mut child = endless().spawn().expect("starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(
        output.status.code(),
        Some(0),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[cfg(unix)]
#[test]
fn a_signal_ends_the_answer_with_its_summary_and_then_the_program() {
    for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        let mut child = endless().spawn().expect("starts");
        let mut stdout = child.stdout.take().expect("a pipe");
        stdout.read_exact(&mut [0]).expect("the answer begins");
        send(name, &child);
        let mut answer = Vec::new();
        stdout.read_to_end(&mut answer).expect("the answer ends");
        let output = child.wait_with_output().expect("ends");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(killed_by(output.status), Some(number), "{stderr}");
        let lines: Vec<_> = stderr.lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, "(stopped)"), "{stderr}");
        assert!(answer.ends_with(b"\n"));
    }
}

/// What was started with the signal ignored, as by `nohup`, goes on.
#[cfg(target_os = "linux")]
#[test]
fn a_hangup_that_is_ignored_ends_nothing() {
    let run = endless();
    let mut shell = Command::new("sh");
    shell
        .args(["-c", r#"trap "" HUP; exec "$0" "$@""#])
        .arg(run.get_program());
    let mut child = shell
        .args(run.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    stdout.read_exact(&mut [0]).expect("the answer begins");
    send("HUP", &child);
    std::io::copy(&mut stdout, &mut std::io::sink()).expect("the answer goes on");
    let output = child.wait_with_output().expect("ends");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    assert!(!stderr.contains("(stopped)"), "{stderr}");
}

/// A command whose answer fills the context: at such a temperature the token that ends it is one of hundreds.
fn endless() -> Command {
    let mut command = Command::new(assert_cmd::cargo::cargo_bin!("visipruner"));
    command
        .args(run_with(&[
            "--image", PICTURE, "-p", QUESTION, "-n", "-1", "-c", "2048",
        ]))
        .args([
            "--temp", "50", "--top-k", "0", "--top-p", "1", "--min-p", "0", "--seed", "1",
        ])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

#[test]
fn the_demo_compares_both_ways() {
    let ran = visipruner(&["demo", "-t", "1"]);
    assert_eq!((ran.code, ran.stderr.as_str()), (Some(0), ""));
    for part in ["1. ", "dense", "pruned", "rows per layer", "answers are the same"] {
        assert!(ran.stdout.contains(part), "{part:?} is not in\n{}", ran.stdout);
    }
    let ran = visipruner(&[
        "demo", "-t", "1", "--image", PICTURE, "-p", QUESTION, "--policy", "off",
    ]);
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    assert!(
        ran.stdout.contains("1 of 1 answers are the same"),
        "{}",
        ran.stdout
    );
    assert_error(&["demo", "--image", MODEL], &["not an image"]);
}

const QUESTIONS: [&str; 3] = [
    "What color is the star?",
    "Is there a red circle?",
    "How many shapes are there?",
];

/// Several questions: the picture is read once, and each answer is that of the question by itself.
#[test]
fn several_questions_about_a_picture() {
    let folder = Folder::new();
    let more = format!("{}\n\n{}\n", QUESTIONS[1], QUESTIONS[2]);
    let file = folder.file("more.txt", more.as_bytes());
    let report = folder.path("reports.jsonl").display().to_string();
    let ran = visipruner(&run_with(&[
        "--image",
        PICTURE,
        "-p",
        QUESTIONS[0],
        "--questions",
        &file,
        "--report",
        &report,
    ]));
    assert_eq!(ran.code, Some(0), "{}", ran.stderr);
    let alone = QUESTIONS.map(|question| visipruner(&run_with(&["--image", PICTURE, "-p", question])).stdout);
    assert_eq!(ran.stdout, alone.concat());

    let reports = std::fs::read_to_string(&report).expect("reports");
    let reports: Vec<Value> = reports.lines().map(checked).collect();
    assert_eq!(reports.len(), 3);
    let reused = |report: &Value| report["reused_rows"].as_u64().expect("a number");
    assert_eq!(reused(&reports[0]), 0);
    let span = &reports[0]["image_spans"][0];
    let end = span[0].as_u64().expect("a row") + span[1].as_u64().expect("rows");
    assert_eq!((reused(&reports[1]), reused(&reports[2])), (end, end));
    assert!(reports[1]["flops"]["computed"].as_u64() < reports[0]["flops"]["computed"].as_u64());

    let json = visipruner(&run_with(&["--image", PICTURE, "-p", "a", "-p", "b", "--json"]));
    assert_eq!(json.stdout.lines().map(checked).count(), 2, "{}", json.stderr);
}

#[test]
fn files_without_questions() {
    let folder = Folder::new();
    let file = folder.file("none.jsonl", b"{\"text\": 1}\n");
    assert_error(
        &run_with(&["--image", PICTURE, "--questions", &file]),
        &["none.jsonl", "line 1", "prompt"],
    );
    assert_error(
        &run_with(&["--image", PICTURE, "--questions", "no such file"]),
        &["no such file"],
    );
}

#[test]
fn a_hybrid_is_pruned_before_its_layers_only() {
    let folder = Folder::new();
    let [model, mmproj] = ["m.gguf", "mmproj.gguf"].map(|name| folder.path(name));
    let llm = RandomLlm::new(Arch::Lfm2, 7);
    llm.write(&model);
    RandomProjector::new(8, llm.n_embd()).write(&mmproj);
    let picture = folder.file("p.png", &png(40, 30));
    let of_model = [
        "-m",
        model.to_str().expect("text"),
        "--mmproj",
        mmproj.to_str().expect("text"),
    ];
    let info = visipruner(&[&["info"], &of_model[..]].concat());
    for part in [
        "before layer 0 only (divprune, random, uniform): the layers of lfm2 cannot",
        "off: choose one with --policy (divprune, random, uniform)",
    ] {
        assert!(info.stdout.contains(part), "{}", info.stdout);
    }
    let run = |more: &[&str]| {
        let run = [
            "run", "-t", "1", "--raw", "-p", "<image>x", "-n", "2", "--json", "--image", &picture,
        ];
        visipruner(&[&run[..], &of_model[..], more].concat())
    };
    let hint = "hint: nothing is pruned; the layers of lfm2 cannot be run in ranges, but --policy divprune";
    let dense = run(&[]);
    assert!(dense.stderr.starts_with(hint), "{}", dense.stderr);
    let pruned = run(&["--policy", "divprune", "--budget", "4"]);
    assert_eq!(pruned.code, Some(0), "{}", pruned.stderr);
    let [dense, pruned]: [Value; 2] =
        [dense, pruned].map(|ran| serde_json::from_str(&ran.stdout).expect("JSON"));
    let rows = |report: &Value| report["layers"][7]["rows"].as_u64().expect("a number");
    assert_eq!(rows(&dense) - rows(&pruned), 12);
    let refused = run(&["--policy", "divprune+vtw", "--exit-from", "4"]);
    assert_eq!(refused.code, Some(1));
    assert!(
        refused.stderr.contains("'lfm2' (some of its layers keep a state"),
        "{}",
        refused.stderr
    );
}

#[test]
fn info_says_which_pictures_a_projector_takes() {
    for (family, model, expected) in [
        ("gemma3", "gemma3", "pictures of 56 x 56 pixels in patches of 14"),
        ("qwen2vl", "qwen2vl", "pictures of any size in patches of 14"),
        (
            "pixtral",
            "pixtral",
            "pictures of any size up to 448 pixels a side",
        ),
        ("llava16", "llava15", "pictures in tiles of 56 x 56 pixels"),
        ("internvl", "internvl", "pictures in tiles of 56 x 56 pixels"),
    ] {
        let file = |folder: &str, name: &str| {
            format!(
                "{}/tests/transformers/fixtures/{folder}/{name}",
                env!("CARGO_MANIFEST_DIR")
            )
        };
        let (model, mmproj) = (file(model, "model.gguf"), file(family, "mmproj.gguf"));
        let ran = visipruner(&["info", "-m", &model, "--mmproj", &mmproj]);
        assert_eq!(ran.code, Some(0), "{}", ran.stderr);
        assert!(ran.stdout.contains(expected), "{family}: {}", ran.stdout);
    }
}
