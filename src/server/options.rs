//! What a server is set up with.

use std::path::PathBuf;
use std::time::Duration;

use crate::engine::{ModelOptions, ProjectorOptions, Sampling, SessionOptions};

/// A model that a server has, loaded when it is first asked.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// What requests call it. The part behind a colon, if any, is no policy.
    pub id: String,
    /// The language model's file.
    pub model: PathBuf,
    /// The projector's file; without it the model sees no pictures.
    pub projector: Option<PathBuf>,
    /// How the model is loaded.
    pub model_options: ModelOptions,
    /// How the projector is loaded. Encoded pictures are kept in its cache.
    pub projector_options: ProjectorOptions,
    /// How its cache is set up, with the policy of requests that name none. `n_sequences` requests are answered at a time.
    /// Unless cuts are set, it is cut before every layer where the model can be cut: requests may name other policies.
    pub session: SessionOptions,
    /// A chat template in Jinja instead of the model's own.
    pub chat_template: Option<String>,
}

/// What a server allows.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Keys of which requests must bring one; without any, everybody is answered.
    pub api_keys: Vec<String>,
    /// Requests that may wait or be on their way, beside those that are answered. Default: 64.
    pub max_waiting: usize,
    /// Models that are loaded at a time. Default: 1.
    pub max_loaded: usize,
    /// Largest body of a request, in bytes. Default: 64 MiB.
    pub max_body_bytes: usize,
    /// How long the body of a request may take. Default: a minute.
    pub body_timeout: Duration,
    /// Pictures are fetched from http and https addresses. Default: no.
    pub fetches_media: bool,
    /// Pictures are read from files in this folder (`file://` addresses below it). Default: none are.
    pub media_folder: Option<PathBuf>,
    /// How tokens are chosen where requests do not say. Default: llama.cpp's, with a temperature of 0.8.
    pub sampling: Sampling,
    /// Tokens of an answer that sets no limit. Default: as many as the context holds.
    pub n_predict: Option<usize>,
    /// What shows through where a picture is transparent. Default: white.
    pub background: crate::picture::Background,
    /// Origins whose pages may ask; `*` for all. Default: none but the server's own.
    pub cors_origins: Vec<String>,
    /// Comments are sent while a streamed answer makes others wait, so that nothing closes the connection. Default: every
    /// 15 seconds.
    pub ping: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            max_waiting: 64,
            max_loaded: 1,
            max_body_bytes: 64 << 20,
            body_timeout: Duration::from_secs(60),
            fetches_media: false,
            media_folder: None,
            sampling: Sampling {
                temp: 0.8,
                ..Sampling::default()
            },
            n_predict: None,
            background: crate::picture::Background::WHITE,
            cors_origins: Vec::new(),
            ping: Duration::from_secs(15),
        }
    }
}
