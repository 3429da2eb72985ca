//! `visipruner serve`: answers over HTTP.

mod connections;
mod folder;
mod preset;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use axum_server::Handle;
use visipruner::engine::SessionOptions;
use visipruner::server::{ModelSpec, Server, ServerOptions};

use super::answer::{show_log, warn_without_gpu};
use super::args::{EachArgs, ServeArgs, ServedArgs};
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
    if let Some(first) = specs.first() {
        warn_without_gpu(&first.model_options, &mut terminal);
    }
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
    let http = connections::server(listener, handle.clone(), timeout).map_err(listening)?;
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
        background: args.each.compute.pictures.background,
        cors_origins: args.server.cors_origin.clone(),
        ..ServerOptions::default()
    })
}

/// A model that is to be served, and the flags that hold for it.
struct Served {
    id: String,
    paths: Paths,
    each: EachArgs,
}

/// The models that are served, each checked as far as it can be without its weights.
fn specs(args: &ServeArgs, terminal: &mut Terminal) -> Result<Vec<ModelSpec>, Error> {
    let preset = args.model.models_preset.as_deref();
    let models = match (&args.model.models_dir, preset) {
        (Some(folder), _) => folder::models_in(folder)?,
        (None, Some(_)) => Vec::new(),
        (None, None) => vec![the_model(&args.model, terminal)?],
    };
    let Some(path) = preset else {
        let models = models.into_iter().map(|(id, paths)| Served {
            id,
            paths,
            each: args.each.clone(),
        });
        return models.map(|served| spec(served, terminal)).collect();
    };
    let given = preset::Given {
        models,
        hub: &args.model.files.hub,
        each: &args.each,
    };
    let models = preset::models(path, given, terminal)?;
    let of_preset = |served: Served| {
        let model = served.id.clone();
        spec(served, terminal).map_err(|source| Error::Preset {
            path: path.to_owned(),
            model,
            source: Box::new(source),
        })
    };
    models.into_iter().map(of_preset).collect()
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

fn spec(served: Served, terminal: &mut Terminal) -> Result<ModelSpec, Error> {
    let Served { id, paths, each } = served;
    let files = Files::read(paths)?;
    let policy = files.policy(&each.policy)?;
    if files.projector.is_some() {
        say_about_policy(&policy, &files, terminal);
    }
    let session = SessionOptions {
        n_sequences: each.parallel,
        n_prefixes: N_PREFIXES,
        max_prefix_bytes: u64::try_from(each.cache_ram).ok().map(|mib| mib << 20),
        ..session_options(&each.compute, files.model.1.n_ctx_train, &policy.resolved.policy)
    };
    session.validate()?;
    let mut projector = projector_options(&each.compute);
    projector.validate()?;
    projector.cache_bytes = PICTURE_CACHE_BYTES;
    Ok(ModelSpec {
        id,
        model: files.model_path().to_owned(),
        projector: files.projector_path().map(Path::to_owned),
        model_options: model_options(&each.compute)?,
        projector_options: projector,
        session,
        chat_template: each.chat_template.map(chat_template).transpose()?,
    })
}
