//! A server on this machine.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// `visipruner rpc-server` with one thread, ended when it is dropped.
pub struct Server {
    process: Child,
    pub endpoint: String,
}

impl Server {
    pub fn start() -> Self {
        Self::at("0")
    }

    pub fn at(port: &str) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_visipruner"))
            .args(["rpc-server", "--port", port, "--threads", "1", "--device", "CPU"])
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut said = BufReader::new(process.stderr.take().expect("its messages"));
        let endpoint = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).expect("text") > 0, "the server ended");
            if let Some(rest) = line.strip_prefix("listening on ") {
                break rest.split(',').next().expect("an address").to_owned();
            }
        };
        std::thread::spawn(move || said.read_to_string(&mut String::new()));
        wait_for(&endpoint);
        Self { process, endpoint }
    }

    pub fn stop(&mut self) {
        self.process.kill().expect("the server is there");
        self.process.wait().expect("the server ends");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The server says where it will listen before ggml does.
fn wait_for(endpoint: &str) {
    for _ in 0..600 {
        if TcpStream::connect(endpoint).is_ok() {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    panic!("nobody listens at {endpoint}");
}
