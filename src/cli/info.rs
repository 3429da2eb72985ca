//! `visipruner info`: what a model is, whether it can be pruned, and what a picture costs.

use serde::Serialize;
use serde_json::{Value, json};
use visipruner::engine::Image;
use visipruner::gguf::{LlmShape, ProjectorShape, file_type_name};
use visipruner::policy::PolicyConfig;
use visipruner::policy::config::PolicyName;

use super::args::{ImageTokensArgs, InfoArgs, OutputArgs, PolicyArgs};
use super::error::Error;
use super::files::{ChosenPolicy, Files};
use super::image::{self, Background, ImageSource};
use super::terminal::Terminal;
use super::{output, units};

/// Bytes of a number in the KV cache, unless told otherwise (f16).
const KV_NUMBER_BYTES: u64 = 2;

/// A picture and what it costs.
#[derive(Serialize)]
struct Picture {
    path: String,
    width: u32,
    height: u32,
    n_tokens: usize,
}

/// Prints what the files say. Weights are loaded only where a picture's tokens cannot be told without.
///
/// # Errors
/// Files that are no models or do not belong together, a policy file that does not fit the model, and pictures that
/// cannot be read.
pub fn run(args: &InfoArgs) -> Result<(), Error> {
    let mut terminal = Terminal::new(&OutputArgs::default());
    let files = Files::open(&args.model, !args.images.is_empty(), &mut terminal)?;
    let policy = files.policy(&PolicyArgs::default())?;
    let pictures = pictures(args, &files)?;
    if args.json {
        output::print_json(&as_json(&files, &policy, &pictures))
    } else {
        output::print_lines(&as_lines(&files, &policy, &pictures))
    }
}

fn pictures(args: &InfoArgs, files: &Files) -> Result<Vec<Picture>, Error> {
    let sources = image::sources(&args.images)?;
    let images = image::read_all(&sources, Background::WHITE)?;
    let n_tokens = match files.n_tokens_per_image() {
        Some(n_tokens) => vec![n_tokens; images.len()],
        None if images.is_empty() => Vec::new(),
        None => n_tokens_by_size(files, &args.image_tokens, &images)?,
    };
    let picture = |((source, image), n_tokens): ((&ImageSource, &Image), usize)| Picture {
        path: source.to_string(),
        width: image.width(),
        height: image.height(),
        n_tokens,
    };
    Ok(sources.iter().zip(&images).zip(n_tokens).map(picture).collect())
}

/// Tokens of pictures whose size decides, asked of the projector itself.
#[cfg(feature = "native")]
fn n_tokens_by_size(files: &Files, tokens: &ImageTokensArgs, images: &[Image]) -> Result<Vec<usize>, Error> {
    use std::ops::ControlFlow;
    use visipruner::engine::{Model, ModelOptions, Projector, ProjectorOptions};

    let Some((projector, _)) = &files.projector else {
        return Ok(Vec::new());
    };
    let on_cpu = ModelOptions {
        n_gpu_layers: 0,
        ..ModelOptions::default()
    };
    let model = Model::load(files.model.0.path(), &on_cpu, |_| ControlFlow::Continue(()))?;
    let on_cpu = ProjectorOptions {
        use_gpu: false,
        image_min_tokens: tokens.image_min_tokens,
        image_max_tokens: tokens.image_max_tokens,
        ..ProjectorOptions::default()
    };
    let projector = Projector::load(projector.path(), &model, &on_cpu, |_| ControlFlow::Continue(()))?;
    let n_tokens = |image: &Image| Ok(projector.image_tokens(image.width(), image.height())?);
    images.iter().map(n_tokens).collect()
}

#[cfg(not(feature = "native"))]
fn n_tokens_by_size(_: &Files, _: &ImageTokensArgs, _: &[Image]) -> Result<Vec<usize>, Error> {
    Err(Error::NoEngine)
}

fn as_lines(files: &Files, policy: &ChosenPolicy, pictures: &[Picture]) -> Vec<String> {
    let llm = &files.model.1;
    let mut lines = vec![
        line("model", &model_name(files)),
        line("architecture", &llm.arch),
        line("layers", &llm.n_layer),
        line("heads", &heads(llm)),
        line("width", &width(llm)),
        line("context", &format!("{} tokens", llm.n_ctx_train)),
        line("weights", &units::count(llm.n_params)),
    ];
    match &files.projector {
        Some((gguf, shape)) => {
            let path = gguf.path().display();
            lines.push(line(
                "projector",
                &format!("{}, {path}", file_size(shape.file_type, shape.file_bytes)),
            ));
            lines.push(line("encoder", &encoder(shape)));
            lines.push(line("picture", &image_cost(files)));
        }
        None => lines.push(line("picture", &"unknown: give the projector with --mmproj")),
    }
    lines.extend(
        pictures
            .iter()
            .map(|picture| line("", &picture_cost(picture, &files.model.1))),
    );
    lines.push(line("pruning", &support(files)));
    lines.push(line("policy", &policy_in_words(policy, files)));
    lines
}

fn line(name: &str, value: &dyn std::fmt::Display) -> String {
    format!("{name:<13}{value}")
}

fn model_name(files: &Files) -> String {
    let (gguf, llm) = &files.model;
    let size = file_size(llm.file_type, llm.file_bytes);
    let path = gguf.path().display();
    match &llm.name {
        Some(name) => format!("{name}, {size}, {path}"),
        None => format!("{size}, {path}"),
    }
}

fn file_size(file_type: Option<u32>, n_bytes: u64) -> String {
    let quantization = file_type.and_then(file_type_name).unwrap_or("unknown format");
    format!("{quantization}, {}", units::bytes(n_bytes))
}

/// `32`, `28 (4 for keys and values)`, `8 to 16`
fn heads(llm: &LlmShape) -> String {
    let query = span(&llm.n_head);
    if llm.is_gqa() {
        format!("{query} ({} for keys and values)", span(&llm.n_head_kv))
    } else {
        query
    }
}

fn width(llm: &LlmShape) -> String {
    format!("{} ({} in the feed-forward layers)", llm.n_embd, span(&llm.n_ff))
}

fn span(of_layers: &[u32]) -> String {
    match (of_layers.iter().min(), of_layers.iter().max()) {
        (Some(min), Some(max)) if min < max => format!("{min} to {max}"),
        (_, max) => max.map_or_else(String::new, u32::to_string),
    }
}

fn encoder(shape: &ProjectorShape) -> String {
    format!(
        "{} layers, {} in patches of {}, projector type {}",
        shape.n_layer,
        sizes(shape),
        shape.patch_size,
        shape.projector_type
    )
}

/// The sizes that the encoder takes.
fn sizes(shape: &ProjectorShape) -> String {
    let side = shape.image_size;
    match (shape.n_tokens_per_image, shape.projector_type.as_str()) {
        (Some(_), _) => format!("pictures of {side} x {side} pixels"),
        (None, "pixtral") => format!("pictures of any size up to {side} pixels a side"),
        (None, "mlp" | "ldp" | "ldpv2" | "internvl" | "idefics3") => {
            format!("pictures in tiles of {side} x {side} pixels")
        }
        // what the file says is only what positions were interpolated from
        (None, projector_type) if projector_type.ends_with("_merger") => "pictures of any size".to_owned(),
        (None, _) => format!("pictures of {side} x {side} pixels, or several of them"),
    }
}

fn image_cost(files: &Files) -> String {
    match files.n_tokens_per_image() {
        Some(n_tokens) => format!(
            "{n_tokens} tokens, {} of KV cache (f16, without pruning)",
            units::bytes(n_tokens as u64 * kv_bytes_per_token(&files.model.1))
        ),
        None => format!(
            "as many tokens as its size asks for, each {} of KV cache (f16, without pruning)",
            units::bytes(kv_bytes_per_token(&files.model.1))
        ),
    }
}

fn picture_cost(picture: &Picture, llm: &LlmShape) -> String {
    let Picture {
        path,
        width,
        height,
        n_tokens,
    } = picture;
    let kv = units::bytes(*n_tokens as u64 * kv_bytes_per_token(llm));
    format!("{path} ({width} x {height} pixels): {n_tokens} tokens, {kv}")
}

fn kv_bytes_per_token(llm: &LlmShape) -> u64 {
    let n_head_kv: u64 = llm.n_head_kv.iter().map(|&n| u64::from(n)).sum();
    n_head_kv * u64::from(llm.head_dim_k + llm.head_dim_v) * KV_NUMBER_BYTES
}

fn support(files: &Files) -> String {
    match files.can_be_cut() {
        Some(true) => "supported".to_owned(),
        Some(false) => format!(
            "before layer 0 only ({}): the layers of {} cannot be run in ranges",
            before_model(", "),
            files.model.1.arch
        ),
        None => "unknown: this build has no engine".to_owned(),
    }
}

/// The policies that run on every model.
fn before_model(separator: &str) -> String {
    let policies = PolicyName::ALL.iter().filter(|policy| policy.acts_before_model());
    let names: Vec<String> = policies.map(ToString::to_string).collect();
    names.join(separator)
}

fn policy_in_words(policy: &ChosenPolicy, files: &Files) -> String {
    let resolved = &policy.resolved;
    let source = match (&policy.file, resolved.preset) {
        (Some(file), _) => format!("from {}", file.display()),
        (None, Some(preset)) => format!("preset {preset}"),
        (None, None) if files.projector.is_none() => {
            return "unknown: a preset needs the projector, give it with --mmproj".to_owned();
        }
        (None, None) if resolved.policy != PolicyConfig::Off => "as asked for".to_owned(),
        (None, None) if files.can_be_cut() == Some(false) => {
            return format!("off: choose one with --policy ({})", before_model(", "));
        }
        (None, None) => {
            return "off: there is no preset for this model; visipruner calibrate finds thresholds, or choose layers with \
                    --policy fixed"
                .to_owned();
        }
    };
    let name = resolved.policy.name();
    match resolved.policy.visipruner() {
        Some(config) => format!("{name}, {source}, stages {}", config.stages),
        None => format!("{name}, {source}"),
    }
}

fn as_json(files: &Files, policy: &ChosenPolicy, pictures: &[Picture]) -> Value {
    let (gguf, llm) = &files.model;
    json!({
        "model": {
            "path": gguf.path(),
            "name": llm.name,
            "arch": llm.arch,
            "file_type": llm.file_type.and_then(file_type_name),
            "file_bytes": llm.file_bytes,
            "n_params": llm.n_params,
            "n_layer": llm.n_layer,
            "n_embd": llm.n_embd,
            "n_head": llm.n_head,
            "n_head_kv": llm.n_head_kv,
            "n_ff": llm.n_ff,
            "n_vocab": llm.n_vocab,
            "n_ctx_train": llm.n_ctx_train,
            "kv_bytes_per_token": kv_bytes_per_token(llm),
        },
        "projector": files.projector.as_ref().map(|(gguf, shape)| json!({
            "path": gguf.path(),
            "projector_type": shape.projector_type,
            "file_type": shape.file_type.and_then(file_type_name),
            "file_bytes": shape.file_bytes,
            "n_params": shape.n_params,
            "n_layer": shape.n_layer,
            "image_size": shape.image_size,
            "patch_size": shape.patch_size,
            "n_tokens_per_image": shape.n_tokens_per_image,
        })),
        "images": pictures,
        "pruning_supported": files.can_be_cut(),
        "preset": policy.resolved.preset,
        "policy_file": policy.file,
        "policy": policy.resolved.policy,
    })
}
