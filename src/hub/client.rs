//! What a hub is asked, over HTTP.
//!
//! Redirects are followed here, and not by the HTTP client: the token goes to the hub itself and to nobody that it sends us to,
//! and what a hub says about a file stands in its own answer, not in that of the store behind it.

use std::io::Read;
use std::time::Duration;

use serde::Deserialize;
use ureq::http::uri::{Authority, Scheme};
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::{Agent, Body};

use super::error::Error;
use super::options::{Options, Token};

const USER_AGENT: &str = concat!("visipruner/", env!("CARGO_PKG_VERSION"));
const MAX_REDIRECTS: usize = 5;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// How long nothing may come of a body.
const READ_TIMEOUT: Duration = Duration::from_secs(30);
/// A list of all files of a repository, generously.
const MAX_LIST_BYTES: u64 = 64 << 20;
/// What may become the name of a file in the cache.
const MAX_NAME_LEN: usize = 128;

/// A hub, and who asks it.
pub(super) struct Client<'a> {
    agent: Agent,
    endpoint: &'a str,
    origin: Origin,
    token: Option<&'a Token>,
}

/// What a repository has.
#[derive(Debug)]
pub(super) struct Listing {
    /// The commit that its main branch is at.
    pub commit: String,
    /// Paths of its files.
    pub paths: Vec<String>,
}

/// What a hub says about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Metadata {
    /// What its content is called in the cache.
    pub etag: String,
    /// Its size in bytes.
    pub size: u64,
}

impl Metadata {
    /// The SHA-256 of its content, in hexadecimal digits. Hubs name it for all that is large (LFS).
    pub fn sha256(&self) -> Option<&str> {
        let is_sha256 = self.etag.len() == 64 && self.etag.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_sha256.then_some(&self.etag)
    }
}

/// A file at one commit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub repo: &'a str,
    pub commit: &'a str,
    pub path: &'a str,
}

/// The bytes of a file, from some byte on.
pub(super) struct Content {
    /// The first byte that comes.
    pub from: u64,
    /// All bytes from there on.
    pub reader: Box<dyn Read>,
}

/// How far redirects are followed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Follow {
    /// Within the hub.
    Hub,
    /// To wherever it sends us.
    Anywhere,
}

impl<'a> Client<'a> {
    /// # Errors
    /// [`Error::Endpoint`], [`Error::Certificates`]
    pub fn new(options: &'a Options) -> Result<Self, Error> {
        let endpoint = options.endpoint.as_str();
        let no_address = || Error::Endpoint {
            endpoint: endpoint.to_owned(),
        };
        let uri: Uri = endpoint.parse().map_err(|_| no_address())?;
        Ok(Self {
            agent: agent(options)?,
            endpoint,
            origin: Origin::of(&uri).ok_or_else(no_address)?,
            token: options.token.as_ref(),
        })
    }

    /// The files of a repository's main branch.
    ///
    /// # Errors
    /// A hub that cannot be reached or refuses, [`Error::NoRepository`] first of all.
    pub fn listing(&self, repo: &str) -> Result<Listing, Error> {
        let url = format!("{}/api/models/{repo}/revision/main", self.endpoint);
        let mut answer = self.send(&Method::GET, &url, 0, Follow::Anywhere)?;
        if answer.status() != StatusCode::OK {
            return Err(self.refusal(repo, &url, &mut answer));
        }
        let text = answer
            .body_mut()
            .with_config()
            .limit(MAX_LIST_BYTES)
            .read_to_vec();
        let text = text.map_err(|error| self.unreachable(&error))?;
        let info: RepoInfo =
            serde_json::from_slice(&text).map_err(|_| strange(&url, "no list of files in JSON"))?;
        if !is_plain_name(&info.sha) {
            return Err(strange(&url, "no commit"));
        }
        let paths = info.siblings.into_iter().map(|file| file.rfilename);
        Ok(Listing {
            commit: info.sha,
            paths: paths.filter(|path| is_plain_path(path)).collect(),
        })
    }

    /// What there is to know of a file before it is downloaded.
    ///
    /// # Errors
    /// As [`Client::listing`], [`Error::Gated`] first of all.
    pub fn metadata(&self, place: Place<'_>) -> Result<Metadata, Error> {
        let url = self.url(place);
        let mut answer = self.send(&Method::HEAD, &url, 0, Follow::Hub)?;
        let status = answer.status();
        if !status.is_success() && !status.is_redirection() {
            return Err(self.refusal(place.repo, &url, &mut answer));
        }
        let headers = answer.headers();
        let etag = text(headers, "x-linked-etag").or_else(|| text(headers, "etag"));
        let etag = etag.map(|etag| etag.trim_start_matches("W/").trim_matches('"').to_owned());
        let etag = etag.filter(|etag| is_plain_name(etag));
        // the length of a redirect is that of its own text
        let length = || text(headers, "content-length").filter(|_| status.is_success());
        let size = text(headers, "x-linked-size").or_else(length);
        Ok(Metadata {
            etag: etag.ok_or_else(|| strange(&url, "without the ETag of the file"))?,
            size: size
                .and_then(|size| size.parse().ok())
                .ok_or_else(|| strange(&url, "without the size of the file"))?,
        })
    }

    /// The content of a file from a byte on, or from the beginning if the hub cannot do that.
    ///
    /// # Errors
    /// As [`Client::listing`].
    pub fn content(&self, place: Place<'_>, from: u64) -> Result<Content, Error> {
        let url = self.url(place);
        let mut answer = self.send(&Method::GET, &url, from, Follow::Anywhere)?;
        let from = match answer.status() {
            StatusCode::OK => 0,
            StatusCode::PARTIAL_CONTENT => first_byte(answer.headers())
                .filter(|&first| first == from)
                .ok_or_else(|| strange(&url, "with another range than it was asked for"))?,
            _ => return Err(self.refusal(place.repo, &url, &mut answer)),
        };
        Ok(Content {
            from,
            reader: Box::new(answer.into_body().into_reader()),
        })
    }

    fn url(&self, place: Place<'_>) -> String {
        let path = escaped(place.path);
        format!("{}/{}/resolve/{}/{path}", self.endpoint, place.repo, place.commit)
    }

    fn send(&self, method: &Method, url: &str, from: u64, follow: Follow) -> Result<Response<Body>, Error> {
        let mut uri: Uri = url.parse().map_err(|_| strange(url, "no address"))?;
        for _ in 0..=MAX_REDIRECTS {
            let request = self.request(method, &uri, from);
            let answer = self
                .agent
                .run(request)
                .map_err(|error| self.unreachable(&error))?;
            let target = answer
                .status()
                .is_redirection()
                .then(|| target(&uri, answer.headers()));
            match target.flatten() {
                Some(next) if follow == Follow::Anywhere || self.is_hub(&next) => uri = next,
                _ => return Ok(answer),
            }
        }
        Err(strange(url, "one redirect after the other"))
    }

    fn request(&self, method: &Method, uri: &Uri, from: u64) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = method.clone();
        *request.uri_mut() = uri.clone();
        let headers = request.headers_mut();
        let token = self.token.filter(|_| self.is_hub(uri));
        if let Some(value) = token.and_then(|token| format!("Bearer {}", token.as_str()).parse().ok()) {
            headers.insert(header::AUTHORIZATION, value);
        }
        if from > 0
            && let Ok(value) = format!("bytes={from}-").parse()
        {
            headers.insert(header::RANGE, value);
        }
        request
    }

    fn is_hub(&self, uri: &Uri) -> bool {
        Origin::of(uri).as_ref() == Some(&self.origin)
    }

    fn unreachable(&self, error: &ureq::Error) -> Error {
        Error::Unreachable {
            endpoint: self.endpoint.to_owned(),
            reason: error.to_string(),
        }
    }

    /// What an answer means that is no success.
    fn refusal(&self, repo: &str, url: &str, answer: &mut Response<Body>) -> Error {
        let (endpoint, repo) = (self.endpoint.to_owned(), repo.to_owned());
        let has_token = self.token.is_some();
        let status = answer.status();
        let code = text(answer.headers(), "x-error-code")
            .unwrap_or_default()
            .to_owned();
        let reason = reason(answer);
        let is_token_wrong = has_token && reason.contains("credentials");
        match (status.as_u16(), code.as_str()) {
            (_, "GatedRepo") => Error::Gated {
                endpoint,
                repo,
                has_token,
            },
            (401, _) if is_token_wrong => Error::TokenRefused {
                endpoint,
                repo,
                reason,
            },
            // of a repository that is there
            (404, "EntryNotFound" | "RevisionNotFound") => strange(url, format!("{status} {reason}").trim()),
            (401 | 404, _) => Error::NoRepository {
                endpoint,
                repo,
                has_token,
            },
            (403, _) if has_token => Error::TokenRefused {
                endpoint,
                repo,
                reason,
            },
            (429, _) => Error::TooManyRequests { endpoint },
            (502..=504, _) => Error::Unreachable {
                endpoint,
                reason: status.to_string(),
            },
            _ => strange(url, format!("{status} {reason}").trim()),
        }
    }
}

/// The part of a hub's answer that is of interest.
#[derive(Deserialize)]
struct RepoInfo {
    sha: String,
    siblings: Vec<Sibling>,
}

#[derive(Deserialize)]
struct Sibling {
    rfilename: String,
}

/// Who answers at an address.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    scheme: Scheme,
    authority: Authority,
}

impl Origin {
    fn of(uri: &Uri) -> Option<Self> {
        let scheme = uri
            .scheme()
            .filter(|scheme| [Scheme::HTTP, Scheme::HTTPS].contains(scheme));
        Some(Self {
            scheme: scheme?.clone(),
            authority: uri.authority()?.clone(),
        })
    }
}

fn agent(options: &Options) -> Result<Agent, Error> {
    let config = Agent::config_builder()
        .http_status_as_error(false)
        .max_redirects(0)
        .user_agent(USER_AGENT)
        .accept_encoding("identity")
        .timeout_resolve(Some(CONNECT_TIMEOUT))
        .timeout_connect(Some(CONNECT_TIMEOUT))
        .timeout_recv_response(Some(ANSWER_TIMEOUT))
        .timeout_per_read(Some(READ_TIMEOUT))
        .tls_config(
            TlsConfig::builder()
                .root_certs(root_certificates(options)?)
                .build(),
        );
    Ok(config.build().into())
}

fn root_certificates(options: &Options) -> Result<RootCerts, Error> {
    let Some(path) = &options.certificates else {
        return Ok(RootCerts::WebPki);
    };
    let unusable = || Error::Certificates { path: path.clone() };
    let pem = std::fs::read(path).map_err(|_| unusable())?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(unusable());
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// Where a redirect leads to.
fn target(from: &Uri, headers: &HeaderMap) -> Option<Uri> {
    let location: Uri = text(headers, "location")?.parse().ok()?;
    if location.authority().is_some() {
        return Some(location);
    }
    let mut parts = from.clone().into_parts();
    parts.path_and_query = location.into_parts().path_and_query;
    Uri::from_parts(parts).ok()
}

/// 5 of `Content-Range: bytes 5-9/10`.
fn first_byte(headers: &HeaderMap) -> Option<u64> {
    let range = text(headers, "content-range")?.strip_prefix("bytes ")?;
    range.split_once('-')?.0.trim().parse().ok()
}

/// What the hub says, in one line: a header for those that get no body, else a field of it.
fn reason(answer: &mut Response<Body>) -> String {
    let said = text(answer.headers(), "x-error-message").map(str::to_owned);
    let said = said.or_else(|| {
        let body = answer.body_mut().with_config().limit(4096).read_to_vec().ok()?;
        let body: serde_json::Value = serde_json::from_slice(&body).ok()?;
        Some(body.get("error")?.as_str()?.to_owned())
    });
    let said = said.unwrap_or_default();
    said.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

fn strange(url: &str, reason: &str) -> Error {
    Error::Answer {
        url: url.to_owned(),
        reason: reason.to_owned(),
    }
}

/// Whether a commit or an ETag can name a file or folder of the cache.
fn is_plain_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=MAX_NAME_LEN).contains(&name.len()) && name.bytes().all(is_plain)
}

/// Whether a path stays within the folder that it is put into, on every system.
fn is_plain_path(path: &str) -> bool {
    let is_plain = |part: &str| {
        !["", ".", ".."].contains(&part)
            && !part.contains(['\\', ':', '\0'])
            && !part.chars().any(char::is_control)
    };
    path.split('/').all(is_plain)
}

/// A path as it stands in an address.
fn escaped(path: &str) -> String {
    use std::fmt::Write;
    let mut escaped = String::with_capacity(path.len());
    for byte in path.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_out_of_the_cache_are_refused() {
        for path in ["a.gguf", "a/b c/d-1.gguf", "..a/b", "ä"] {
            assert!(is_plain_path(path), "{path}");
        }
        for path in [
            "", "/a", "a//b", "../a", "a/../b", "a/.", "a\\b", "c:a", "a\nb", "a\0",
        ] {
            assert!(!is_plain_path(path), "{path:?}");
        }
        for name in ["", "../x", "a/b", "a.b", "a b"] {
            assert!(!is_plain_name(name), "{name:?}");
        }
        assert!(is_plain_name("0123abcdef-5") && !is_plain_name(&"a".repeat(MAX_NAME_LEN + 1)));
    }

    #[test]
    fn paths_are_escaped() {
        assert_eq!(escaped("q4/a b+c%ä.gguf"), "q4/a%20b%2Bc%25%C3%A4.gguf");
    }

    #[test]
    fn redirects_within_the_hub_and_out_of_it() {
        let from: Uri = "https://hub.example/a/resolve/x?y=1".parse().expect("an address");
        let to = |location: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("location", location.parse().expect("a value"));
            target(&from, &headers).map(|uri| uri.to_string())
        };
        assert_eq!(to("/b?z=2").as_deref(), Some("https://hub.example/b?z=2"));
        assert_eq!(
            to("http://cdn.example/b").as_deref(),
            Some("http://cdn.example/b")
        );
        assert_eq!(target(&from, &HeaderMap::new()), None);
        let origin = |address: &str| Origin::of(&address.parse().expect("an address"));
        assert_eq!(origin("https://hub.example/x"), Origin::of(&from));
        for other in [
            "http://hub.example/x",
            "https://hub.example:444/x",
            "https://cdn.hub.example/x",
        ] {
            assert_ne!(origin(other), Origin::of(&from), "{other}");
        }
        assert_eq!(origin("ftp://hub.example"), None);
    }

    #[test]
    fn ranges() {
        let first = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("content-range", value.parse().expect("a value"));
            first_byte(&headers)
        };
        assert_eq!(first("bytes 5-9/10"), Some(5));
        for value in ["bytes */10", "lines 5-9/10", "bytes x-9/10"] {
            assert_eq!(first(value), None, "{value}");
        }
    }
}
