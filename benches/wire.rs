//! What crosses the wire where a model is split over servers: bytes and round trips, of a prompt and per token of the answer.
//!
//! Each server, on this machine, stands behind a relay that counts. A round trip is a message from a server that was followed by
//! one to it: what the program had to wait for. Nothing is timed: loopback is faster than any wire.
//!
//! ```text
//! cargo bench --bench wire -- --model MODEL.gguf --mmproj MMPROJ.gguf [--servers 2]
//! ```

#[path = "../tests/rpc/server.rs"]
#[allow(dead_code, reason = "nothing is stopped here")]
mod server;

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::ControlFlow::Continue;
use std::sync::{Arc, Mutex};

use server::Server;
use visipruner::engine::{
    IMAGE_MARKERS, Image, Model, ModelOptions, Part, Projector, ProjectorOptions, Prompt, Request, Session,
    SessionOptions, add_rpc_server,
};
use visipruner::policy::PolicyOverrides;

const MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/models/tiny-llava-shapes-f16.gguf");
const MMPROJ: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/models/tiny-llava-shapes-mmproj-f16.gguf"
);
/// Tokens over which the average is taken.
const N_TOKENS: usize = 8;

/// What went through a relay.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    n_bytes: usize,
    n_round_trips: usize,
    /// Whether the last message came from the server.
    is_answered: bool,
}

/// Passes bytes on between the program and a server; returns where it listens.
fn relay(server: &str, count: &Arc<Mutex<Count>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = listener.local_addr().expect("an address").to_string();
    let (server, count) = (server.to_owned(), Arc::clone(count));
    std::thread::spawn(move || {
        for here in listener.incoming() {
            let here = here.expect("a client");
            let there = TcpStream::connect(&server).expect("the server");
            for (from, to, is_answer) in [(&here, &there, false), (&there, &here, true)] {
                from.set_nodelay(true).expect("no delay");
                let (from, to) = (
                    from.try_clone().expect("a handle"),
                    to.try_clone().expect("a handle"),
                );
                let count = Arc::clone(&count);
                std::thread::spawn(move || pass_on(from, to, is_answer, &count));
            }
        }
    });
    endpoint
}

fn pass_on(mut from: TcpStream, mut to: TcpStream, is_answer: bool, count: &Mutex<Count>) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        {
            let mut count = count.lock().expect("no panic");
            count.n_bytes += n;
            count.n_round_trips += usize::from(is_answer && !count.is_answered);
            count.is_answered = is_answer;
        }
        if to.write_all(&buffer[..n]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}

struct Arguments {
    model: String,
    mmproj: String,
    n_servers: usize,
}

fn arguments() -> Arguments {
    let mut arguments = Arguments {
        model: MODEL.to_owned(),
        mmproj: MMPROJ.to_owned(),
        n_servers: 2,
    };
    let mut words = std::env::args().skip(1).filter(|word| word != "--bench");
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_else(|| panic!("{word} needs a value"));
        match word.as_str() {
            "--model" => arguments.model = value,
            "--mmproj" => arguments.mmproj = value,
            "--servers" => arguments.n_servers = value.parse().expect("a number of servers"),
            _ => panic!("{word} is not known: --model, --mmproj, --servers"),
        }
    }
    arguments
}

fn main() {
    let arguments = arguments();
    let servers: Vec<Server> = (0..arguments.n_servers).map(|_| Server::start()).collect();
    let counts: Vec<_> = servers.iter().map(|_| Arc::default()).collect();
    let devices: Vec<String> = servers
        .iter()
        .zip(&counts)
        .flat_map(|(server, count)| {
            add_rpc_server(&relay(&server.endpoint, count)).expect("the server answers")
        })
        .map(|device| device.name)
        .collect();
    let options = ModelOptions {
        tensor_split: vec![1.0; devices.len()],
        devices: Some(devices),
        ..ModelOptions::default()
    };
    let model = Model::load(&arguments.model, &options, |_| Continue(())).expect("the model loads");
    let mut projector = Projector::load(&arguments.mmproj, &model, &ProjectorOptions::default(), |_| {
        Continue(())
    })
    .expect("the projector loads");

    let n_layer = model.n_layer();
    let (early, late) = (n_layer * 13 / 32, n_layer * 24 / 32);
    let all = "policy = 'visipruner'\nstages = ['middle']\nshallow_mid_layer = 1\nlayer_threshold = -1";
    let policies = [
        ("off".to_owned(), "policy = 'off'".to_owned(), 1),
        (
            "dense, staged".to_owned(),
            "policy = 'dense_staged'".to_owned(),
            1,
        ),
        (
            format!("{early}/10/{late}"),
            format!("policy = 'fixed'\nfusion_layer = {early}\nkeep = 10\nexit_from = {late}"),
            1,
        ),
        ("all layers probed, one by one".to_owned(), all.to_owned(), 1),
        ("all layers probed, four together".to_owned(), all.to_owned(), 4),
    ];
    println!("{n_layer} layers on {} servers", servers.len());
    println!("| policy | rows | prompt: MB | round trips | per token: kB | round trips |");
    println!("| --- | --: | --: | --: | --: | --: |");
    for (name, policy, stride) in policies {
        let mut of = |n_predict| measure(&model, &mut projector, &policy, stride, n_predict, &counts);
        let (rows, prompt) = of(1);
        let (_, answer) = of(1 + N_TOKENS);
        let per_token = |all: usize, first: usize| (all as f64 - first as f64) / N_TOKENS as f64;
        println!(
            "| {name} | {rows} | {:.2} | {} | {:.1} | {:.1} |",
            prompt.n_bytes as f64 / 1e6,
            prompt.n_round_trips,
            per_token(answer.n_bytes, prompt.n_bytes) / 1e3,
            per_token(answer.n_round_trips, prompt.n_round_trips),
        );
    }
}

/// Asks one question, and another one that is counted: by then all buffers are there. Returns the rows of its prompt, too.
fn measure(
    model: &Model,
    projector: &mut Projector,
    policy: &str,
    probe_stride: u32,
    n_predict: usize,
    counts: &[Arc<Mutex<Count>>],
) -> (usize, Count) {
    let policy = PolicyOverrides::from_toml(policy).and_then(|fields| fields.apply(&Default::default()));
    let options = SessionOptions {
        policy: policy.expect("a policy"),
        probe_stride: Some(probe_stride),
        remember: false,
        ..SessionOptions::default()
    };
    let mut session = Session::new(model, options).expect("a session");
    let request = Request {
        images: vec![Image::from_rgb8(64, 64, vec![127; 64 * 64 * 3]).expect("a picture")],
        n_predict,
        ignore_eos: true,
        ..Request::new(Prompt::Raw(Part::split(
            "<image> What is there? It is",
            &IMAGE_MARKERS,
        )))
    };
    let mut n_rows = 0;
    for _ in 0..2 {
        for count in counts {
            *count.lock().expect("no panic") = Count::default();
        }
        let outcome = session
            .generate(Some(projector), &request, |_| Continue(()))
            .expect("an answer");
        n_rows = outcome.report.n_tokens;
    }
    let sum = |sum: Count, count: Count| Count {
        n_bytes: sum.n_bytes + count.n_bytes,
        n_round_trips: sum.n_round_trips + count.n_round_trips,
        is_answered: false,
    };
    let counts = counts.iter().map(|count| *count.lock().expect("no panic"));
    (n_rows, counts.fold(Count::default(), sum))
}
