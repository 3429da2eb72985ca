//! The content of a file: resumed where it broke off, checked, and only then there under its name.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
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
        let mut file = self.open(path)?;
        let begun = length(&file, path)?;
        let (mut done, mut n_failures) = (begun, 0);
        self.tell(done, on_progress)?;
        while done < self.metadata.size {
            let ended = self.attempt(&mut file, path, done, on_progress);
            let now = length(&file, path)?;
            if now < self.metadata.size {
                let reason = match ended {
                    Ok(()) => "the connection was closed".to_owned(),
                    Err(Broken::Network(reason)) => reason,
                    Err(Broken::Final(error)) => return Err(error),
                };
                n_failures = if now > done { 1 } else { n_failures + 1 };
                self.wait(n_failures, now, &reason, on_progress)?;
            }
            done = now;
        }
        Ok(begun)
    }

    /// What has come so far, if it can be gone on with.
    fn open(&self, path: &Path) -> Result<File, Error> {
        let opened = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path);
        let file = opened.map_err(failed("create", path))?;
        // without a digest nothing would tell whether the parts belong together
        if self.metadata.sha256().is_none() || length(&file, path)? > self.metadata.size {
            file.set_len(0).map_err(failed("write", path))?;
        }
        Ok(file)
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
        file.set_len(content.from).map_err(fatal)?;
        file.seek(SeekFrom::Start(content.from)).map_err(fatal)?;
        let mut done = content.from;
        let mut reader = content.reader.take(self.metadata.size - done);
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
            self.tell(done, on_progress).map_err(Broken::Final)?;
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
            .write(true)
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

    /// Says how much is there.
    fn tell(&self, done: u64, on_progress: OnProgress<'_>) -> Result<(), Error> {
        let (file, total) = (self.place.path, self.metadata.size);
        go_on(
            on_progress(Progress::Downloading { file, done, total }),
            self.place.repo,
        )
    }

    /// Waits for the next attempt after `n_failures` in which nothing came.
    ///
    /// # Errors
    /// [`Error::BrokeOff`] after the last one, [`Error::Stopped`]
    fn wait(
        &self,
        n_failures: u32,
        done: u64,
        reason: &str,
        on_progress: OnProgress<'_>,
    ) -> Result<(), Error> {
        let file = self.place.path;
        if n_failures >= MAX_ATTEMPTS {
            return Err(Error::BrokeOff {
                file: file.to_owned(),
                done,
                total: self.metadata.size,
                reason: reason.to_owned(),
            });
        }
        let time = FIRST_DELAY * (1 << (n_failures - 1));
        let mut waited = Duration::ZERO;
        while waited < time {
            go_on(on_progress(Progress::Retrying { file, reason }), self.place.repo)?;
            std::thread::sleep(TICK);
            waited += TICK;
        }
        Ok(())
    }
}

fn length(file: &File, path: &Path) -> Result<u64, Error> {
    Ok(file.metadata().map_err(failed("read", path))?.len())
}
