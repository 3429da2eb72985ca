//! Models from Hugging Face, downloaded once.
//!
//! ```text
//! user/repo:QUANT ─ Source ──► what the hub lists ── choose ──► model (all parts), projector, policy files
//!                                                                  │
//!           Files: paths in the cache ◄── names in a snapshot ◄── contents, resumed and checked
//! ```
//!
//! ```no_run
//! use std::ops::ControlFlow::Continue;
//! use visipruner::hub::{Options, Source};
//!
//! let source = Source::parse("ggml-org/SmolVLM-500M-Instruct-GGUF:Q8_0")?;
//! let files = source.fetch(&Options::from_env()?, |_| Continue(()))?;
//! println!("{}", files.model.display());
//! # Ok::<(), visipruner::hub::Error>(())
//! ```
//!
//! The cache is that of Python's `huggingface_hub` ([`Options::from_env`]): what one has downloaded the other finds, and both
//! wait for each other. Nothing has its name in the cache before all of it is there and, where the hub says what its SHA-256 is
//! (every file beyond some megabytes), before it was compared.
//!
//! # Why not the crate `hf-hub`?
//!
//! Neither of its lines resumes a download and checks it. Version 1.0 begins again at the first byte, compares no digest, and
//! brings 188 further packages. Version 0.5 appends what comes to what is there, whatever range it is, gives it its name
//! unchecked, and sends the token along to the store that the hub redirects to. What would be left of it is the names of the
//! cache's folders.

mod cache;
mod choose;
mod client;
mod download;
mod error;
mod options;
mod progress;
mod source;

use std::ops::ControlFlow;
use std::path::PathBuf;

use cache::RepoCache;
use choose::{Chosen, choose};
use client::{Client, Metadata, Place};
use download::Download;
pub use error::Error;
pub use options::{Options, Token};
pub use progress::Progress;
use progress::{OnProgress, go_on};
pub use source::Source;

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// The language model. Further parts of a split one, and policy files that the repository has beside it, stand in the same
    /// folder, called as in the repository.
    pub model: PathBuf,
    /// Its projector, unless there is none or it was not wanted.
    pub projector: Option<PathBuf>,
}

impl Source {
    /// Downloads what is not there yet: of the language model every part, the projector that belongs to it, and the policy files
    /// (`*.policy.toml`) beside it. A hub that does not answer is no obstacle where the cache has the model.
    ///
    /// `on_progress` is told what is done, and ends it by [`ControlFlow::Break`], at the latest when the network has said
    /// nothing for a minute; what has come by then is kept for the next time.
    ///
    /// # Errors
    /// [`Error`] has them all: a hub that cannot be reached or says no, a repository without such a model, a cache that cannot
    /// be written, [`Error::Stopped`].
    pub fn fetch(
        &self,
        options: &Options,
        mut on_progress: impl FnMut(Progress<'_>) -> ControlFlow<()>,
    ) -> Result<Files, Error> {
        let cache = RepoCache::new(&options.cache, self.repo());
        if options.is_offline {
            return self.find_in_cache(&cache, options);
        }
        match self.download(&cache, options, &mut on_progress) {
            Err(error) if error.is_unreachable() => {
                let Ok(files) = self.find_in_cache(&cache, options) else {
                    return Err(error);
                };
                go_on(on_progress(Progress::FromCache { error: &error }), self.repo())?;
                Ok(files)
            }
            fetched => fetched,
        }
    }

    fn find_in_cache(&self, cache: &RepoCache, options: &Options) -> Result<Files, Error> {
        let missing = |what: String| Error::NotCached {
            what,
            cache: options.cache.clone(),
        };
        let listing = cache.listing().ok_or_else(|| missing(self.to_string()))?;
        let chosen = choose(self, listing.paths, options.with_projector);
        let chosen = chosen.map_err(|error| match error {
            Error::Incomplete { repo, missing: part } => missing(format!("{repo}/{part}")),
            Error::NoModel { .. } => missing(self.to_string()),
            error => error,
        })?;
        Ok(files(cache, &listing.commit, &chosen))
    }

    fn download(
        &self,
        cache: &RepoCache,
        options: &Options,
        on_progress: OnProgress<'_>,
    ) -> Result<Files, Error> {
        let client = Client::new(options)?;
        go_on(on_progress(Progress::Asking), self.repo())?;
        let listing = client.listing(self.repo())?;
        let chosen = choose(self, listing.paths, options.with_projector)?;
        let place = |path| Place {
            repo: self.repo(),
            commit: &listing.commit,
            path,
        };
        // what a commit calls by a name never changes
        let is_missing = |path: &&str| !cache.path(&listing.commit, path).is_file();
        let mut missing: Vec<(&str, Metadata)> = Vec::new();
        // all of them first: what is refused is refused before gigabytes have come
        for path in chosen.files().filter(is_missing) {
            go_on(on_progress(Progress::Asking), self.repo())?;
            missing.push((path, client.metadata(place(path))?));
        }
        for (path, metadata) in &missing {
            let download = Download {
                client: &client,
                cache,
                place: place(path),
                metadata,
            };
            download.run(on_progress)?;
            cache.link(&listing.commit, path, &metadata.etag)?;
        }
        cache.set_main(&listing.commit)?;
        Ok(files(cache, &listing.commit, &chosen))
    }
}

fn files(cache: &RepoCache, commit: &str, chosen: &Chosen) -> Files {
    let path = |path: &String| cache.path(commit, path);
    Files {
        model: path(&chosen.model[0]),
        projector: chosen.projector.as_ref().map(path),
    }
}
