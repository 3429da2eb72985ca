//! What is said while a model is fetched.

use std::ops::ControlFlow;

use super::error::Error;

/// What is being done.
#[derive(Debug)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// The hub is asked what the repository has.
    Asking,
    /// Another process downloads this file. Said a few times per second.
    Waiting {
        /// Its path in the repository.
        file: &'a str,
    },
    /// The file is downloaded. Said at the beginning, where a part may be there already, and with every piece that comes.
    Downloading {
        /// Its path in the repository.
        file: &'a str,
        /// Bytes that are there.
        done: u64,
        /// Bytes that it has.
        total: u64,
    },
    /// The download broke off, and is tried again. Said a few times per second until then.
    Retrying {
        /// Its path in the repository.
        file: &'a str,
        /// What the network says.
        reason: &'a str,
    },
    /// All has come, and is compared with what the hub has announced.
    Checking {
        /// Its path in the repository.
        file: &'a str,
        /// Bytes that were looked at.
        done: u64,
        /// Bytes that it has.
        total: u64,
    },
    /// The hub does not answer, and what is in the cache is taken instead.
    FromCache {
        /// Why it was not asked.
        error: &'a Error,
    },
}

/// Who is told, and says whether to go on.
pub(super) type OnProgress<'a> = &'a mut dyn FnMut(Progress<'_>) -> ControlFlow<()>;

/// Goes on with fetching from `repo`, or stops.
///
/// # Errors
/// [`Error::Stopped`]
pub(super) fn go_on(told: ControlFlow<()>, repo: &str) -> Result<(), Error> {
    match told {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::Stopped {
            repo: repo.to_owned(),
        }),
    }
}
