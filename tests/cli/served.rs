//! A server under test, and a small client that sees every byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{MMPROJ, MODEL};

/// A server of the model that ships, ended when it is dropped.
pub(super) struct Served {
    pub(super) process: Child,
    pub(super) address: SocketAddr,
}

/// What a server answered.
pub(super) struct Answered {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: String,
}

impl Answered {
    pub(super) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    /// The objects of a stream.
    pub(super) fn events(&self) -> Vec<Value> {
        let data = self.body.lines().filter_map(|line| line.strip_prefix("data: "));
        let objects = data.filter(|data| *data != "[DONE]");
        objects
            .map(|data| serde_json::from_str(data).expect("is JSON"))
            .collect()
    }
}

impl Served {
    pub(super) fn start(flags: &[&str]) -> Self {
        Self::start_with(&["-m", MODEL, "--mmproj", MMPROJ], flags)
    }

    pub(super) fn start_with(model: &[&str], flags: &[&str]) -> Self {
        let mut process = Command::new(assert_cmd::cargo::cargo_bin!("visipruner"))
            .arg("serve")
            .args(model)
            .args(["--port", "0"])
            .args(flags)
            .stderr(Stdio::piped())
            .spawn()
            .expect("starts");
        let mut lines = BufReader::new(process.stderr.take().expect("is piped")).lines();
        let address = lines
            .find_map(|line| {
                Some(
                    line.ok()?
                        .strip_prefix("listening at http://")?
                        .parse()
                        .expect("an address"),
                )
            })
            .expect("says where it listens");
        std::thread::spawn(move || lines.for_each(drop)); // so that it can go on writing
        let served = Self { process, address };
        let began = Instant::now();
        while served.get("/health").status != 200 {
            assert!(began.elapsed() < Duration::from_secs(60), "it is never ready");
            std::thread::sleep(Duration::from_millis(20));
        }
        served
    }

    pub(super) fn get(&self, path: &str) -> Answered {
        self.send(&format!("GET {path} HTTP/1.1\r\n"), b"")
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Answered {
        self.send(&format!("POST {path} HTTP/1.1\r\n"), body.to_string().as_bytes())
    }

    /// A request with these first lines of its head.
    pub(super) fn send(&self, head: &str, body: &[u8]) -> Answered {
        let mut stream = TcpStream::connect(self.address).expect("connects");
        let length = body.len();
        let head = format!("{head}host: here\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).expect("writes");
        let _ = stream.write_all(body); // it may be refused by its length alone
        read_answer(stream)
    }

    /// A request of which nothing has been read yet.
    pub(super) fn begin(&self, path: &str, body: &Value) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("connects");
        let body = body.to_string();
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
        );
        stream
            .write_all(format!("{head}{body}").as_bytes())
            .expect("writes");
        stream
    }

    pub(super) fn chat(&self, body: &Value) -> Value {
        let answered = self.post("/v1/chat/completions", body);
        assert_eq!(answered.status, 200, "{}", answered.body);
        answered.json()
    }

    /// The value of a counter.
    pub(super) fn metric(&self, name: &str) -> f64 {
        let metrics = self.get("/metrics").body;
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(&format!("visipruner_{name} ")));
        line.expect(name).parse().expect("a number")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

pub(super) fn read_answer(mut stream: TcpStream) -> Answered {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).expect("answers");
    let text = String::from_utf8(bytes).expect("is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("has a head");
    let is_chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    Answered {
        status: head
            .split(' ')
            .nth(1)
            .and_then(|status| status.parse().ok())
            .expect("a status"),
        head: head.to_owned(),
        body: if is_chunked {
            unchunked(body)
        } else {
            body.to_owned()
        },
    }
}

fn unchunked(mut body: &str) -> String {
    let mut text = String::new();
    while let Some((length, rest)) = body.split_once("\r\n") {
        let length = usize::from_str_radix(length, 16).expect("a length");
        text.push_str(&rest[..length]);
        body = rest[length..].trim_start_matches("\r\n");
    }
    text
}
