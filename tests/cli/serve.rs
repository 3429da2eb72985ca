//! `visipruner serve`, asked over HTTP.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

#[cfg(unix)]
use super::send;
use super::served::{Served, read_answer};
use super::*;

fn data_url(path: impl AsRef<Path>) -> String {
    let bytes = std::fs::read(path).expect("reads");
    format!("data:image/png;base64,{}", STANDARD.encode(bytes))
}

fn asked(question: &str) -> Value {
    json!([{"role": "user", "content": [
        {"type": "image_url", "image_url": {"url": data_url(PICTURE)}},
        {"type": "text", "text": question},
    ]}])
}

fn text_of(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"]
        .as_str()
        .expect("a text")
}

const QUESTIONS: [&str; 3] = [
    "What colour is the circle?",
    "How many squares are there?",
    "Is there a triangle?",
];

#[test]
fn answers_are_those_of_run_and_pictures_are_read_once() {
    let served = Served::start(&[]);
    for (i, question) in QUESTIONS.into_iter().enumerate() {
        let answer = served.chat(&json!({"messages": asked(question), "visipruner": {}}));
        let ran = visipruner(&[
            "run",
            "-m",
            MODEL,
            "--mmproj",
            MMPROJ,
            "--image",
            PICTURE,
            "--image-marker",
            "[here]",
            "-p",
            &format!("[here]{question}"),
        ]);
        assert_eq!(text_of(&answer).trim(), ran.stdout.trim(), "{question}");
        let cached = answer["usage"]["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .expect("a number");
        assert_eq!(cached >= 64, i > 0, "{cached} tokens were there for question {i}");
        let told = &answer["visipruner"];
        assert_eq!(told["policy"]["policy"], "visipruner");
        assert_eq!(told["pictures"][0]["grid"], json!([8, 8]));
        assert_eq!(told["pictures"][0]["covers"], json!([0.0, 0.0, 1.0, 1.0]));
        assert!(
            told["rows"]["computed_or_kept"].as_u64() < told["rows"]["dense"].as_u64(),
            "{told}"
        );
    }
}

#[test]
fn a_conversation_that_is_sent_back_goes_on() {
    let served = Served::start(&[]);
    let mut messages = asked(QUESTIONS[0]);
    let list = messages.as_array_mut().expect("a list");
    let mut n_cached = 0;
    for question in QUESTIONS.into_iter().skip(1) {
        let answer = served.chat(&json!({"messages": list}));
        let usage = &answer["usage"];
        let cached = usage["prompt_tokens_details"]["cached_tokens"]
            .as_u64()
            .expect("a number");
        assert!(cached >= n_cached, "{usage}");
        n_cached = usage["total_tokens"].as_u64().expect("a number") - 1; // its last token is not computed
        list.push(json!({"role": "assistant", "content": text_of(&answer).trim()}));
        list.push(json!({"role": "user", "content": question}));
    }
    let last = served.chat(&json!({"messages": list}));
    let cached = last["usage"]["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .expect("a number");
    assert!(cached >= n_cached, "{cached} of {n_cached}");
}

#[test]
fn a_stream_says_what_the_whole_answer_says() {
    let served = Served::start(&[]);
    let mut body = json!({"messages": asked(QUESTIONS[1]), "logprobs": true, "top_logprobs": 2});
    let whole = served.chat(&body);
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    body["return_progress"] = json!(true);
    let streamed = served.post("/v1/chat/completions", &body);
    assert!(
        streamed.head.to_ascii_lowercase().contains("text/event-stream"),
        "{}",
        streamed.head
    );
    assert!(streamed.body.trim_end().ends_with("data: [DONE]"));
    let events = streamed.events();
    let deltas = events
        .iter()
        .filter_map(|event| event["choices"][0]["delta"]["content"].as_str());
    assert_eq!(deltas.collect::<String>(), text_of(&whole));
    let progress: Vec<&Value> = events
        .iter()
        .map(|event| &event["prompt_progress"])
        .filter(|progress| !progress.is_null())
        .collect();
    let n_prompt = &whole["usage"]["prompt_tokens"];
    for progress in &progress {
        assert_eq!(&progress["total"], n_prompt);
        assert!(
            progress["cache"].as_u64() >= Some(64),
            "the picture is there: {progress}"
        );
        assert!(
            progress["processed"].as_u64() >= progress["cache"].as_u64(),
            "{progress}"
        );
    }
    assert_eq!(&progress.last().expect("some")["processed"], n_prompt);
    let last = events.last().expect("events");
    assert_eq!(
        (&last["choices"], &last["usage"]["total_tokens"]),
        (&json!([]), &whole["usage"]["total_tokens"])
    );
    let logprobs = |object: &Value| {
        object["choices"][0]["logprobs"]["content"]
            .as_array()
            .cloned()
            .unwrap_or_default()
    };
    let of_stream: Vec<Value> = events.iter().flat_map(logprobs).collect();
    assert_eq!(of_stream.len(), logprobs(&whole).len());
    assert_eq!(of_stream[0]["token"], logprobs(&whole)[0]["token"]);
    assert_eq!(of_stream[0]["top_logprobs"][0]["id"], of_stream[0]["id"]);
    let reasons: Vec<&Value> = events
        .iter()
        .map(|event| &event["choices"][0]["finish_reason"])
        .filter(|reason| !reason.is_null())
        .collect();
    assert_eq!(reasons, ["stop"]);
}

#[test]
fn policies_by_name_and_by_field() {
    let served = Served::start(&["--alias", "tiny"]);
    let told = |body: Value| {
        let mut body = body;
        body["messages"] = asked(QUESTIONS[0]);
        served.chat(&body)["visipruner"].clone()
    };
    let off = told(json!({"model": "tiny:off", "visipruner": {}}));
    assert_eq!(
        (&off["policy"]["policy"], &off["not_pruned_because"]),
        (&json!("off"), &json!("the policy is off"))
    );
    let fixed =
        told(json!({"visipruner": {"policy": "fixed", "fusion_layer": 3, "keep": 4, "exit_from": 6}}));
    assert_eq!(fixed["layer_rows"].as_array().map(Vec::len), Some(3));
    assert_eq!(fixed["pictures"][0]["kept"][0].as_array().map(Vec::len), Some(4));
    let both = told(json!({"model": "tiny:divprune+visipruner", "visipruner": {}}));
    assert_eq!(both["policy"]["policy"], "divprune+visipruner");
    for fields in [
        json!({"policy": "none such"}),
        json!({"keeps": 4}),
        json!({"policy": "fixed", "fusion_layer": 99, "keep": 4, "exit_from": 6}),
        json!(3),
    ] {
        let refused = served.post(
            "/v1/chat/completions",
            &json!({"messages": asked("?"), "visipruner": fields}),
        );
        assert_eq!(
            (refused.status, &refused.json()["error"]["param"]),
            (400, &json!("visipruner")),
            "{}",
            refused.body
        );
    }
}

/// The tokens of an answer, up to the first than which another is hardly less likely: there it is the arithmetic that decides, and
/// that depends on who else is in the batch.
fn firm_tokens(answer: &Value) -> Vec<u64> {
    let tokens = answer["choices"][0]["logprobs"]["content"]
        .as_array()
        .expect("a list");
    let id = |token: &Value| token["id"].as_u64().expect("a number");
    let is_firm = |token: &&Value| {
        let others = token["top_logprobs"].as_array().expect("a list").iter();
        // the end of the answer is never taken
        let mut others = others.filter(|other| id(other) != id(token) && other["token"] != "");
        others.all(|other| other["logprob"].as_f64() < token["logprob"].as_f64().map(|own| own - 0.02))
    };
    tokens.iter().take_while(is_firm).map(id).collect()
}

#[test]
fn requests_side_by_side_are_answered_as_alone() {
    let served = Served::start(&["--parallel", "3"]);
    let bodies: Vec<Value> = (0..12)
        .map(|i| {
            let policy = ["visipruner", "off", "fastv", "divprune"][i / 3];
            json!({"messages": asked(QUESTIONS[i % 3]), "visipruner": {"policy": policy}, "max_tokens": 24, "ignore_eos": true,
                "logprobs": true, "top_logprobs": 4})
        })
        .collect();
    let alone: Vec<Vec<u64>> = bodies
        .iter()
        .map(|body| firm_tokens(&served.chat(body)))
        .collect();
    let n_firm: usize = alone.iter().map(Vec::len).sum();
    assert!(n_firm > 12 * 6, "{n_firm} tokens are left to be compared");
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                loop {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    let Some(body) = bodies.get(i % bodies.len()).filter(|_| i < 36) else {
                        break;
                    };
                    let (answer, expected) = (served.chat(body), &alone[i % bodies.len()]);
                    let tokens = answer["choices"][0]["logprobs"]["content"]
                        .as_array()
                        .expect("a list")
                        .iter();
                    let tokens: Vec<u64> = tokens.filter_map(|token| token["id"].as_u64()).collect();
                    assert_eq!(tokens[..expected.len()], expected[..], "request {i}");
                }
            });
        }
    });
    assert_eq!(served.metric("requests_answered_total"), 48.0);
    assert_eq!(served.metric("requests_waiting"), 0.0);
}

#[test]
fn answers_of_a_given_form() {
    let served = Served::start(&[]);
    let schema = json!({"type": "object", "properties": {"colour": {"enum": ["red", "blue"]}}, "required": ["colour"], "additionalProperties": false});
    let of = |format: Value| {
        served.chat(&json!({"messages": asked(QUESTIONS[0]), "response_format": format, "max_tokens": 100}))
    };
    let answer = of(
        json!({"type": "json_schema", "json_schema": {"name": "shape", "strict": true, "schema": schema}}),
    );
    let value: Value = serde_json::from_str(text_of(&answer)).expect("is JSON");
    assert!(jsonschema::is_valid(&schema, &value), "{value}");
    let answer = of(json!({"type": "json_object", "schema": schema}));
    assert!(text_of(&answer).trim_start().starts_with('{'));
    let body = json!({"messages": asked(QUESTIONS[0]), "grammar": "root ::= \" seen\" [!?]"});
    assert!([" seen!", " seen?"].contains(&text_of(&served.chat(&body))));
    for wrong in [
        json!({"grammar": "root ::= ("}),
        json!({"grammar": "root ::= \"x\"", "json_schema": {}}),
        json!({"json_schema": {"type": "thing"}}),
        json!({"response_format": {"type": "poem"}}),
    ] {
        let mut body = wrong;
        body["messages"] = asked("?");
        let refused = served.post("/v1/chat/completions", &body);
        assert_eq!(refused.status, 400, "{}", refused.body);
    }
}

#[test]
fn a_client_that_goes_away_stops_its_request() {
    let served = Served::start(&["--parallel", "1"]);
    let body =
        json!({"messages": asked(QUESTIONS[0]), "max_tokens": 1500, "ignore_eos": true, "stream": true});
    let mut stream = served.begin("/v1/chat/completions", &body);
    stream.read_exact(&mut [0; 400]).expect("it has begun");
    drop(stream);
    // the only place is free for the next one
    let answer = served.chat(&json!({"messages": asked(QUESTIONS[1])}));
    assert!(!text_of(&answer).is_empty());
    assert_eq!(served.metric("requests_cancelled_total"), 1.0);
}

#[test]
fn what_is_wrong_is_said_with_its_status() {
    let served = Served::start(&["--ctx-size", "256", "--timeout", "2"]);
    let text = |content: &str| json!({"messages": [{"role": "user", "content": content}]});
    let picture = |url: &str| json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]});
    let png = data_url(PICTURE);
    for (body, status, reason) in [
        (text(&"long ".repeat(400)), 400, "the context holds 256"),
        (
            json!({"messages": [{"role": "user", "content": vec![json!({"type": "image_url", "image_url": {"url": png}}); 5]}]}),
            400,
            "the context holds 256",
        ),
        (text(""), 400, "empty"),
        (json!({}), 400, "messages"),
        (json!({"messages": "hello"}), 400, "messages: invalid type"),
        (
            json!({"messages": asked("?"), "max_tokens": "many"}),
            400,
            "max_tokens: invalid type",
        ),
        (
            json!({"messages": asked("?"), "stream_options": {"include_usage": 5}}),
            400,
            "stream_options.include_usage: invalid type",
        ),
        (picture("data:image/png;base64,AAAA"), 415, "is not an image"),
        (picture(&png[..22 + (png.len() - 22) / 8 * 4]), 415, "cut short"),
        (picture("data:image/png;base64,*"), 400, "not base64"),
        (picture("file:///etc/passwd"), 400, "reads no files"),
        (picture("http://127.0.0.1/a.png"), 400, "fetches nothing"),
        (
            json!({"messages": asked("?"), "tools": [{"type": "function"}]}),
            400,
            "tools",
        ),
        (json!({"messages": asked("?"), "n": 2}), 400, "one answer"),
        (
            json!({"messages": asked("?"), "temperature": 1e9}),
            400,
            "temp is",
        ),
        (
            json!({"messages": asked("?"), "logit_bias": {"99999": 1}}),
            400,
            "logit_bias",
        ),
    ] {
        let answered = served.post("/v1/chat/completions", &body);
        assert_eq!(answered.status, status, "{}", answered.body);
        let message = answered.json()["error"]["message"].to_string();
        assert!(message.contains(reason), "{message}");
    }
    let not_json = served.send("POST /v1/chat/completions HTTP/1.1\r\n", b"{");
    assert!(
        not_json.status == 400 && not_json.body.contains("is not JSON"),
        "{}",
        not_json.body
    );
    let too_large = {
        let mut stream = TcpStream::connect(served.address).expect("connects");
        stream
            .write_all(b"POST /v1/completions HTTP/1.1\r\nhost: here\r\ncontent-length: 99999999999\r\n\r\n{")
            .expect("writes");
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .expect("sets");
        let mut begin = [0; 64];
        let n = stream.read(&mut begin).expect("answers at once");
        String::from_utf8_lossy(&begin[..n]).into_owned()
    };
    assert!(too_large.contains("413"), "{too_large}");
    assert_eq!(served.get("/nothing").status, 404);
    assert_eq!(served.get("/v1/chat/completions").status, 405);
    // a body that comes drop by drop
    let mut slow = TcpStream::connect(served.address).expect("connects");
    slow.write_all(
        b"POST /v1/completions HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: 100\r\n\r\n",
    )
    .expect("writes");
    for _ in 0..30 {
        std::thread::sleep(Duration::from_millis(100));
        let _ = slow.write_all(b" "); // it may be closed by then
    }
    assert_eq!(read_answer(slow).status, 408);
    // and one that never says anything
    let mut silent = TcpStream::connect(served.address).expect("connects");
    silent
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("sets");
    assert!(silent.read(&mut [0; 1]).is_ok_and(|n| n == 0), "it is closed");
}

/// More answers than fit on their way, and nobody who reads: the rest is never sent.
#[test]
fn answers_that_nobody_reads_are_given_up() {
    const N_ASKED: usize = 1000;
    let served = Served::start(&["-to", "2"]);
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4096).expect("sets");
    socket.connect(&served.address.into()).expect("connects");
    let mut stream = TcpStream::from(socket);
    let page = "GET / HTTP/1.1\r\nhost: here\r\n\r\n";
    stream.write_all(page.repeat(N_ASKED).as_bytes()).expect("writes");
    std::thread::sleep(Duration::from_secs(5));
    stream
        .set_read_timeout(Some(Duration::from_secs(20)))
        .expect("sets");
    let mut read = Vec::new();
    let ended = stream.read_to_end(&mut read);
    assert!(
        ended
            .as_ref()
            .err()
            .is_none_or(|error| error.kind() == ErrorKind::ConnectionReset),
        "{ended:?}"
    );
    let n_answers = String::from_utf8_lossy(&read).matches("HTTP/1.1 200").count();
    assert!((1..N_ASKED).contains(&n_answers), "{n_answers} answers came");
}

#[test]
fn a_key_is_asked_for_where_there_is_one() {
    let served = Served::start(&["--api-key", "secret", "--api-key", "other"]);
    let with = |header: &str| {
        let body = json!({"messages": asked("?"), "max_tokens": 1}).to_string();
        served
            .send(
                &format!("POST /v1/chat/completions HTTP/1.1\r\n{header}"),
                body.as_bytes(),
            )
            .status
    };
    assert_eq!(with("authorization: Bearer secret\r\n"), 200);
    assert_eq!(with("x-api-key: other\r\n"), 200);
    for header in [
        "",
        "authorization: Bearer secre\r\n",
        "authorization: secret\r\n",
        "x-api-key: \r\n",
    ] {
        assert_eq!(with(header), 401, "{header}");
    }
    assert_eq!(
        (served.get("/metrics").status, served.get("/v1/models").status),
        (401, 200)
    );
}

#[test]
fn tokens_templates_and_costs() {
    let served = Served::start(&[]);
    let tokens = served
        .post("/tokenize", &json!({"content": "what colour is it"}))
        .json()["tokens"]
        .clone();
    assert!(tokens.as_array().is_some_and(|tokens| tokens.len() > 3));
    let text = served.post("/detokenize", &json!({ "tokens": tokens })).json();
    assert_eq!(text["content"].as_str().map(str::trim), Some("what colour is it"));
    let body = json!({"messages": asked(QUESTIONS[0])});
    let cost = served.post("/v1/chat/completions/input_tokens", &body).json();
    assert_eq!(
        (&cost["input_tokens"], &cost["image_tokens"]),
        (&served.chat(&body)["usage"]["prompt_tokens"], &json!([64]))
    );
    let prompt = served.post("/apply-template", &body).json()["prompt"].to_string();
    assert!(
        prompt.contains("<image>") && prompt.contains(QUESTIONS[0]),
        "{prompt}"
    );
    let completion = served
        .post(
            "/v1/completions",
            &json!({"prompt": "USER: hello ASSISTANT:", "max_tokens": 3}),
        )
        .json();
    assert_eq!(completion["object"], "text_completion");
    assert_eq!(completion["usage"]["completion_tokens"], 3);
}

#[test]
fn several_models_are_loaded_when_they_are_asked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    for (from, to) in [(MODEL, "a.gguf"), (MMPROJ, "a-mmproj.gguf"), (MODEL, "b.gguf")] {
        std::fs::copy(from, folder.path().join(to)).expect("copies");
    }
    let served = Served::start_with(&["--models-dir", folder.path().to_str().expect("is text")], &[]);
    let loaded = || {
        let models = served.get("/v1/models").json()["data"].clone();
        let models = models.as_array().expect("a list").iter();
        models
            .map(|model| (model["id"].to_string(), model["status"]["value"].to_string()))
            .collect::<Vec<_>>()
    };
    let state = |a: &str, b: &str| {
        vec![
            ("\"a\"".to_owned(), format!("\"{a}\"")),
            ("\"b\"".to_owned(), format!("\"{b}\"")),
        ]
    };
    assert_eq!(loaded(), state("unloaded", "unloaded"));
    let ask = |model: &str| {
        served.post(
            "/v1/chat/completions",
            &json!({"model": model, "messages": asked(QUESTIONS[0])}),
        )
    };
    assert_eq!(ask("a").status, 200);
    assert_eq!(loaded(), state("loaded", "unloaded"));
    let refused = ask("b:off");
    assert!(
        refused.status == 400 && refused.body.contains("sees none"),
        "{}",
        refused.body
    );
    assert_eq!(loaded(), state("unloaded", "loaded"));
    assert_eq!(ask("c").status, 404);
}

#[test]
fn models_of_a_preset_file_have_their_own_flags() {
    let folder = tempfile::tempdir().expect("a folder");
    let here = |name: &str| folder.path().join(name).display().to_string();
    std::fs::copy(MODEL, here("a.gguf")).expect("copies");
    let presets = format!(
        "['*']\nctx-size = 300\n[a]\nparallel = 2\n[pruned]\nmodel = '{MODEL}'\nmmproj = '{MMPROJ}'\nctx-size = 700\n\
         policy = 'fixed'\nfusion-layer = 3\nkeep = 4\nexit-from = 6\n"
    );
    std::fs::write(here("models.toml"), presets).expect("writes");
    let models = ["--models-dir", &here(""), "--models-preset", &here("models.toml")];
    let served = Served::start_with(&models, &["--parallel", "3", "--models-max", "2"]);
    let ask = |model: &str, messages: Value| {
        served.chat(&json!({"model": model, "messages": messages, "visipruner": {}, "max_tokens": 3}))["visipruner"].clone()
    };
    let pruned = ask("pruned", asked(QUESTIONS[0]));
    assert_eq!(
        (&pruned["policy"]["policy"], &pruned["policy"]["keep"]),
        (&json!("fixed"), &json!(4))
    );
    ask("a", json!([{"role": "user", "content": "hello"}]));
    let settings = &served.get("/props").json()["default_generation_settings"];
    assert_eq!(
        (&settings["params"]["top_k"], &settings["params"]["temperature"]),
        (&json!(40), &json!(0.0))
    );
    let slots = served.get("/slots").json();
    let n_ctx = slots
        .as_array()
        .expect("a list")
        .iter()
        .map(|slot| slot["n_ctx"].as_u64());
    assert_eq!(n_ctx.flatten().sum::<u64>(), 2 * 300 + 3 * 700);
    let props = |model: &str| {
        let props = served.get(&format!("/props?model={model}")).json();
        (props["n_ctx"].clone(), props["total_slots"].clone())
    };
    assert_eq!(props("pruned"), (json!(700), json!(3)));
    assert_eq!(props("a"), (json!(300), json!(2)));
}

#[test]
fn a_preset_that_cannot_be_served_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("models.toml");
    let path = path.to_str().expect("is text");
    for (text, reason) in [
        ("[a]\nmodel = 'none.gguf'", "cannot serve [a] of"),
        ("[a]\nmodel = 'none.gguf'\nctx-size = -1", "'--ctx-size"),
    ] {
        std::fs::write(path, text).expect("writes");
        let ran = visipruner(&["serve", "--models-preset", path, "--port", "0"]);
        assert_eq!(ran.code, Some(1), "{}", ran.stderr);
        assert!(
            ran.stderr.contains(reason) && ran.stderr.contains("models.toml"),
            "{}",
            ran.stderr
        );
    }
}

#[test]
fn a_model_that_answers_stays_until_it_has_answered() {
    let folder = tempfile::tempdir().expect("a folder");
    for name in ["a.gguf", "b.gguf"] {
        std::fs::copy(MODEL, folder.path().join(name)).expect("copies");
    }
    let served = Served::start_with(&["--models-dir", folder.path().to_str().expect("is text")], &[]);
    let body = |model: &str, n_tokens: u32| json!({"model": model, "prompt": "once", "max_tokens": n_tokens, "ignore_eos": true, "stream": n_tokens > 1});
    let mut stream = served.begin("/v1/completions", &body("a", 1500));
    stream.read_exact(&mut [0; 1]).expect("it has begun");
    assert_eq!(served.post("/v1/completions", &body("b", 1)).status, 200);
    assert_eq!(served.get("/v1/models").status, 200);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("reads to the end");
    assert!(rest.contains("data: [DONE]"), "the answer was cut off");
}

#[cfg(unix)]
#[test]
fn it_ends_with_the_requests_at_work() {
    let mut served = Served::start(&[]);
    let body =
        json!({"messages": asked(QUESTIONS[0]), "max_tokens": 400, "ignore_eos": true, "stream": true});
    let mut stream = served.begin("/v1/chat/completions", &body);
    stream.read_exact(&mut [0; 1]).expect("it has begun");
    send("TERM", &served.process);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).expect("reads to the end");
    assert!(rest.contains("data: [DONE]"), "the answer was cut off");
    assert_eq!(served.process.wait().expect("ends").code(), Some(0));
}
