//! A hub on this machine: repositories behind the protocol that Hugging Face's speaks, with the store that it redirects to on a
//! port of its own, and with whatever is to go wrong.

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::json;
use sha2::{Digest, Sha256};

/// The token that may read everything.
pub const TOKEN: &str = "hf_reads0everything";
/// A token that the hub knows, whose owner has accepted no terms.
pub const POOR_TOKEN: &str = "hf_accepted0nothing";

/// What is written at once.
const PIECE_BYTES: usize = 1 << 20;

/// Who may read a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Access {
    #[default]
    Everybody,
    /// Only with [`TOKEN`]; others are told that there is no such repository.
    Private,
    /// Files only with [`TOKEN`]; everybody sees what there is.
    Gated,
}

/// What goes wrong with the next transfers of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The connection is closed after so many bytes.
    BreakAfter(usize),
    /// The first byte is another one.
    Damage,
    /// The whole file comes, whatever range was asked for.
    IgnoreRange,
    /// The store is busy.
    Busy,
    /// A second passes between one piece and the next.
    Slow,
}

/// A file of a repository.
#[derive(Debug, Clone)]
struct Content {
    bytes: Arc<Vec<u8>>,
    is_lfs: bool,
}

/// A repository.
#[derive(Debug, Clone, Default)]
pub struct Repo {
    files: BTreeMap<String, Content>,
    commit: String,
    access: Access,
}

/// A request, as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Whether the store was asked, and not the hub.
    pub is_store: bool,
    pub method: String,
    pub target: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct State {
    repos: HashMap<String, Repo>,
    faults: HashMap<String, Vec<Fault>>,
    seen: Vec<Seen>,
    /// What every request to the hub is answered with instead.
    status: Option<(u16, &'static str)>,
}

/// The hub. It answers as long as the process lives.
pub struct Hub {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

impl Repo {
    /// An empty repository at a commit that begins with `no`.
    pub fn new(no: u8) -> Self {
        Self {
            commit: format!("{no:02x}").repeat(20),
            ..Self::default()
        }
    }

    /// With a large file, which the store serves.
    #[must_use]
    pub fn lfs(self, path: &str, bytes: &[u8]) -> Self {
        self.with(path, bytes, true)
    }

    /// With a small file, which git holds and the hub serves.
    #[must_use]
    pub fn small(self, path: &str, bytes: &[u8]) -> Self {
        self.with(path, bytes, false)
    }

    #[must_use]
    pub fn access(self, access: Access) -> Self {
        Self { access, ..self }
    }

    /// Its commit.
    pub fn commit(&self) -> &str {
        &self.commit
    }

    fn with(mut self, path: &str, bytes: &[u8], is_lfs: bool) -> Self {
        let bytes = Arc::new(bytes.to_vec());
        self.files.insert(path.to_owned(), Content { bytes, is_lfs });
        self
    }
}

impl Hub {
    pub fn start() -> Self {
        let state = Arc::new(Mutex::new(State::default()));
        let listen = || TcpListener::bind("127.0.0.1:0").expect("a port");
        let (hub, store) = (listen(), listen());
        let address = hub.local_addr().expect("an address");
        let store_address = store.local_addr().expect("an address");
        for (listener, is_store) in [(hub, false), (store, true)] {
            let state = state.clone();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let mut server = Connection {
                        state: state.clone(),
                        is_store,
                        store: store_address,
                        stream,
                    };
                    std::thread::spawn(move || server.serve());
                }
            });
        }
        Self { address, state }
    }

    /// What `HF_ENDPOINT` is set to.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Puts a repository there, or another state of it.
    pub fn put(&self, name: &str, repo: Repo) {
        self.state().repos.insert(name.to_owned(), repo);
    }

    /// What goes wrong with the next transfers of the file of this path, one after the other.
    pub fn fail(&self, path: &str, faults: &[Fault]) {
        self.state().faults.insert(path.to_owned(), faults.to_vec());
    }

    /// Answers everything with this status.
    pub fn always(&self, status: u16, reason: &'static str) {
        self.state().status = Some((status, reason));
    }

    /// The requests since the last call.
    pub fn seen(&self) -> Vec<Seen> {
        std::mem::take(&mut self.state().seen)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panicked")
    }
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// One connection of a client.
struct Connection {
    state: Arc<Mutex<State>>,
    is_store: bool,
    store: SocketAddr,
    stream: TcpStream,
}

struct Answer {
    status: &'static str,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
    pause: Duration,
}

impl Answer {
    fn new(status: &'static str) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            pause: Duration::ZERO,
        }
    }

    fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    fn json(self, body: &serde_json::Value) -> Self {
        Self {
            body: body.to_string().into_bytes(),
            ..self.header("Content-Type", "application/json")
        }
    }

    /// As the hub says no: in headers, which `HEAD` sees, too, and in the body.
    fn refusal(status: &'static str, code: &str, message: &str) -> Self {
        let answer = Self::new(status).header("X-Error-Message", message);
        let answer = if code.is_empty() {
            answer
        } else {
            answer.header("X-Error-Code", code)
        };
        answer.json(&json!({ "error": message }))
    }
}

impl Connection {
    /// Answers one request after the other.
    fn serve(&mut self) {
        let mut reader = BufReader::new(self.stream.try_clone().expect("a second handle"));
        while let Some(request) = read_request(&mut reader, self.is_store) {
            let answer = {
                let mut state = self.state.lock().expect("nobody panicked");
                state.seen.push(request.clone());
                self.answer(&mut state, &request)
            };
            if self.send(&request, answer).is_none() {
                let _ = self.stream.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }

    /// `None` after a connection that is to break.
    fn send(&mut self, request: &Seen, (answer, limit): (Answer, Option<usize>)) -> Option<()> {
        let mut head = format!(
            "HTTP/1.1 {}\r\nContent-Length: {}\r\n",
            answer.status,
            answer.body.len()
        );
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.stream.write_all(format!("{head}\r\n").as_bytes()).ok()?;
        if request.method != "HEAD" {
            let end = limit.unwrap_or(usize::MAX).min(answer.body.len());
            for piece in answer.body[..end].chunks(PIECE_BYTES) {
                self.stream.write_all(piece).ok()?;
                std::thread::sleep(answer.pause);
            }
        }
        limit.is_none().then_some(())
    }

    fn answer(&self, state: &mut State, request: &Seen) -> (Answer, Option<usize>) {
        if self.is_store {
            return stored(state, request);
        }
        if let Some((_, reason)) = state.status {
            return (Answer::new(reason), None);
        }
        let target = unescaped(&request.target);
        let parts: Vec<&str> = target.trim_start_matches('/').splitn(5, '/').collect();
        let answer = match parts.as_slice() {
            ["api", "models", user, name, rest] => match rest.split_once('/') {
                Some(("revision", revision)) => state.listing(request, &format!("{user}/{name}"), revision),
                _ => Answer::new("404 Not Found"),
            },
            ["api", "resolve-cache", user, name, path] => state.small(&format!("{user}/{name}"), path),
            [user, name, "resolve", revision, path] => {
                state.resolve(request, &format!("{user}/{name}"), revision, path, self.store)
            }
            _ => Answer::new("404 Not Found"),
        };
        (answer, None)
    }
}

impl State {
    /// The repository, if whoever asks may know of it.
    fn repo(&self, request: &Seen, name: &str) -> Result<&Repo, Answer> {
        let token = request
            .authorization
            .as_deref()
            .map(|value| value.trim_start_matches("Bearer "));
        if token.is_some_and(|token| ![TOKEN, POOR_TOKEN].contains(&token)) {
            let message = "Invalid credentials in Authorization header";
            return Err(Answer::refusal("401 Unauthorized", "", message));
        }
        let repo = self.repos.get(name);
        let visible = repo.filter(|repo| repo.access != Access::Private || token == Some(TOKEN));
        visible.ok_or_else(|| match token {
            Some(_) => Answer::refusal("404 Not Found", "RepoNotFound", "Repository not found"),
            None => Answer::refusal(
                "401 Unauthorized",
                "RepoNotFound",
                "Invalid username or password.",
            ),
        })
    }

    fn listing(&self, request: &Seen, name: &str, revision: &str) -> Answer {
        let repo = match self.repo(request, name) {
            Ok(repo) => repo,
            Err(answer) => return answer,
        };
        if revision != "main" && revision != repo.commit {
            return Answer::refusal("404 Not Found", "RevisionNotFound", "Invalid rev id");
        }
        let siblings: Vec<_> = repo
            .files
            .keys()
            .map(|path| json!({ "rfilename": path }))
            .collect();
        Answer::new("200 OK").json(&json!({ "id": name, "sha": repo.commit, "siblings": siblings }))
    }

    fn resolve(&self, request: &Seen, name: &str, revision: &str, path: &str, store: SocketAddr) -> Answer {
        let repo = match self.repo(request, name) {
            Ok(repo) => repo,
            Err(answer) => return answer,
        };
        let may_read = request.authorization.as_deref() == Some(&format!("Bearer {TOKEN}"));
        if repo.access == Access::Gated && !may_read {
            let status = if request.authorization.is_some() {
                "403 Forbidden"
            } else {
                "401 Unauthorized"
            };
            return Answer::refusal(status, "GatedRepo", "Access to this model is restricted.");
        }
        let found = repo
            .files
            .get(path)
            .filter(|_| revision == "main" || revision == repo.commit);
        let Some(content) = found else {
            return Answer::refusal("404 Not Found", "EntryNotFound", "Entry not found");
        };
        let answer = |status| Answer::new(status).header("X-Repo-Commit", &repo.commit);
        if content.is_lfs {
            let digest = sha256(&content.bytes);
            answer("302 Found")
                .header(
                    "Location",
                    format!("http://{store}/{digest}?signature=x&path={}", escaped(path)),
                )
                .header("X-Linked-Size", content.bytes.len().to_string())
                .header("X-Linked-ETag", format!("\"{digest}\""))
        } else {
            answer("307 Temporary Redirect")
                .header("Location", format!("/api/resolve-cache/{name}/{}", escaped(path)))
        }
    }

    fn small(&self, name: &str, path: &str) -> Answer {
        let Some(repo) = self.repos.get(name) else {
            return Answer::new("404 Not Found");
        };
        let bytes = &repo.files[path].bytes;
        // 40 digits, as those of git
        let etag = format!("\"{}\"", &sha256(bytes)[..40]);
        Answer {
            body: bytes.to_vec(),
            ..Answer::new("200 OK")
                .header("ETag", etag)
                .header("X-Repo-Commit", &repo.commit)
        }
    }
}

/// What the store answers, and after how many bytes of it the connection breaks.
fn stored(state: &mut State, request: &Seen) -> (Answer, Option<usize>) {
    let (digest, query) = request
        .target
        .trim_start_matches('/')
        .split_once('?')
        .expect("a signature");
    let path = unescaped(query.split_once("path=").expect("a path").1);
    let contents = state.repos.values().flat_map(|repo| repo.files.values());
    let found = contents
        .into_iter()
        .find(|content| sha256(&content.bytes) == digest);
    let Some(content) = found.cloned() else {
        return (Answer::new("404 Not Found"), None);
    };
    let faults = state.faults.get_mut(&path).filter(|_| request.method == "GET");
    let fault = faults
        .filter(|faults| !faults.is_empty())
        .map(|faults| faults.remove(0));
    let mut bytes = content.bytes.to_vec();
    let n = bytes.len();
    match fault {
        Some(Fault::Busy) => return (Answer::new("503 Service Unavailable"), None),
        Some(Fault::Damage) => bytes[0] ^= 0xff,
        _ => {}
    }
    // a store's own ETag is not that of the file
    let ok = |status| {
        Answer::new(status)
            .header("ETag", "\"of-the-store\"")
            .header("Accept-Ranges", "bytes")
    };
    let from = request
        .range
        .as_deref()
        .filter(|_| fault != Some(Fault::IgnoreRange));
    let from = from.and_then(|range| {
        range
            .strip_prefix("bytes=")?
            .strip_suffix('-')?
            .parse::<usize>()
            .ok()
    });
    let answer = match from {
        Some(from) if from >= n => Answer::new("416 Range Not Satisfiable"),
        Some(from) => Answer {
            body: bytes.split_off(from),
            ..ok("206 Partial Content").header("Content-Range", format!("bytes {from}-{}/{n}", n - 1))
        },
        None => Answer {
            body: bytes,
            ..ok("200 OK")
        },
    };
    let pause = Duration::from_secs(u64::from(fault == Some(Fault::Slow)));
    let answer = Answer { pause, ..answer };
    let limit = match fault {
        Some(Fault::BreakAfter(n)) => Some(n),
        _ => None,
    };
    (answer, limit)
}

fn read_request(reader: &mut impl BufRead, is_store: bool) -> Option<Seen> {
    let mut line = String::new();
    reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|&n| n > 0)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        headers.insert(name.to_ascii_lowercase(), value.to_owned());
    }
    Some(Seen {
        is_store,
        method,
        target,
        range: headers.remove("range"),
        authorization: headers.remove("authorization"),
    })
}

/// Every byte that is no letter or digit, so that whoever asks has to take the address as it is.
fn escaped(path: &str) -> String {
    let escape = |byte: u8| match byte {
        b'/' | b'0'..=b'9' | b'A'..=b'Z' | b'a'..=b'z' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    path.bytes().map(escape).collect()
}

fn unescaped(path: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = path.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        let escaped = (byte == b'%').then(|| std::str::from_utf8(after.get(..2)?).ok());
        match escaped.flatten().and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).expect("is text")
}
