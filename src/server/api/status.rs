//! What the server has and is at.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::ApiError;
use crate::server::App;
use crate::server::models::{Entry, Loading};
use crate::server::options::ServerOptions;

/// `GET /health`: 200 if requests are answered, 503 while the only model is being loaded. Who waits for it to be well sends
/// nothing else: a model that has lost its engine is therefore loaded anew.
pub(super) async fn health(State(app): State<Arc<App>>) -> Response {
    if let Some(entry) = app.models.only().filter(|entry| entry.has_lost_its_engine()) {
        let (app, entry) = (Arc::clone(&app), Arc::clone(entry));
        tokio::spawn(async move { app.models.ready(&entry).await.map(drop) });
    }
    match app.models.only().map(|entry| entry.loading()) {
        None | Some(Loading::Ready) => Json(json!({"status": "ok"})).into_response(),
        Some(Loading::Failed(reason)) => ApiError::engine(&reason).into_response(),
        Some(Loading::NotYet) => loading(0.0),
        Some(Loading::Progress(progress)) => loading(progress),
    }
}

fn loading(progress: f32) -> Response {
    let mut body = ApiError::loading().body();
    body["progress"] = json!(progress);
    (
        StatusCode::SERVICE_UNAVAILABLE,
        [(header::RETRY_AFTER, "1")],
        Json(body),
    )
        .into_response()
}

/// `GET /v1/models`
pub(super) async fn models(State(app): State<Arc<App>>) -> Json<Value> {
    let data: Vec<Value> = app.models.all().iter().map(|entry| model(entry)).collect();
    Json(json!({"object": "list", "data": data}))
}

/// `GET /v1/models/{id}`
pub(super) async fn one_model(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let entry = app.models.all().iter().find(|entry| entry.spec.id == id);
    let entry = entry.ok_or_else(|| ApiError::no_model(&id))?;
    Ok(Json(model(entry)))
}

fn model(entry: &Entry) -> Value {
    let modalities: &[&str] = if entry.spec.projector.is_some() {
        &["text", "image"]
    } else {
        &["text"]
    };
    let status = match entry.loading() {
        Loading::Ready => "loaded",
        Loading::Progress(_) => "loading",
        Loading::NotYet => "unloaded",
        Loading::Failed(_) => "failed",
    };
    let mut object = json!({
        "id": entry.spec.id,
        "object": "model",
        "created": 0,
        "owned_by": "visipruner",
        "architecture": {"input_modalities": modalities, "output_modalities": ["text"]},
        "status": {"value": status},
    });
    if let Some(worker) = entry.worker() {
        let model = worker.model();
        object["meta"] = json!({
            "n_vocab": model.n_vocab(),
            "n_params": model.n_params(),
            "size": model.size_bytes(),
            "n_layer": model.n_layer(),
            "n_ctx": worker.n_ctx(),
            "can_be_pruned": model.supports_pruning().is_ok(),
        });
    }
    object
}

/// `GET /metrics`
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], app.metrics.text()).into_response()
}

/// `GET /props`
pub(super) async fn props(
    State(app): State<Arc<App>>,
    Query(of): Query<Of>,
) -> Result<Json<Value>, ApiError> {
    let loaded = match &of.model {
        Some(name) => {
            let entry = app.models.find(Some(name))?.entry;
            entry.worker().map(|worker| (entry, worker))
        }
        None => app.models.in_use(),
    };
    let mut object = json!({
        "build_info": concat!("visipruner ", env!("CARGO_PKG_VERSION")),
        "n_predict": app.options.n_predict,
        "max_waiting": app.options.max_waiting,
    });
    if let Some((entry, worker)) = loaded {
        object["default_generation_settings"] = json!({
            "n_ctx": worker.n_ctx(),
            "params": params(&app.options),
        });
        object["model_alias"] = json!(entry.spec.id);
        object["model_path"] = json!(entry.spec.model);
        object["total_slots"] = json!(worker.slots().len());
        object["n_ctx"] = json!(worker.n_ctx());
        object["modalities"] = json!({"vision": worker.sees_pictures(), "audio": false});
        object["chat_template"] = json!(
            entry
                .spec
                .chat_template
                .clone()
                .or_else(|| worker.model().chat_template())
        );
        object["policy"] = json!(entry.spec.session.policy);
    }
    Ok(Json(object))
}

/// How tokens are chosen where requests do not say, named as llama-server does.
fn params(options: &ServerOptions) -> Value {
    let sampling = &options.sampling;
    let n_predict = options.n_predict.map_or(json!(-1), |n_predict| json!(n_predict));
    json!({
        "seed": sampling.seed.map_or(json!(-1), |seed| json!(seed)),
        "temperature": sampling.temp,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p,
        "repeat_last_n": sampling.repeat_last_n,
        "repeat_penalty": sampling.repeat_penalty,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
        "max_tokens": n_predict,
        "n_predict": n_predict,
    })
}

/// Which model is meant; without, the one used last.
#[derive(Debug, Deserialize)]
pub(super) struct Of {
    model: Option<String>,
}

/// `GET /slots`
pub(super) async fn slots(State(app): State<Arc<App>>) -> Json<Value> {
    let workers = app
        .models
        .all()
        .iter()
        .filter_map(|entry| Some((&entry.spec.id, entry.worker()?)));
    let slots = workers.flat_map(|(model, worker)| {
        let slots = worker.slots().into_iter().enumerate();
        let in_json = slots.map(|(id, slot)| {
            json!({
                "id": id,
                "model": model,
                "n_ctx": worker.n_ctx(),
                "is_processing": slot.request.is_some(),
                "id_task": slot.request,
                "n_prompt_tokens": slot.n_prompt,
                "n_decoded": slot.n_decoded,
            })
        });
        in_json.collect::<Vec<_>>()
    });
    Json(Value::Array(slots.collect()))
}
