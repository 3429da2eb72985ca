//! The content of a file: resumed where it broke off, checked, and only then there under its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::cache::{RepoCache, failed, try_lock};
use super::client::{Client, Metadata, Place};
use super::error::Error;
use super::progress::{OnProgress, Progress, go_on};

/// Attempts one after the other in which nothing comes.
const MAX_ATTEMPTS: u32 = 5;
/// Before the second of them; before each further one twice as long.
const FIRST_DELAY: Duration = Duration::from_millis(500);
/// How often a caller that waits is asked whether to go on.
const TICK: Duration = Duration::from_millis(100);
const BUFFER_BYTES: usize = 256 << 10;

/// A file that is to come.
pub(super) struct Download<'a> {
    pub client: &'a Client<'a>,
    pub cache: &'a RepoCache,
    pub place: Place<'a>,
    pub metadata: &'a Metadata,
}

/// Why a body ended before its end.
enum Broken {
    /// The network's words.
    Network(String),
    /// Nothing that another attempt helps against.
    Final(Error),
}

impl Download<'_> {
    /// Puts the content into the cache, if it is not there.
    ///
    /// # Errors
    /// [`Error::BrokeOff`] after which another call goes on where this one ended, [`Error::Damaged`], [`Error::Stopped`], and
    /// what the hub refuses or the operating system.
    pub fn run(&self, on_progress: OnProgress<'_>) -> Result<(), Error> {
        if self.is_there() {
            return Ok(());
        }
        let lock = self.cache.open_lock(&self.metadata.etag)?;
        let path = self.cache.incomplete(&self.metadata.etag);
        while !try_lock(&lock).map_err(failed("lock", &path))? {
            let file = self.place.path;
            go_on(on_progress(Progress::Waiting { file }), self.place.repo)?;
            std::thread::sleep(TICK);
        }
        if self.is_there() {
            return Ok(());
        }
        let begun = self.get(&path, on_progress)?;
        match self.publish(&path, on_progress) {
            // what was there before is not of this file, or was damaged since
            Err(Error::Damaged { .. }) if begun > 0 => {
                self.get(&path, on_progress)?;
                self.publish(&path, on_progress)
            }
            published => published,
        }
    }

    fn is_there(&self) -> bool {
        let blob = fs::metadata(self.cache.blob(&self.metadata.etag));
        blob.is_ok_and(|blob| blob.is_file() && blob.len() == self.metadata.size)
    }

    /// Gets what is missing of the content. What comes back is how much of it was there before.
    fn get(&self, path: &Path, on_progress: OnProgress<'_>) -> Result<u64, Error> {
        let opened = OpenOptions::new().create(true).append(true).open(path);
        let file = &mut opened.map_err(failed("create", path))?;
        let length = |file: &File| Ok(file.metadata().map_err(failed("read", path))?.len());
        if self.metadata.sha256().is_none() || length(file)? > self.metadata.size {
            // nothing would tell whether its parts belong together
            file.set_len(0).map_err(failed("write", path))?;
        }
        let begun = length(file)?;
        let mut failures = 0;
        loop {
            let done = length(file)?;
            let (total, name) = (self.metadata.size, self.place.path);
            go_on(
                on_progress(Progress::Downloading {
                    file: name,
                    done,
                    total,
                }),
                self.place.repo,
            )?;
            if done == total {
                return Ok(begun);
            }
            let reason = match self.attempt(file, path, done, on_progress) {
                Ok(()) => "the connection was closed".to_owned(),
                Err(Broken::Network(reason)) => reason,
                Err(Broken::Final(error)) => return Err(error),
            };
            let now = length(file)?;
            if now == total {
                continue;
            }
            failures = if now > done { 1 } else { failures + 1 };
            if failures >= MAX_ATTEMPTS {
                return Err(Error::BrokeOff {
                    file: name.to_owned(),
                    done: now,
                    total,
                    reason,
                });
            }
            self.wait(FIRST_DELAY * (1 << (failures - 1)), &reason, on_progress)?;
        }
    }

    /// Writes what comes on one connection.
    fn attempt(
        &self,
        file: &mut File,
        path: &Path,
        done: u64,
        on_progress: OnProgress<'_>,
    ) -> Result<(), Broken> {
        let content = self
            .client
            .content(self.place, done)
            .map_err(|error| match error {
                Error::Unreachable { reason, .. } => Broken::Network(reason),
                error => Broken::Final(error),
            })?;
        let fatal = |error| Broken::Final(failed("write", path)(error));
        if content.from != done {
            file.set_len(content.from).map_err(fatal)?;
        }
        let (total, name) = (self.metadata.size, self.place.path);
        let mut done = content.from;
        let mut reader = content.reader.take(total - done);
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let n = match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Broken::Network(error.to_string())),
            };
            file.write_all(&buffer[..n]).map_err(fatal)?;
            done += n as u64;
            let told = on_progress(Progress::Downloading {
                file: name,
                done,
                total,
            });
            go_on(told, self.place.repo).map_err(Broken::Final)?;
        }
    }

    /// Gives a content its name if it is the one that the hub has announced, and throws it away if not.
    fn publish(&self, path: &Path, on_progress: OnProgress<'_>) -> Result<(), Error> {
        if let Some(expected) = self.metadata.sha256() {
            let found = self.digest(path, on_progress)?;
            if !found.eq_ignore_ascii_case(expected) {
                fs::remove_file(path).map_err(failed("remove", path))?;
                return Err(Error::Damaged {
                    file: self.place.path.to_owned(),
                    expected: expected.to_owned(),
                    found,
                });
            }
        }
        // a name that outlives a power cut stands for bytes that do
        let synced = OpenOptions::new()
            .append(true)
            .open(path)
            .and_then(|file| file.sync_all());
        let blob = self.cache.blob(&self.metadata.etag);
        let named = synced.and_then(|()| fs::rename(path, &blob));
        named.map_err(failed("write", &blob))
    }

    /// The SHA-256 of what has come.
    fn digest(&self, path: &Path, on_progress: OnProgress<'_>) -> Result<String, Error> {
        let unreadable = |error| failed("read", path)(error);
        let mut content = File::open(path).map_err(unreadable)?;
        let mut digest = Sha256::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let (file, total) = (self.place.path, self.metadata.size);
        let mut done = 0;
        loop {
            let n = content.read(&mut buffer).map_err(unreadable)?;
            if n == 0 {
                break;
            }
            digest.update(&buffer[..n]);
            done += n as u64;
            go_on(
                on_progress(Progress::Checking { file, done, total }),
                self.place.repo,
            )?;
        }
        Ok(digest
            .finalize()
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect())
    }

    fn wait(&self, time: Duration, reason: &str, on_progress: OnProgress<'_>) -> Result<(), Error> {
        let mut waited = Duration::ZERO;
        while waited < time {
            let file = self.place.path;
            go_on(on_progress(Progress::Retrying { file, reason }), self.place.repo)?;
            std::thread::sleep(TICK);
            waited += TICK;
        }
        Ok(())
    }
}
