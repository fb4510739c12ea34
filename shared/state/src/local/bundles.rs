//! Bundles as files in a directory, by key.
//!
//! A file is finished, flushed and closed before it gets its name, and the directory is flushed afterwards. So a name
//! always stands for a whole file, even after a loss of power.

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use jiff::Timestamp;

use super::{
    adopt,
    scratch::{SCRATCH, Scratch, new_file},
};
use crate::{
    BundleInfo, BundleReader, Bundles, StoreError,
    keys::{check_key, check_prefix},
};

/// Most tries to create a file. A folder that becomes empty is removed, so a folder may vanish between its creation and
/// its use. More tries would be needed only after as many removals at just the wrong moments.
const TRIES: u32 = 10;

#[derive(Clone)]
pub(super) struct LocalBundles {
    inner: Arc<Inner>,
}

struct Inner {
    root: PathBuf,
    /// `None` if the bundles were opened for reading.
    scratch: Option<Scratch>,
    /// Names the next file in `scratch`.
    next: AtomicU64,
}

impl LocalBundles {
    /// Uses the directory `root`, and removes unfinished files that dead processes left in it. Only one process may
    /// call it at a time.
    pub(super) fn open(root: PathBuf) -> Result<Self, StoreError> {
        let scratch = Scratch::open(&root.join(SCRATCH))?;
        Ok(Self::with(root, Some(scratch)))
    }

    /// Opens the directory `root`, which need not exist, for reading. It makes and changes nothing.
    pub(super) fn look(root: PathBuf) -> Self {
        Self::with(root, None)
    }

    fn with(root: PathBuf, scratch: Option<Scratch>) -> Self {
        Self { inner: Arc::new(Inner { root, scratch, next: AtomicU64::new(0) }) }
    }

    /// Runs blocking `work` away from the async threads.
    async fn run<T: Send + 'static>(
        &self,
        action: String,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = Arc::clone(&self.inner);
        let error = match tokio::task::spawn_blocking(move || work(&inner)).await {
            Ok(Ok(done)) => return Ok(done),
            Ok(Err(error)) => error.into(),
            Err(error) => error.into(),
        };
        Err(StoreError::Unavailable { action, source: error })
    }
}

#[async_trait]
impl Bundles for LocalBundles {
    async fn put_file(&self, key: &str, from: &Path) -> Result<bool, StoreError> {
        check_key(key)?;
        let (key, from) = (key.to_owned(), from.to_path_buf());
        self.run(format!("putting {key}"), move |inner| inner.put_file(&key, &from)).await
    }

    async fn put(&self, key: &str, content: &[u8]) -> Result<(), StoreError> {
        check_key(key)?;
        let (key, content) = (key.to_owned(), content.to_vec());
        self.run(format!("putting {key}"), move |inner| inner.put(&key, &content)).await
    }

    async fn open(&self, key: &str) -> Result<Option<BundleReader>, StoreError> {
        check_key(key)?;
        let key = key.to_owned();
        self.run(format!("opening {key}"), move |inner| {
            let path = inner.root.join(&key);
            if !inner.is_file(&key)? {
                return Ok(None);
            }
            match File::open(path) {
                Ok(file) => Ok(Some(Box::new(file) as BundleReader)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                Err(e) => Err(e),
            }
        })
        .await
    }

    async fn list(&self, prefix: &str) -> Result<Vec<BundleInfo>, StoreError> {
        check_prefix(prefix)?;
        let prefix = prefix.to_owned();
        self.run(format!("listing {prefix}"), move |inner| {
            let folder = prefix.rsplit_once('/').map_or("", |(folder, _)| folder);
            let mut found = Vec::new();
            if inner.has_symlink(folder)? {
                return Ok(found);
            }
            inner.walk(folder, &prefix, &mut found)?;
            found.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(found)
        })
        .await
    }

    async fn remove(&self, key: &str) -> Result<(), StoreError> {
        check_key(key)?;
        let key = key.to_owned();
        self.run(format!("removing {key}"), move |inner| inner.remove(&key)).await
    }

    fn scratch(&self) -> &Path {
        self.inner.scratch.as_ref().map_or(&self.inner.root, |scratch| &scratch.path)
    }
}

impl Inner {
    fn put_file(&self, key: &str, from: &Path) -> io::Result<bool> {
        if !fs::symlink_metadata(from)?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "what is put is not a file"));
        }
        fs::set_permissions(from, fs::Permissions::from_mode(0o600))?;
        File::open(from)?.sync_all()?;
        let to = self.root.join(key);
        // A hard link, unlike a rename, fails where the name exists: one of two that race wins.
        let linked = self.name(key, || match fs::hard_link(from, &to) {
            Err(e) if e.kind() == io::ErrorKind::CrossesDevices => {
                let near = self.temporary()?;
                let linked = copy(from, &near).and_then(|()| fs::hard_link(&near, &to));
                discard(&near);
                linked
            }
            other => other,
        });
        let new = match linked {
            Ok(()) => {
                adopt(&to)?;
                true
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && self.is_file(key)? => false,
            Err(e) => return Err(e),
        };
        // The flush is needed even if another process created the name, because that one may not have flushed yet.
        sync_parent(&to)?;
        fs::remove_file(from)?;
        Ok(new)
    }

    fn put(&self, key: &str, content: &[u8]) -> io::Result<()> {
        let to = self.root.join(key);
        let temporary = self.temporary()?;
        let write = || {
            let mut file = new_file(&temporary)?;
            file.write_all(content)?;
            file.sync_all()?;
            self.name(key, || fs::rename(&temporary, &to))
        };
        write().inspect_err(|_| discard(&temporary))?;
        sync_parent(&to)
    }

    /// Creates the folders of `key` and then calls `naming`. Starts again if a folder was removed meanwhile.
    fn name(&self, key: &str, naming: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            let done = self.make_folders(key).and_then(|()| naming());
            match done {
                Err(e) if e.kind() == io::ErrorKind::NotFound && tries < TRIES => {}
                other => return other,
            }
        }
    }

    fn make_folders(&self, key: &str) -> io::Result<()> {
        let mut folder = self.root.clone();
        let (folders, _) = key.rsplit_once('/').unwrap_or(("", key));
        for segment in folders.split('/').filter(|s| !s.is_empty()) {
            folder.push(segment);
            match fs::symlink_metadata(&folder) {
                Ok(metadata) if metadata.is_dir() => continue,
                Ok(_) => return Err(not_a_folder(&folder)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
            match DirBuilder::new().mode(0o700).create(&folder) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {
                    adopt(&folder)?;
                    sync_parent(&folder)?;
                }
            }
        }
        Ok(())
    }

    /// Returns whether `key` is a plain file that is reached through plain folders alone.
    fn is_file(&self, key: &str) -> io::Result<bool> {
        let (folders, _) = key.rsplit_once('/').unwrap_or(("", key));
        if self.has_symlink(folders)? {
            return Ok(false);
        }
        match fs::symlink_metadata(self.root.join(key)) {
            Ok(metadata) => Ok(metadata.is_file()),
            Err(e) if is_absence(&e) => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Returns whether a part of `folders` is a symbolic link, which may lead out of the directory.
    fn has_symlink(&self, folders: &str) -> io::Result<bool> {
        let mut folder = self.root.clone();
        for segment in folders.split('/').filter(|s| !s.is_empty()) {
            folder.push(segment);
            match fs::symlink_metadata(&folder) {
                Ok(metadata) if metadata.is_symlink() => return Ok(true),
                Ok(_) => {}
                Err(e) if is_absence(&e) => return Ok(false),
                Err(e) => return Err(e),
            }
        }
        Ok(false)
    }

    fn walk(&self, folder: &str, prefix: &str, found: &mut Vec<BundleInfo>) -> io::Result<()> {
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            let entries = match fs::read_dir(self.root.join(&folder)) {
                Ok(entries) => entries,
                Err(e) if is_absence(&e) => continue,
                Err(e) => return Err(e),
            };
            for entry in entries {
                let entry = entry?;
                // Files of this program have names in UTF-8. Any other was put there by others.
                let Ok(name) = entry.file_name().into_string() else { continue };
                let key = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                if check_key(&key).is_err() {
                    continue;
                }
                // This call does not follow symbolic links.
                let metadata = match entry.metadata() {
                    Ok(metadata) => metadata,
                    Err(e) if is_absence(&e) => continue,
                    Err(e) => return Err(e),
                };
                if metadata.is_dir() {
                    if format!("{key}/").starts_with(prefix) || prefix.starts_with(&key) {
                        folders.push(key);
                    }
                } else if metadata.is_file() && key.starts_with(prefix) {
                    let modified =
                        Timestamp::try_from(metadata.modified()?).unwrap_or(Timestamp::UNIX_EPOCH);
                    found.push(BundleInfo { key, size: metadata.len(), modified });
                }
            }
        }
        Ok(())
    }

    fn remove(&self, key: &str) -> io::Result<()> {
        if !self.is_file(key)? {
            return Ok(());
        }
        match fs::remove_file(self.root.join(key)) {
            Ok(()) => {}
            Err(e) if is_absence(&e) => return Ok(()),
            Err(e) => return Err(e),
        }
        // The directory is not flushed. A file that comes back after a loss of power is worked again, which changes
        // nothing.
        let mut key = key;
        while let Some((folder, _)) = key.rsplit_once('/') {
            if fs::remove_dir(self.root.join(folder)).is_err() {
                break;
            }
            key = folder;
        }
        Ok(())
    }

    fn temporary(&self) -> io::Result<PathBuf> {
        let Some(scratch) = &self.scratch else {
            let reason = "the state was opened for looking at it";
            return Err(io::Error::new(io::ErrorKind::Unsupported, reason));
        };
        // The name differs from any that a caller would choose for its own files here.
        let n = self.next.fetch_add(1, Ordering::Relaxed);
        Ok(scratch.path.join(format!(".put-{n}")))
    }
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut file = new_file(to)?;
    io::copy(&mut File::open(from)?, &mut file)?;
    file.sync_all()
}

/// Removes a file that is not needed any more. If that fails, the next process removes it.
fn discard(path: &Path) {
    drop(fs::remove_file(path));
}

/// Makes the name `path` durable.
fn sync_parent(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) => File::open(parent)?.sync_all(),
        None => Ok(()),
    }
}

fn is_absence(error: &io::Error) -> bool {
    // A segment of the key may be a file of another key, so there is nothing under this one.
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn not_a_folder(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::NotADirectory,
        format!("{} is not a plain directory", path.display()),
    )
}
