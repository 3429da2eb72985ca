//! `visipruner serve`: answers over HTTP.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum_server::Handle;
use visipruner::engine::SessionOptions;
use visipruner::server::{ModelSpec, Server, ServerOptions};

use super::answer::show_log;
use super::args::{ServeArgs, ServedArgs};
use super::error::Error;
use super::files::{self, Files};
use super::paths::{self, Paths};
use super::run::{
    chat_template, model_options, projector_options, sampling, say_about_policy, session_options,
};
use super::terminal::Terminal;

/// Pictures and conversations that are remembered: as many as fit a screen of tabs.
const N_PREFIXES: u32 = 32;
/// Encoded pictures that are kept, in bytes.
const PICTURE_CACHE_BYTES: usize = 512 << 20;

/// Serves models until a signal ends it.
///
/// # Errors
/// Flags and files that cannot be used, and an address that cannot be listened at.
pub fn run(args: ServeArgs) -> Result<(), Error> {
    let mut terminal = Terminal::new(&args.output);
    show_log(args.output.verbose);
    let specs = specs(&args, &mut terminal)?;
    let options = server_options(&args)?;
    let address = SocketAddr::new(args.server.host, args.server.port);
    let listening = |source| Error::Listen { address, source };
    let listener = TcpListener::bind(address).map_err(listening)?;
    listener.set_nonblocking(true).map_err(listening)?;
    let address = listener.local_addr().map_err(listening)?;
    if !address.ip().is_loopback() && options.api_keys.is_empty() {
        terminal
            .warn("anybody who reaches this machine can ask: --api-key lets only those in who have the key");
    }
    terminal.say(format_args!("listening at http://{address}"));
    let runtime = tokio::runtime::Runtime::new().map_err(listening)?;
    let timeout = Duration::from_secs(args.server.timeout);
    runtime.block_on(serve(listener, specs, options, timeout, &mut terminal))
}

async fn serve(
    listener: TcpListener,
    specs: Vec<ModelSpec>,
    options: ServerOptions,
    timeout: Duration,
    terminal: &mut Terminal,
) -> Result<(), Error> {
    let address = listener
        .local_addr()
        .unwrap_or_else(|_| ([127, 0, 0, 1], 0).into());
    let listening = |source| Error::Listen { address, source };
    let is_one = specs.len() == 1;
    let server = Server::new(specs, options);
    let handle = Handle::new();
    let mut http = axum_server::from_tcp(listener)
        .map_err(listening)?
        .handle(handle.clone())
        .http1_only(); // of HTTP/2 no head has a limit
    http.http_builder()
        .http1()
        .timer(hyper_util::rt::TokioTimer::new())
        .header_read_timeout(timeout);
    let serving = tokio::spawn(http.serve(server.router().into_make_service()));
    if is_one {
        let loading = server.load_first();
        tokio::select! {
            loaded = loading => loaded.map_err(|reason| Error::Load { reason })?,
            () = asked_to_end() => return Ok(()),
        }
        terminal.say("the model is loaded");
    }
    asked_to_end().await;
    terminal.say("ending with the requests at work; another signal ends at once");
    handle.graceful_shutdown(None);
    tokio::select! {
        served = serving => served.map_err(|error| listening(error.into()))?.map_err(listening),
        () = asked_to_end() => Ok(()),
    }
}

/// Until Ctrl-C, or a signal that asks for the end.
async fn asked_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminated) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminated.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await; // without signals there is nothing to wait for
}

fn server_options(args: &ServeArgs) -> Result<ServerOptions, Error> {
    let mut api_keys = args.server.api_key.clone();
    if let Some(path) = &args.server.api_key_file {
        let text = files::read_text(path).map_err(|source| Error::ReadKeys {
            path: path.clone(),
            source,
        })?;
        api_keys.extend(
            text.lines()
                .map(str::trim)
                .filter(|line| !line.is_empty())
                .map(str::to_owned),
        );
    }
    Ok(ServerOptions {
        api_keys,
        max_waiting: args.server.max_waiting,
        max_loaded: args.model.models_max as usize,
        body_timeout: Duration::from_secs(args.server.timeout),
        fetches_media: args.server.allow_media_url,
        media_folder: args.server.media_path.clone(),
        n_predict: usize::try_from(args.sampling.n_predict).ok(),
        sampling: sampling(&args.sampling),
        background: args.compute.pictures.background,
        cors_origins: args.server.cors_origin.clone(),
        ..ServerOptions::default()
    })
}

/// The models that are served, each checked as far as it can be without its weights.
fn specs(args: &ServeArgs, terminal: &mut Terminal) -> Result<Vec<ModelSpec>, Error> {
    let found = match &args.model.models_dir {
        Some(folder) => models_in(folder)?,
        None => vec![the_model(&args.model, terminal)?],
    };
    found
        .into_iter()
        .map(|(id, paths)| spec(id, paths, args, terminal))
        .collect()
}

fn the_model(args: &ServedArgs, terminal: &mut Terminal) -> Result<(String, Paths), Error> {
    let paths = paths::find(&args.files, terminal)?;
    let own = args.files.hf_repo.clone().unwrap_or_else(|| stem(&paths.model));
    Ok((args.alias.clone().unwrap_or(own), paths))
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn spec(id: String, paths: Paths, args: &ServeArgs, terminal: &mut Terminal) -> Result<ModelSpec, Error> {
    let files = Files::read(paths)?;
    let policy = files.policy(&args.policy)?;
    if files.projector.is_some() {
        say_about_policy(&policy, &files, terminal);
    }
    let session = SessionOptions {
        n_sequences: args.server.parallel,
        n_prefixes: N_PREFIXES,
        max_prefix_bytes: u64::try_from(args.server.cache_ram).ok().map(|mib| mib << 20),
        ..session_options(&args.compute, files.model.1.n_ctx_train, &policy.resolved.policy)
    };
    session.validate()?;
    let mut projector = projector_options(&args.compute);
    projector.validate()?;
    projector.cache_bytes = PICTURE_CACHE_BYTES;
    Ok(ModelSpec {
        id,
        model: files.model_path().to_owned(),
        projector: files.projector_path().map(Path::to_owned),
        model_options: model_options(&args.compute)?,
        projector_options: projector,
        session,
        chat_template: args.model.chat_template.clone().map(chat_template).transpose()?,
    })
}

/// The models of a folder, by name: files, and folders with a model and its projector.
fn models_in(folder: &Path) -> Result<Vec<(String, Paths)>, Error> {
    let mut found = Vec::new();
    let entries = entries(folder)?;
    for path in &entries {
        if path.is_dir() {
            let inside = self::entries(path)?;
            if let Some(model) = inside.iter().find(|path| is_model(path)) {
                let projector = inside.iter().find(|path| is_projector(path));
                found.push((name_of(path), Paths::new(model.clone(), projector.cloned())));
            }
        } else if is_model(path) {
            let name = stem(path);
            let projector = entries
                .iter()
                .find(|other| is_projector(other) && is_named_after(other, &name));
            found.push((name, Paths::new(path.clone(), projector.cloned())));
        }
    }
    if found.is_empty() {
        return Err(Error::NoModels {
            folder: folder.to_owned(),
        });
    }
    Ok(found)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let unreadable = |source| Error::ReadFolder {
        folder: folder.to_owned(),
        source,
    };
    let entries = std::fs::read_dir(folder).map_err(unreadable)?;
    let mut paths: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    paths.sort();
    Ok(paths)
}

fn name_of(folder: &Path) -> String {
    folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// The file of a model, or the first part of one that is split.
fn is_model(path: &Path) -> bool {
    let name = stem(path);
    let is_later_part = name
        .rsplit_once("-of-")
        .is_some_and(|(before, _)| !before.ends_with("-00001") && has_number(before));
    is_gguf(path) && !name.contains("mmproj") && !is_later_part
}

fn has_number(name: &str) -> bool {
    name.rsplit_once('-')
        .is_some_and(|(_, number)| number.len() == 5 && number.bytes().all(|byte| byte.is_ascii_digit()))
}

fn is_projector(path: &Path) -> bool {
    is_gguf(path) && stem(path).contains("mmproj")
}

fn is_gguf(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "gguf")
}

/// Whether a projector is called after a model: its name without what says how each was quantized.
fn is_named_after(projector: &Path, model: &str) -> bool {
    let name = stem(projector);
    let bare = name.replace("-mmproj", "").replace("mmproj-", "");
    let bare = without_type(&bare);
    bare == without_type(model)
}

fn without_type(name: &str) -> &str {
    match name.rsplit_once(['-', '.']) {
        Some((bare, ty)) if is_type(ty) => bare,
        _ => name,
    }
}

fn is_type(word: &str) -> bool {
    let word = word.to_ascii_lowercase();
    let number = word.strip_prefix("iq").or_else(|| word.strip_prefix('q'));
    ["f16", "f32", "bf16"].contains(&word.as_str())
        || number.is_some_and(|rest| rest.starts_with(|first: char| first.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn models_of_a_folder_find_their_projectors() {
        let folder = tempfile::tempdir().expect("a folder");
        let names = [
            "a-Q4_K_M.gguf",
            "a-mmproj-f16.gguf",
            "mmproj-b.gguf",
            "b.gguf",
            "c-00001-of-00002.gguf",
            "c-00002-of-00002.gguf",
            "notes.txt",
        ];
        for name in names {
            std::fs::write(folder.path().join(name), "").expect("writes");
        }
        let inside = folder.path().join("d");
        std::fs::create_dir(&inside).expect("a folder");
        for name in ["weights.gguf", "mmproj.gguf"] {
            std::fs::write(inside.join(name), "").expect("writes");
        }
        let file = |path: &Path| path.file_name().expect("a name").to_string_lossy().into_owned();
        let found: Vec<(String, String, Option<String>)> = models_in(folder.path())
            .expect("there are models")
            .into_iter()
            .map(|(id, paths)| (id, file(&paths.model), paths.projector.as_deref().map(file)))
            .collect();
        let expected = [
            ("a-Q4_K_M", "a-Q4_K_M.gguf", Some("a-mmproj-f16.gguf")),
            ("b", "b.gguf", Some("mmproj-b.gguf")),
            ("c-00001-of-00002", "c-00001-of-00002.gguf", None),
            ("d", "weights.gguf", Some("mmproj.gguf")),
        ];
        let expected = expected
            .map(|(id, model, projector)| (id.to_owned(), model.to_owned(), projector.map(str::to_owned)));
        assert_eq!(found, expected);
        assert!(models_in(&folder.path().join("nothing")).is_err());
    }
}
