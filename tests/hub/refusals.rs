//! What cannot be fetched, and what is said about it.

use visipruner::hub::{Error, Token};

use super::server::{Access, POOR_TOKEN, Repo, TOKEN};
use super::{REPO, Setup, bytes, read};

fn setup(access: Access) -> Setup {
    let setup = Setup::new();
    setup.hub.put(
        REPO,
        Repo::new(3)
            .lfs("llava.gguf", &bytes(900, 1))
            .small("llava.policy.toml", b"")
            .access(access),
    );
    setup
}

fn with_token(mut setup: Setup, token: &str) -> Setup {
    setup.options.token = Some(Token::new(token).expect("a token"));
    setup
}

#[track_caller]
fn assert_said(error: &str, parts: &[&str]) {
    assert!(!error.contains('\n'), "{error}");
    for part in parts {
        assert!(error.contains(part), "{part:?} is not in {error:?}");
    }
}

#[test]
fn repositories_that_are_not_there_or_not_for_everybody() {
    for setup in [
        setup(Access::Private),
        with_token(setup(Access::Private), POOR_TOKEN),
    ] {
        let has_token = setup.options.token.is_some();
        let error = setup.fetch(REPO).expect_err("fails");
        assert!(
            matches!(error, Error::NoRepository { has_token: said, .. } if said == has_token),
            "{error}"
        );
        let what_to_do = if has_token {
            "does not let this token see it"
        } else {
            "set HF_TOKEN"
        };
        assert_said(
            &error.to_string(),
            &["has no repository user/llava-GGUF", what_to_do, "check the name"],
        );
    }
    assert_said(
        &setup(Access::Everybody).error("user/none"),
        &["has no repository user/none"],
    );
    let setup = with_token(setup(Access::Private), TOKEN);
    assert_eq!(read(&setup.fetch(REPO).expect("is fetched").model), bytes(900, 1));
}

#[test]
fn gated_repositories() {
    let anonymous = setup(Access::Gated);
    let terms = format!("accept its terms at {}/{REPO}", anonymous.hub.endpoint());
    assert_said(
        &anonymous.error(REPO),
        &["user/llava-GGUF is gated", &terms, "set HF_TOKEN"],
    );
    let poor = with_token(setup(Access::Gated), POOR_TOKEN);
    assert_said(
        &poor.error(REPO),
        &["is gated", "with the account that HF_TOKEN belongs to"],
    );
    for setup in [anonymous, poor] {
        assert!(setup.blobs().is_empty());
        let setup = with_token(setup, TOKEN);
        assert_eq!(read(&setup.fetch(REPO).expect("is fetched").model), bytes(900, 1));
    }
}

#[test]
fn tokens_that_the_hub_does_not_know() {
    let setup = with_token(setup(Access::Everybody), "hf_wrong");
    assert_said(
        &setup.error(REPO),
        &["refuses the token", "Invalid credentials", "settings/tokens"],
    );
}

#[test]
fn the_token_stays_with_the_hub() {
    let setup = with_token(setup(Access::Private), TOKEN);
    setup.fetch(REPO).expect("is fetched");
    let seen = setup.hub.seen();
    assert!(
        seen.iter().any(|request| request.is_store)
            && seen
                .iter()
                .any(|request| request.target.contains("resolve-cache"))
    );
    for request in seen {
        assert_eq!(request.authorization.is_some(), !request.is_store, "{request:?}");
    }
}

#[test]
fn models_that_the_repository_does_not_have() {
    let setup = Setup::new();
    setup.hub.put(
        REPO,
        Repo::new(1).lfs("a-Q4_0.gguf", b"a").lfs("mmproj-f16.gguf", b"b"),
    );
    assert_said(
        &setup.error(&format!("{REPO}:Q9")),
        &["has no model called Q9", "it has a-Q4_0.gguf"],
    );
    setup.hub.put(
        REPO,
        Repo::new(2)
            .lfs("mmproj-f16.gguf", b"b")
            .lfs("model.safetensors", b"c"),
    );
    assert_said(&setup.error(REPO), &["has no model", "no language model in GGUF"]);
    setup
        .hub
        .put(REPO, Repo::new(3).lfs("a-00001-of-00002.gguf", b"a"));
    assert_said(
        &setup.error(REPO),
        &["lacks a-00002-of-00002.gguf", "another quantization"],
    );
    assert!(setup.blobs().is_empty());
}

#[test]
fn paths_that_lead_out_of_the_cache_are_not_there() {
    let setup = Setup::new();
    setup.hub.put(
        REPO,
        Repo::new(1)
            .lfs("../../../evil.gguf", b"a")
            .lfs("/evil.gguf", b"a"),
    );
    assert_said(&setup.error(REPO), &["no language model"]);
}

#[test]
fn hubs_that_are_none() {
    let mut setup = setup(Access::Everybody);
    setup.hub.always(429, "429 Too Many Requests");
    assert_said(&setup.error(REPO), &["takes no more requests", "wait"]);
    setup.hub.always(500, "500 Internal Server Error");
    assert_said(
        &setup.error(REPO),
        &[
            "/api/models/user/llava-GGUF/revision/main answered 500",
            "HF_ENDPOINT",
        ],
    );
    setup.hub.always(200, "200 OK");
    assert_said(&setup.error(REPO), &["no list of files in JSON"]);
    for endpoint in ["huggingface.co", "ftp://huggingface.co", ""] {
        setup.options.endpoint = endpoint.to_owned();
        assert_said(&setup.error(REPO), &["no address of a hub", "HF_ENDPOINT"]);
    }
    setup.options.endpoint = "https://127.0.0.1:1".to_owned();
    assert_said(&setup.error(REPO), &["cannot reach https://127.0.0.1:1"]);
}

#[test]
fn certificates_that_are_none() {
    let mut setup = setup(Access::Everybody);
    for path in ["missing.pem", "empty.pem"] {
        std::fs::write(setup.folder.path().join("empty.pem"), "none").expect("writes");
        setup.options.certificates = Some(setup.folder.path().join(path));
        assert_said(&setup.error(REPO), &["SSL_CERT_FILE", path, "no certificates"]);
    }
}

#[test]
fn a_cache_that_cannot_be_written() {
    let mut setup = setup(Access::Everybody);
    let file = setup.folder.path().join("file");
    std::fs::write(&file, "").expect("writes");
    setup.options.cache = file;
    assert_said(&setup.error(REPO), &["cannot create", "models--user--llava-GGUF"]);
}
