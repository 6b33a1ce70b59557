//! A directory as a store.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    store::{Key, Store, conflict, missing, short},
    sys,
};

/// Deepest folder looked into by `list`; a vault has four levels.
const DEPTH_MAX: usize = 8;

/// Objects as files below a directory.
#[derive(Debug)]
pub struct Local {
    root: PathBuf,
}

impl Local {
    /// Uses `root`, which need not exist before the first `put`.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.as_str())
    }

    fn open(&self, key: &Key) -> Result<File> {
        File::open(self.path(key)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => missing(key),
            _ => Error::io(format!("cannot open {key} in {}", self.describe()), e),
        })
    }

    /// Creates the folders of `path` below the root, each made durable in the one above.
    fn create_folders(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let above = folder.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if folder != self.root {
            self.create_folders(above)?;
        }
        match fs::create_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => fs::create_dir_all(folder),
            other => other,
        }?;
        sys::sync_dir(above)
    }

    fn list_folder(&self, folder: &Path, prefix: &str, depth: usize, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        let failed = |e| Error::io(format!("cannot list {}", folder.display()), e);
        let entries = match fs::read_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let path = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
            // Unfinished writes, and whatever people put there, are no objects.
            let Some(key) = Key::parse(&path) else { continue };
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() && depth < DEPTH_MAX {
                self.list_folder(&entry.path(), &path, depth + 1, each)?;
            } else if kind.is_file() {
                match entry.metadata() {
                    Ok(meta) => each(key, meta.len())?,
                    Err(e) if e.kind() == io::ErrorKind::NotFound => (),
                    Err(e) => return Err(failed(e)),
                }
            }
        }
        Ok(())
    }

    /// Whether the file at `key` holds exactly `bytes`.
    fn holds(&self, key: &Key, bytes: &[u8]) -> Result<bool> {
        if self.stat(key)? != Some(bytes.len() as u64) {
            return Ok(false);
        }
        let mut there = vec![0; bytes.len()];
        self.get(key, 0, &mut there)?;
        Ok(there == bytes)
    }
}

impl Store for Local {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let path = self.path(key);
        let failed = |e| Error::io(format!("cannot write {key} to {}", self.describe()), e);
        self.create_folders(path.parent().expect("a key lies below the root")).map_err(failed)?;
        match sys::create_durably(&path, bytes) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                if !self.holds(key, bytes)? {
                    return Err(conflict(key));
                }
                // Whoever put it may have died before it was durable.
                sys::sync_file_and_dir(&path).map_err(failed)
            }
            other => other.map_err(failed),
        }
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.open(key)?.read_exact_at(buf, offset).map_err(|e| match e.kind() {
            io::ErrorKind::UnexpectedEof => short(key),
            _ => Error::io(format!("cannot read {key} at byte {offset}"), e).as_kind(crate::error::ErrorKind::Unavailable),
        })
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        match fs::metadata(self.path(key)) {
            Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(Error::io(format!("cannot look at {key} in {}", self.describe()), e)),
        }
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.list_folder(&self.root.join(prefix), prefix, 0, each)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        let path = self.path(key);
        match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io(format!("cannot delete {key} in {}", self.describe()), e)),
            Ok(()) => sys::sync_dir(path.parent().expect("a key lies below the root"))
                .map_err(|e| Error::io(format!("cannot make the deletion of {key} durable"), e)),
        }
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}
