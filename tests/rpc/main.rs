//! A model on two other machines: servers on this one, each with half of the layers. What they compute is what one process
//! computes, and a server that goes away ends a request, not the process.
#![cfg(all(feature = "rpc", feature = "cli"))]

#[path = "../common/mod.rs"]
mod common;
mod server;

use std::net::TcpListener;
use std::ops::ControlFlow::Continue;
use std::path::Path;
use std::process::Command;

use common::policies::policies;
use common::random_model::{Arch, RandomLlm, RandomProjector};
use server::Server;
use tempfile::TempDir;
use visipruner::engine::{
    Error, FlashAttention, IMAGE_MARKERS, Image, KvType, Model, ModelOptions, Outcome, Part, Projector,
    ProjectorOptions, Prompt, Request, Session, SessionOptions, add_rpc_server,
};
use visipruner::policy::PolicyConfig;

/// The devices of a server, by name.
fn add(endpoint: &str) -> Vec<String> {
    let devices = add_rpc_server(endpoint).expect("the server answers");
    devices.into_iter().map(|device| device.name).collect()
}

/// A random model and its projector, on disk.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let llm = RandomLlm::new(Arch::Llama, 7);
        llm.write(folder.path().join("model.gguf"));
        RandomProjector::new(8, llm.n_embd()).write(folder.path().join("mmproj.gguf"));
        Self(folder)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join(name)
    }
}

/// Without devices on the CPU of this process.
fn load(path: &Path, devices: &[String]) -> Result<Model, Error> {
    let options = ModelOptions {
        devices: Some(devices.to_vec()),
        tensor_split: vec![1.0; devices.len()],
        ..ModelOptions::default()
    };
    Model::load(path, &options, |_| Continue(()))
}

fn load_projector(path: &Path, model: &Model) -> Projector {
    let options = ProjectorOptions {
        n_threads: Some(1),
        ..ProjectorOptions::default()
    };
    Projector::load(path, model, &options, |_| Continue(())).expect("the projector loads")
}

fn session(model: &Model, policy: &PolicyConfig, options: SessionOptions) -> Session {
    let options = SessionOptions {
        n_threads: Some(1),
        policy: policy.clone(),
        ..options
    };
    Session::new(model, options).expect("a session")
}

fn question() -> Request {
    let pixels = (0..40 * 30 * 3u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8);
    let text = "Look at this: <image> What colour is it? It is";
    Request {
        images: vec![Image::from_rgb8(40, 30, pixels.collect()).expect("a picture")],
        n_predict: 6,
        ignore_eos: true,
        report_logits: true,
        ..Request::new(Prompt::Raw(Part::split(text, &IMAGE_MARKERS)))
    }
}

fn ask(session: &mut Session, projector: &mut Projector) -> Result<Outcome, Error> {
    session.generate(Some(projector), &question(), |_| Continue(()))
}

fn assert_equal(ours: &Outcome, theirs: &Outcome, what: &str) {
    let bits = |outcome: &Outcome| {
        let logits = outcome.report.logits.as_ref().expect("logits");
        logits.iter().map(|x| x.to_bits()).collect::<Vec<_>>()
    };
    assert_eq!(ours.tokens, theirs.tokens, "{what}: tokens");
    assert!(bits(ours) == bits(theirs), "{what}: logits differ");
    let rows = |outcome: &Outcome| {
        outcome
            .report
            .layers
            .iter()
            .map(|layer| layer.rows)
            .collect::<Vec<_>>()
    };
    assert_eq!(rows(ours), rows(theirs), "{what}: rows per layer");
}

#[test]
fn two_servers_compute_what_one_process_computes() {
    let files = Files::new();
    let servers = [Server::start(), Server::start()];
    let devices: Vec<String> = servers.iter().flat_map(|server| add(&server.endpoint)).collect();
    assert_eq!(devices.len(), 2);
    assert_eq!(add(&servers[0].endpoint), devices[..1], "a server is added once");

    let here = load(&files.path("model.gguf"), &[]).expect("the model loads");
    let there = load(&files.path("model.gguf"), &devices).expect("the model loads on the servers");
    let mut projector = load_projector(&files.path("mmproj.gguf"), &here);
    let mut projector_there = load_projector(&files.path("mmproj.gguf"), &there);

    let plain = SessionOptions::default();
    let settings = [
        ("plain", plain.clone()),
        (
            "small ubatches, flash attention",
            SessionOptions {
                n_ubatch: 32,
                flash_attn: FlashAttention::On,
                ..plain.clone()
            },
        ),
        (
            "quantized cache",
            SessionOptions {
                type_k: KvType::Q8_0,
                type_v: KvType::Q8_0,
                flash_attn: FlashAttention::On,
                ..plain
            },
        ),
    ];
    for policy in policies() {
        for (what, options) in &settings {
            let mut ours = session(&here, &policy, options.clone());
            let mut theirs = session(&there, &policy, options.clone());
            for question in ["first", "second"] {
                let ours = ask(&mut ours, &mut projector).expect("an answer");
                let theirs = ask(&mut theirs, &mut projector_there).expect("an answer of the servers");
                assert_equal(
                    &ours,
                    &theirs,
                    &format!("{policy:?}, {what}, {question} question"),
                );
            }
        }
    }
}

#[test]
fn a_server_that_goes_away_ends_the_request_and_not_the_process() {
    let files = Files::new();
    let mut servers = [Server::start(), Server::start()];
    let devices: Vec<String> = servers.iter().flat_map(|server| add(&server.endpoint)).collect();
    let policy = policies().swap_remove(1);

    let here = load(&files.path("model.gguf"), &[]).expect("the model loads");
    let mut projector = load_projector(&files.path("mmproj.gguf"), &here);
    let expected = ask(
        &mut session(&here, &policy, SessionOptions::default()),
        &mut projector,
    )
    .expect("an answer");

    for gone in [1, 0] {
        let there = load(&files.path("model.gguf"), &devices).expect("the model loads on the servers");
        let mut projector = load_projector(&files.path("mmproj.gguf"), &there);
        let mut asked = session(&there, &policy, SessionOptions::default());
        let first = ask(&mut asked, &mut projector).expect("an answer");
        assert_equal(&expected, &first, "before the server goes");

        servers[gone].stop();
        let lost = ask(&mut asked, &mut projector).expect_err("a part of the model is gone");
        assert!(
            matches!(&lost, Error::DeviceLost { reason, .. } if reason.contains(&servers[gone].endpoint)),
            "{lost:?}"
        );
        assert!(matches!(
            ask(&mut asked, &mut projector),
            Err(Error::DeviceLost { .. })
        ));
        let again = Session::new(&there, SessionOptions::default()).expect_err("no session");
        assert!(again.to_string().contains("is gone"), "{again}");
        assert!(
            load(&files.path("model.gguf"), &devices).is_err(),
            "half of the model has no place"
        );

        let port = servers[gone]
            .endpoint
            .rsplit(':')
            .next()
            .expect("a port")
            .to_owned();
        drop((asked, projector, there));
        servers[gone] = Server::at(&port);
        let there = load(&files.path("model.gguf"), &devices).expect("the server is back");
        let mut projector = load_projector(&files.path("mmproj.gguf"), &there);
        let mut asked = session(&there, &policy, SessionOptions::default());
        let back = ask(&mut asked, &mut projector).expect("an answer");
        assert_equal(&expected, &back, "after the server is back");
    }
}

#[test]
fn a_server_that_goes_away_while_it_computes() {
    let files = Files::new();
    let mut server = Server::start();
    let devices = add(&server.endpoint);
    let there = load(&files.path("model.gguf"), &devices).expect("the model loads on the server");
    let mut projector = load_projector(&files.path("mmproj.gguf"), &there);
    let mut asked = session(&there, &PolicyConfig::Off, SessionOptions::default());
    let mut n_tokens = 0;
    let request = Request {
        n_predict: 100,
        ..question()
    };
    let lost = asked.generate(Some(&mut projector), &request, |event| {
        if matches!(event, visipruner::engine::Event::Text(_)) {
            n_tokens += 1;
            if n_tokens == 3 {
                server.stop();
            }
        }
        Continue(())
    });
    assert!(matches!(lost, Err(Error::DeviceLost { .. })), "{lost:?}");
}

#[test]
fn what_is_no_server_is_an_error() {
    let refused = |endpoint: &str| match add_rpc_server(endpoint) {
        Err(Error::RpcServer { reason, .. }) => reason,
        other => panic!("{other:?}"),
    };
    let closed = TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = closed.local_addr().expect("an address").to_string();
    drop(closed);
    assert!(refused(&endpoint).contains("see that a server is started there"));
    assert!(refused("no-such-host.invalid:50052").contains("cannot be resolved"));
    assert!(refused("127.0.0.1").contains("host:port"));
}

#[test]
fn a_server_with_another_client_is_busy() {
    let server = Server::start();
    let files = Files::new();
    let run = |arguments: &[&str]| {
        Command::new(env!("CARGO_BIN_EXE_visipruner"))
            .args(arguments)
            .args(["--rpc", &server.endpoint])
            .output()
            .expect("the program starts")
    };
    let listed = run(&["devices"]);
    let listed = String::from_utf8_lossy(&listed.stdout);
    assert!(
        listed.contains("RPC0") && listed.contains("remote") && listed.contains(&server.endpoint),
        "{listed}"
    );

    let model = files.path("model.gguf");
    let model = model.to_str().expect("text");
    let answered = run(&["run", "-m", model, "-p", "a b", "-n", "2", "--raw", "-q"]);
    assert!(
        answered.status.success(),
        "{}",
        String::from_utf8_lossy(&answered.stderr)
    );

    let _other = add(&server.endpoint);
    let busy = run(&["run", "-m", model, "-p", "a b", "-n", "2", "--raw", "-q"]);
    let said = String::from_utf8_lossy(&busy.stderr);
    assert_eq!(busy.status.code(), Some(1), "{said}");
    assert!(
        said.contains("may have another") && said.lines().count() == 1,
        "{said}"
    );
}
