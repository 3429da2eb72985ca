//! Without a policy nothing changes: tokens and logits equal, bit by bit, those of an unpatched llama.cpp that is built
//! from the same source with the same options (`tests/stock/build.sh`, which this test runs).
#![cfg(feature = "native")]

mod common;

use std::ops::ControlFlow::Continue;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use common::random_model::{Arch, RandomLlm, RandomProjector};
use common::rng::Rng;
use visipruner::engine::{
    FlashAttention, IMAGE_MARKERS, Image, KvType, Model, ModelOptions, Part, Projector, ProjectorOptions,
    Prompt, Request, Session, SessionOptions, VisionEncoder,
};
use visipruner::gguf::GgmlType;
#[cfg(feature = "cli")]
use visipruner::report::RunReport;

const N_CTX: u32 = 1024;
const N_PREDICT: u32 = 24;
const N_THREADS: u32 = 2;

/// The program that runs a model on the unpatched library.
fn stock_eval() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let status = Command::new(root.join("tests/stock/build.sh")).status();
        assert!(status.expect("a shell").success(), "tests/stock/build.sh failed");
        root.join("target/stock/stock-eval")
    })
}

/// What both are asked to do.
struct Case {
    arch: Arch,
    ty: GgmlType,
    n_images: usize,
    flash_attn: FlashAttention,
    kv: KvType,
    n_ubatch: u32,
}

impl Case {
    fn new(arch: Arch) -> Self {
        Case {
            arch,
            ty: GgmlType::F16,
            n_images: 1,
            flash_attn: FlashAttention::Off,
            kv: KvType::F16,
            n_ubatch: 512,
        }
    }

    fn name(&self) -> String {
        let Case {
            arch,
            ty,
            n_images,
            flash_attn,
            kv,
            n_ubatch,
        } = self;
        let ty = ty.name();
        format!("{arch:?} {ty}, {n_images} images, flash attention {flash_attn:?}, KV {kv}, -ub {n_ubatch}")
    }

    fn prompt(&self) -> String {
        format!(
            "Look at this:{} What do you see? It is",
            " <__media__> and".repeat(self.n_images)
        )
    }
}

/// What comes out.
#[derive(Debug, PartialEq)]
struct Answer {
    prompt: Vec<i32>,
    generated: Vec<i32>,
    /// as bits, for 0.0 and -0.0 differ
    logits: Vec<u32>,
}

struct Files {
    folder: tempfile::TempDir,
    images: Vec<Image>,
}

impl Files {
    fn new(case: &Case) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let llm = RandomLlm {
            ty: case.ty,
            ..RandomLlm::new(case.arch, 21)
        };
        llm.write(folder.path().join("model.gguf"));
        let projector = match case.arch {
            Arch::Qwen2Vl => RandomProjector::qwen2vl(22, llm.n_embd()),
            _ => RandomProjector::new(22, llm.n_embd()),
        };
        let projector = RandomProjector {
            ty: case.ty,
            ..projector
        };
        projector.write(folder.path().join("mmproj.gguf"));

        let mut rng = Rng::new(23);
        let images: Vec<Image> = (0..case.n_images).map(|_| noise(41, 30, &mut rng)).collect();
        for (i, image) in images.iter().enumerate() {
            let header = format!("P6\n{} {}\n255\n", image.width(), image.height());
            let ppm = [header.as_bytes(), image.data()].concat();
            std::fs::write(folder.path().join(format!("{i}.ppm")), ppm).unwrap();
        }
        Files { folder, images }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

fn noise(width: u32, height: u32, rng: &mut Rng) -> Image {
    let data = (0..width * height * 3)
        .map(|_| (rng.uniform() * 256.0) as u8)
        .collect();
    Image::from_rgb8(width, height, data).unwrap()
}

fn ours(case: &Case, files: &Files, encoder: VisionEncoder) -> Answer {
    let model = Model::load(files.path("model.gguf"), &ModelOptions::default(), |_| {
        Continue(())
    })
    .unwrap();
    let options = ProjectorOptions {
        n_threads: Some(N_THREADS),
        flash_attn: case.flash_attn,
        encoder,
        ..ProjectorOptions::default()
    };
    let mut projector =
        Projector::load(files.path("mmproj.gguf"), &model, &options, |_| Continue(())).unwrap();
    let options = SessionOptions {
        n_ctx: Some(N_CTX),
        n_ubatch: case.n_ubatch,
        n_threads: Some(N_THREADS),
        flash_attn: case.flash_attn,
        type_k: case.kv,
        type_v: case.kv,
        ..SessionOptions::default()
    };
    let request = Request {
        images: files.images.clone(),
        n_predict: N_PREDICT as usize,
        report_logits: true,
        ..Request::new(Prompt::Raw(Part::split(&case.prompt(), &IMAGE_MARKERS)))
    };
    let mut session = Session::new(&model, options).unwrap();
    let outcome = session
        .generate(Some(&mut projector), &request, |_| Continue(()))
        .unwrap();
    Answer {
        prompt: outcome.report.token_ids,
        generated: outcome.report.generated,
        logits: outcome
            .report
            .logits
            .unwrap()
            .into_iter()
            .map(f32::to_bits)
            .collect(),
    }
}

fn stock(case: &Case, files: &Files) -> Answer {
    let flash_attn = case.flash_attn.to_string();
    let mut command = Command::new(stock_eval());
    command
        .arg("-m")
        .arg(files.path("model.gguf"))
        .arg("--mmproj")
        .arg(files.path("mmproj.gguf"));
    for i in 0..case.n_images {
        command.arg("--image").arg(files.path(&format!("{i}.ppm")));
    }
    command.args([
        "-p",
        &case.prompt(),
        "-fa",
        &flash_attn,
        "-ctk",
        case.kv.name(),
        "-ctv",
        case.kv.name(),
    ]);
    for (flag, n) in [
        ("-n", N_PREDICT),
        ("-c", N_CTX),
        ("-ub", case.n_ubatch),
        ("-t", N_THREADS),
    ] {
        command.arg(flag).arg(n.to_string());
    }
    let output = command.arg("-o").arg(files.path("logits")).output().unwrap();
    assert!(
        output.status.success(),
        "{}: {}",
        case.name(),
        String::from_utf8_lossy(&output.stderr)
    );

    let text = String::from_utf8(output.stdout).unwrap();
    let tokens = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.split_whitespace().map(|id| id.parse().unwrap()).collect()
    };
    let logits = std::fs::read(files.path("logits")).unwrap();
    let logits = logits
        .chunks_exact(4)
        .map(|bytes| u32::from_ne_bytes(bytes.try_into().unwrap()));
    Answer {
        prompt: tokens("prompt"),
        generated: tokens("generated"),
        logits: logits.collect(),
    }
}

fn assert_same(case: &Case) {
    let files = Files::new(case);
    let (ours, stock) = (ours(case, &files, VisionEncoder::Upstream), stock(case, &files));
    assert!(
        stock.generated.len() > 1 && !stock.logits.is_empty(),
        "{}: {stock:?}",
        case.name()
    );
    assert!(
        ours == stock,
        "{}: {:?} and {:?}",
        case.name(),
        ours.generated,
        stock.generated
    );
}

#[test]
fn every_architecture() {
    for arch in Arch::ALL {
        assert_same(&Case::new(arch));
    }
}

#[test]
fn flash_attention_and_kv_types() {
    for (flash_attn, kv) in [
        (FlashAttention::On, KvType::F16),
        (FlashAttention::Auto, KvType::F16),
        (FlashAttention::On, KvType::Q8_0),
        (FlashAttention::Off, KvType::F32),
    ] {
        assert_same(&Case {
            flash_attn,
            kv,
            ..Case::new(Arch::Llama)
        });
    }
}

#[test]
fn quantized_weights() {
    for flash_attn in [FlashAttention::On, FlashAttention::Off] {
        assert_same(&Case {
            ty: GgmlType::Q8_0,
            flash_attn,
            ..Case::new(Arch::Llama)
        });
    }
}

#[test]
fn several_images_and_small_batches() {
    for n_images in [0, 1, 3] {
        assert_same(&Case {
            n_images,
            n_ubatch: 8,
            ..Case::new(Arch::Llama)
        });
    }
}

/// The same through the command line, as a user would ask for stock's behaviour.
#[cfg(feature = "cli")]
#[test]
fn the_command_line() {
    let case = Case::new(Arch::Llama);
    let files = Files::new(&case);
    let png = files.path("0.png");
    let image = &files.images[0];
    image::save_buffer(
        &png,
        image.data(),
        image.width(),
        image.height(),
        image::ExtendedColorType::Rgb8,
    )
    .unwrap();
    let flags = [
        "run",
        "--raw",
        "-fa",
        "off",
        "--policy",
        "off",
        "--vision-encoder",
        "upstream",
        "--json",
        "--report-logits",
    ];
    let output = Command::new(env!("CARGO_BIN_EXE_visipruner"))
        .args(flags)
        .args([
            "-n",
            &N_PREDICT.to_string(),
            "-c",
            &N_CTX.to_string(),
            "-t",
            &N_THREADS.to_string(),
        ])
        .args(["-p", &case.prompt(), "-m"])
        .arg(files.path("model.gguf"))
        .arg("--mmproj")
        .arg(files.path("mmproj.gguf"))
        .arg("--image")
        .arg(png)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let report: RunReport = serde_json::from_slice(&output.stdout).unwrap();
    let bits = report.logits.unwrap().into_iter().map(f32::to_bits).collect();
    let ours = Answer {
        prompt: report.token_ids,
        generated: report.generated,
        logits: bits,
    };
    assert!(ours == stock(&case, &files), "{:?}", ours.generated);
}

/// The comparison would notice: with LLaVA's own encoder the logits are others.
#[test]
fn the_other_vision_encoder_differs() {
    let case = Case::new(Arch::Llama);
    let files = Files::new(&case);
    let (ours, stock) = (
        ours(&case, &files, VisionEncoder::Reference),
        stock(&case, &files),
    );
    assert_eq!(ours.prompt, stock.prompt);
    assert_ne!(ours.logits, stock.logits);
}
