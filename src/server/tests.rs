//! What becomes of requests, and of the server, if an engine's thread ends with an error of the program.

use std::time::{Duration, Instant};

use axum::body::{Body, to_bytes};
use axum::http::{Request as HttpRequest, StatusCode};
use axum::response::Response;
use futures_util::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::worker::{StopOnDrop, Update};
use super::*;
use crate::engine::{AnyPolicy, ModelOptions, ProjectorOptions, Prompt, Request, SessionOptions};
use crate::policy::{Policy, PolicyError, PromptLayout, StagePolicy};

pub(super) const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-llava-shapes-f16.gguf");

/// An error of the program.
struct Broken;

impl Policy for Broken {
    fn name(&self) -> String {
        String::from("broken")
    }

    fn cuts(&self, _n_layer: usize) -> Vec<usize> {
        panic!("this policy is broken")
    }

    fn build(&self, _n_layer: usize, _layout: &PromptLayout) -> Result<Box<dyn StagePolicy>, PolicyError> {
        panic!("this policy is broken")
    }
}

fn server() -> Server {
    let spec = ModelSpec {
        id: "tiny".to_owned(),
        model: MODEL.into(),
        projector: None,
        model_options: ModelOptions::default(),
        projector_options: ProjectorOptions::default(),
        session: SessionOptions {
            n_sequences: 4,
            ..SessionOptions::default()
        },
        chat_template: None,
    };
    Server::new(vec![spec], ServerOptions::default())
}

impl Server {
    async fn get(&self, path: &str) -> Response {
        let request = HttpRequest::get(path).body(Body::empty()).expect("is a request");
        self.router().oneshot(request).await.expect("answers")
    }

    async fn complete(&self, body: Value) -> Response {
        let request = HttpRequest::post("/v1/completions").body(Body::from(body.to_string()));
        self.router()
            .oneshot(request.expect("is a request"))
            .await
            .expect("answers")
    }
}

fn long(is_streamed: bool) -> Value {
    json!({"prompt": "once", "max_tokens": 1500, "ignore_eos": true, "stream": is_streamed})
}

async fn text(response: Response) -> String {
    let bytes = to_bytes(response.into_body(), 1 << 24).await.expect("ends");
    String::from_utf8(bytes.to_vec()).expect("is text")
}

/// Waits for something that other threads do.
async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < Duration::from_secs(60), "it is never so");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_ends_takes_its_requests_with_it_and_is_loaded_anew() {
    let server = server();
    server.load_first().await.expect("ships");
    let entry = Arc::clone(&server.0.models.all()[0]);
    let worker = server.0.models.ready(&entry).await.expect("is loaded");

    let streamed = server.complete(long(true)).await;
    assert_eq!(streamed.status(), StatusCode::OK);
    let mut streamed = streamed.into_body().into_data_stream();
    streamed.next().await.expect("has begun").expect("is sent");
    let asking = server.clone();
    let whole = tokio::spawn(async move { asking.complete(long(false)).await });
    until(async || {
        worker
            .slots()
            .iter()
            .filter(|slot| slot.request.is_some())
            .count()
            == 2
    })
    .await;

    let mut request = Request::new(Prompt::raw("twice"));
    request.policy = Some(AnyPolicy::own(Broken));
    let stop = StopOnDrop(request.cancel.clone());
    let room = server.0.room().expect("there is room");
    let mut broken = worker.ask(request, stop, room).await.expect("is taken");
    while let Some(update) = broken.next().await {
        assert!(matches!(update, Update::Reading { .. }), "{update:?}");
    }
    let mut rest = String::new();
    while let Some(chunk) = streamed.next().await {
        rest += &String::from_utf8_lossy(&chunk.expect("is sent"));
    }
    assert!(
        rest.trim_end().ends_with("}") && !rest.contains("[DONE]"),
        "{rest}"
    );
    let last = rest.trim_end().rsplit("data: ").next().expect("has events");
    let last: Value = serde_json::from_str(last).expect("is JSON");
    assert_eq!(
        (&last["error"]["message"], &last["error"]["type"]),
        (&json!("the engine has stopped"), &json!("server_error"))
    );
    let whole = whole.await.expect("answers");
    assert_eq!(whole.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(text(whole).await.contains("the engine has stopped"));

    until(async || entry.has_lost_its_engine()).await;
    assert_eq!(server.0.metrics.waiting.get(), 0);
    assert_eq!(
        server.get("/health").await.status(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    until(async || server.get("/health").await.status() == StatusCode::OK).await;
    let answer = server.complete(json!({"prompt": "once", "max_tokens": 2})).await;
    assert_eq!(answer.status(), StatusCode::OK, "{}", text(answer).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_loads_an_engine_anew_too() {
    let server = server();
    let entry = Arc::clone(&server.0.models.all()[0]);
    let worker = server.0.models.ready(&entry).await.expect("is loaded");
    let mut request = Request::new(Prompt::raw("once"));
    request.policy = Some(AnyPolicy::own(Broken));
    let stop = StopOnDrop(request.cancel.clone());
    let room = server.0.room().expect("there is room");
    let mut broken = worker.ask(request, stop, room).await.expect("is taken");
    while broken.next().await.is_some() {}
    until(async || entry.has_lost_its_engine()).await;
    let answer = server.complete(json!({"prompt": "once", "max_tokens": 2})).await;
    assert_eq!(answer.status(), StatusCode::OK, "{}", text(answer).await);
}
