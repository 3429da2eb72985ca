//! Where models are fetched from and where they are kept, as Python's `huggingface_hub` reads it from the environment.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::error::Error;

/// Where `huggingface_hub` goes without `HF_ENDPOINT`.
const ENDPOINT: &str = "https://huggingface.co";

/// Every variable that is read.
mod vars {
    pub const ENDPOINT: &str = "HF_ENDPOINT";
    pub const TOKEN: &str = "HF_TOKEN";
    pub const TOKEN_OLD: &str = "HUGGING_FACE_HUB_TOKEN";
    pub const TOKEN_PATH: &str = "HF_TOKEN_PATH";
    pub const OFFLINE: &str = "HF_HUB_OFFLINE";
    pub const CACHE: &str = "HF_HUB_CACHE";
    pub const CACHE_OLD: &str = "HUGGINGFACE_HUB_CACHE";
    pub const HOME: &str = "HF_HOME";
    pub const XDG_CACHE: &str = "XDG_CACHE_HOME";
    pub const CERTIFICATES: &str = "SSL_CERT_FILE";
}

/// How a model is fetched.
#[derive(Debug, Clone)]
pub struct Options {
    /// The hub's address, without a slash at its end.
    pub endpoint: String,
    /// What shows the hub who asks. It is sent to the endpoint and nowhere else.
    pub token: Option<Token>,
    /// The folder of the cache, which other programs may share.
    pub cache: PathBuf,
    /// Take what is in the cache, and ask nobody.
    pub is_offline: bool,
    /// Whether the projector that belongs to the model is fetched, too.
    pub with_projector: bool,
    /// Root certificates (PEM) to trust instead of those of Mozilla's list.
    pub certificates: Option<PathBuf>,
}

/// A token of the hub. It is not shown by `{:?}`.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// A token, without blanks at its ends.
    ///
    /// # Errors
    /// [`Error::Token`] for an empty one and for characters that no header may hold.
    pub fn new(text: &str) -> Result<Self, Error> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(Error::Token);
        }
        Ok(Self(text.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(..)")
    }
}

impl Options {
    /// What the environment says: `HF_ENDPOINT`; `HF_TOKEN`, or the token that `hf auth login` has left; `HF_HUB_CACHE`, or
    /// `hub` in `HF_HOME`, or `~/.cache/huggingface/hub`; `HF_HUB_OFFLINE`; `SSL_CERT_FILE`. The projector is fetched, too.
    ///
    /// # Errors
    /// [`Error::Token`], and [`Error::NoCache`] where neither a variable nor a home folder says where to keep models.
    pub fn from_env() -> Result<Self, Error> {
        Self::from_vars(&|name| std::env::var_os(name), std::env::home_dir())
    }

    fn from_vars(var: &dyn Fn(&str) -> Option<OsString>, user: Option<PathBuf>) -> Result<Self, Error> {
        let env = Env { var, user };
        Ok(Self {
            endpoint: env.endpoint(),
            token: env.token()?,
            cache: env.cache().ok_or(Error::NoCache)?,
            is_offline: env.text(vars::OFFLINE).is_some_and(|text| is_true(&text)),
            with_projector: true,
            certificates: env.path(vars::CERTIFICATES),
        })
    }
}

/// Variables, of which an empty one counts as none, and the user's folder.
struct Env<'a> {
    var: &'a dyn Fn(&str) -> Option<OsString>,
    user: Option<PathBuf>,
}

impl Env<'_> {
    fn value(&self, name: &str) -> Option<OsString> {
        (self.var)(name).filter(|value| !value.is_empty())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.value(name)
            .map(|value| value.to_string_lossy().trim().to_owned())
    }

    /// `~` at the beginning is the user's folder.
    fn path(&self, name: &str) -> Option<PathBuf> {
        let path = PathBuf::from(self.value(name)?);
        match (path.strip_prefix("~"), &self.user) {
            (Ok(rest), Some(user)) => Some(user.join(rest)),
            _ => Some(path),
        }
    }

    fn endpoint(&self) -> String {
        let endpoint = self.text(vars::ENDPOINT);
        endpoint.map_or_else(
            || ENDPOINT.to_owned(),
            |address| address.trim_end_matches('/').to_owned(),
        )
    }

    /// Where `huggingface_hub` keeps everything.
    fn home(&self) -> Option<PathBuf> {
        let xdg = || self.path(vars::XDG_CACHE);
        let usual = || Some(self.user.as_ref()?.join(".cache"));
        let in_cache = || Some(xdg().or_else(usual)?.join("huggingface"));
        self.path(vars::HOME).or_else(in_cache)
    }

    fn cache(&self) -> Option<PathBuf> {
        let given = self.path(vars::CACHE).or_else(|| self.path(vars::CACHE_OLD));
        given.or_else(|| Some(self.home()?.join("hub")))
    }

    fn token(&self) -> Result<Option<Token>, Error> {
        let given = self.text(vars::TOKEN).or_else(|| self.text(vars::TOKEN_OLD));
        let kept = || {
            let path = self.path(vars::TOKEN_PATH);
            saved(&path.or_else(|| Some(self.home()?.join("token")))?)
        };
        given.or_else(kept).map(|text| Token::new(&text)).transpose()
    }
}

/// The token in a file, if there is one.
fn saved(path: &Path) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text).filter(|text| !text.trim().is_empty())
}

/// As `huggingface_hub` reads switches.
fn is_true(text: &str) -> bool {
    ["1", "ON", "YES", "TRUE"].contains(&text.to_ascii_uppercase().as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(vars: &[(&str, &str)], user: Option<&str>) -> Result<Options, Error> {
        let vars = vars.to_vec();
        let var = move |name: &str| {
            let found = vars.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| OsString::from(value))
        };
        Options::from_vars(&var, user.map(PathBuf::from))
    }

    #[test]
    fn folders_are_those_of_huggingface_hub() {
        let cache = |vars: &[(&str, &str)]| options(vars, Some("/home/a")).expect("options").cache;
        for (vars, folder) in [
            (vec![], "/home/a/.cache/huggingface/hub"),
            (vec![("HF_HOME", "")], "/home/a/.cache/huggingface/hub"),
            (vec![("XDG_CACHE_HOME", "/x")], "/x/huggingface/hub"),
            (vec![("XDG_CACHE_HOME", "/x"), ("HF_HOME", "/h")], "/h/hub"),
            (vec![("HF_HOME", "~/h")], "/home/a/h/hub"),
            (vec![("HF_HOME", "/h"), ("HUGGINGFACE_HUB_CACHE", "/o")], "/o"),
            (
                vec![("HUGGINGFACE_HUB_CACHE", "/o"), ("HF_HUB_CACHE", "/c")],
                "/c",
            ),
        ] {
            assert_eq!(cache(&vars), PathBuf::from(folder), "{vars:?}");
        }
        assert!(matches!(options(&[], None), Err(Error::NoCache)));
        assert_eq!(
            options(&[("HF_HOME", "/h")], None).expect("options").cache,
            PathBuf::from("/h/hub")
        );
    }

    #[test]
    fn switches_and_addresses() {
        let plain = options(&[], Some("/a")).expect("options");
        assert_eq!(
            (plain.endpoint.as_str(), plain.is_offline, plain.with_projector),
            ("https://huggingface.co", false, true)
        );
        for (value, is_offline) in [
            ("1", true),
            ("true", true),
            ("Yes", true),
            ("0", false),
            ("off", false),
        ] {
            let options = options(&[("HF_HUB_OFFLINE", value)], Some("/a")).expect("options");
            assert_eq!(options.is_offline, is_offline, "{value}");
        }
        let mirror = options(&[("HF_ENDPOINT", "http://127.0.0.1:80/")], Some("/a")).expect("options");
        assert_eq!(mirror.endpoint, "http://127.0.0.1:80");
    }

    #[test]
    fn tokens_come_from_variables_or_a_file_and_are_not_shown() {
        let folder = tempfile::tempdir().expect("a folder");
        let home = folder.path().to_str().expect("text");
        let token = |vars: &[(&str, &str)]| {
            let all = [&[("HF_HOME", home)], vars].concat();
            options(&all, None).map(|options| options.token.map(|token| token.0))
        };
        assert_eq!(token(&[]).expect("options"), None);
        std::fs::write(folder.path().join("token"), "hf_file\n").expect("writes");
        std::fs::write(folder.path().join("other"), "\n").expect("writes");
        let other = format!("{home}/other");
        for (vars, expected) in [
            (vec![], Some("hf_file")),
            (vec![("HF_TOKEN", " hf_a ")], Some("hf_a")),
            (vec![("HUGGING_FACE_HUB_TOKEN", "hf_o")], Some("hf_o")),
            (
                vec![("HUGGING_FACE_HUB_TOKEN", "hf_o"), ("HF_TOKEN", "hf_a")],
                Some("hf_a"),
            ),
            (vec![("HF_TOKEN_PATH", other.as_str())], None),
        ] {
            assert_eq!(token(&vars).expect("options").as_deref(), expected, "{vars:?}");
        }
        assert!(matches!(token(&[("HF_TOKEN", "hf a")]), Err(Error::Token)));
        let options = options(&[("HF_TOKEN", "hf_secret")], Some("/a")).expect("options");
        assert!(!format!("{options:?}").contains("secret"));
    }
}
