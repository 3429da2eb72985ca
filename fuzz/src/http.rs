//! Requests over HTTP. The input: a byte that says where to, then the body. No request is answered with an error of the
//! program's own.

use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::http::{Request, header};
use tokio::runtime::{Builder, Runtime};
use tower::ServiceExt as _;
use visipruner::engine::{ModelOptions, ProjectorOptions, SessionOptions};
use visipruner::server::{ModelSpec, Server, ServerOptions};

use super::folder;

const PATHS: [&str; 6] = [
    "/v1/chat/completions/input_tokens",
    "/apply-template",
    "/tokenize",
    "/detokenize",
    "/v1/chat/completions",
    "/v1/completions",
];

/// Rows of the context: answers end there.
const N_CTX: u32 = 128;

/// No request takes longer.
const PATIENCE: Duration = Duration::from_secs(60);

pub fn check(data: &[u8]) {
    let Some((&which, body)) = data.split_first() else {
        return;
    };
    let (runtime, router) = server();
    let request = Request::post(PATHS[usize::from(which) % PATHS.len()])
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_vec()))
        .expect("a request");
    let answered = runtime.block_on(async {
        let asking = async {
            let response = router.clone().oneshot(request).await.expect("an answer");
            let status = response.status();
            (
                status,
                to_bytes(response.into_body(), usize::MAX).await.expect("its end"),
            )
        };
        tokio::time::timeout(PATIENCE, asking)
            .await
            .expect("an answer in time")
    });
    let (status, body) = answered;
    let text = String::from_utf8_lossy(&body);
    assert!(status.as_u16() != 500, "{status}: {text}");
    assert!(!text.contains("an error of the program"), "{text}");
}

fn server() -> &'static (Runtime, Router) {
    static SERVER: OnceLock<(Runtime, Router)> = OnceLock::new();
    SERVER.get_or_init(|| {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        let models = folder::models();
        let spec = ModelSpec {
            id: "tiny".to_owned(),
            model: models.join("tiny-llava-shapes-f16.gguf"),
            projector: Some(models.join("tiny-llava-shapes-mmproj-f16.gguf")),
            model_options: ModelOptions::default(),
            projector_options: ProjectorOptions {
                n_threads: Some(1),
                ..ProjectorOptions::default()
            },
            session: SessionOptions {
                n_ctx: Some(N_CTX),
                n_threads: Some(1),
                ..SessionOptions::default()
            },
            chat_template: None,
        };
        let server = Server::new(vec![spec], ServerOptions::default());
        runtime
            .block_on(server.load_first())
            .expect("the model that ships");
        (runtime, server.router())
    })
}
