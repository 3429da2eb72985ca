//! What keeps a model from being fetched, in words.

use std::path::PathBuf;

/// What was attempted, with which value, and what to do. Every message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text that names no repository.
    #[error("{given:?} is no repository of Hugging Face ({reason}): write user/repo, or user/repo:QUANT")]
    Source {
        /// The text.
        given: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A token that cannot be sent.
    #[error("the token for Hugging Face holds blanks or other characters that no token has: copy it again")]
    Token,

    /// A hub that cannot be asked.
    #[error("{endpoint:?} is no address of a hub: HF_ENDPOINT must begin with https:// or http://")]
    Endpoint {
        /// What was given.
        endpoint: String,
    },

    /// No home folder, and no other place.
    #[error("there is no folder to keep models in: set HF_HOME to one")]
    NoCache,

    /// A file of root certificates that cannot be used.
    #[error("SSL_CERT_FILE {} holds no certificates that can be read: correct it, or unset it", path.display())]
    Certificates {
        /// The file.
        path: PathBuf,
    },

    /// No such repository, or none that this token, or nobody without one, may see.
    #[error(
        "{endpoint} has no repository {repo}{}",
        if *has_token { ", or its owner does not let this token see it: check the name" }
        else { ", or it is private: check the name, or set HF_TOKEN to a token that may read it" }
    )]
    NoRepository {
        /// The hub.
        endpoint: String,
        /// The repository.
        repo: String,
        /// Whether a token was sent.
        has_token: bool,
    },

    /// A repository whose terms have to be accepted first.
    #[error(
        "{repo} is gated: accept its terms at {endpoint}/{repo}, {}",
        if *has_token { "with the account that HF_TOKEN belongs to" }
        else { "and set HF_TOKEN to a token of the account that did" }
    )]
    Gated {
        /// The hub.
        endpoint: String,
        /// The repository.
        repo: String,
        /// Whether a token was sent.
        has_token: bool,
    },

    /// A token that the hub does not know, or that may not read the repository.
    #[error(
        "{endpoint} refuses the token for {repo}{}: make one with read access at {endpoint}/settings/tokens",
        in_brackets(reason)
    )]
    TokenRefused {
        /// The hub.
        endpoint: String,
        /// The repository.
        repo: String,
        /// The hub's words, if it says any.
        reason: String,
    },

    /// Too many requests.
    #[error(
        "{endpoint} takes no more requests for now: wait a few minutes, or set HF_TOKEN, which has a limit of its own"
    )]
    TooManyRequests {
        /// The hub.
        endpoint: String,
    },

    /// A repository without the model that was asked for.
    #[error("{repo} has no {wanted}: {}", choices(found))]
    NoModel {
        /// The repository.
        repo: String,
        /// What was looked for.
        wanted: String,
        /// The models that it has.
        found: Vec<String>,
    },

    /// A split model of which a part is missing.
    #[error("{repo} lacks {missing}, a part of its split model: choose another quantization")]
    Incomplete {
        /// The repository.
        repo: String,
        /// The part.
        missing: String,
    },

    /// Something that was never downloaded, and may not be now.
    #[error("{what} is not in the cache {}, and nothing is downloaded offline: fetch it once with a connection", cache.display())]
    NotCached {
        /// The repository, or what is missing of it.
        what: String,
        /// The cache.
        cache: PathBuf,
    },

    /// A hub that does not answer.
    #[error("cannot reach {endpoint}: {reason}; check the connection")]
    Unreachable {
        /// The hub.
        endpoint: String,
        /// What the network says.
        reason: String,
    },

    /// A hub that answers, but not as one does.
    #[error("{url} answered {reason}: try again later, or check that HF_ENDPOINT is a hub")]
    Answer {
        /// What was asked for.
        url: String,
        /// The answer.
        reason: String,
    },

    /// A download that broke off again and again.
    #[error(
        "the download of {file} broke off at {done} of {total} bytes: {reason}; started again, it goes on from there"
    )]
    BrokeOff {
        /// The file.
        file: String,
        /// Bytes that are there.
        done: u64,
        /// Bytes that it has.
        total: u64,
        /// What the network says.
        reason: String,
    },

    /// Bytes that are not those of the file.
    #[error(
        "{file} arrived damaged (SHA-256 {found}, the hub says {expected}) and was thrown away: download it again"
    )]
    Damaged {
        /// The file.
        file: String,
        /// The digest that the hub names.
        expected: String,
        /// The digest of what arrived.
        found: String,
    },

    /// A folder or file of the cache that cannot be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The folder or file.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },

    /// The caller stopped it.
    #[error("fetching {repo} was stopped: started again, it goes on from there")]
    Stopped {
        /// The repository.
        repo: String,
    },
}

impl Error {
    /// Whether the hub could not be asked, as opposed to having said no.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }

    /// Whether a token, or another one, may set it right.
    pub fn wants_token(&self) -> bool {
        matches!(
            self,
            Self::NoRepository { .. }
                | Self::Gated { .. }
                | Self::TokenRefused { .. }
                | Self::TooManyRequests { .. }
        )
    }
}

fn in_brackets(reason: &str) -> String {
    if reason.is_empty() {
        String::new()
    } else {
        format!(" ({reason})")
    }
}

fn choices(found: &[String]) -> String {
    if found.is_empty() {
        "it holds no language model in GGUF files".to_owned()
    } else {
        format!("it has {}", found.join(", "))
    }
}
