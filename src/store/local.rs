//! A directory as a store.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::{FileExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, ErrorKind, Result},
    store::{Key, Store, Upload, conflict, missing, short},
    sys,
};

/// Deepest folder looked into; a vault has four levels.
const DEPTH_MAX: usize = 8;

/// Bytes compared at once.
const COMPARE_LEN: usize = 1 << 20;

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

    /// The key of the file at `path`; unfinished writes, and whatever people put there, are no objects.
    fn key(&self, path: &Path) -> Option<Key> {
        path.strip_prefix(&self.root).ok().and_then(Path::to_str).and_then(Key::parse)
    }

    fn open(&self, key: &Key) -> Result<File> {
        sys::open_at_once(&self.path(key)).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => missing(key),
            _ => Error::io(format!("cannot open {key} in {}", self.describe()), e),
        })
    }

    /// Starts a file in the folder of `path`; `what` names it in messages until it has a key.
    fn begin_in(&self, path: &Path, what: &str) -> Result<LocalUpload> {
        let folder = path.parent().expect("a key lies below the root");
        let failed = |e| Error::io(format!("cannot write {what} to {}", self.describe()), e);
        self.create_folders(folder).map_err(failed)?;
        let file = sys::NewFile::begin(folder).map_err(failed)?;
        Ok(LocalUpload { store: Local::new(&self.root), file, what: what.to_owned() })
    }

    /// Creates the folders of `path` below the root, each made durable in the one above. Where hosts of several users seal, who made a folder
    /// must not be the only one who can use it: it is as open as the one above.
    fn create_folders(&self, folder: &Path) -> io::Result<()> {
        if folder.is_dir() {
            return Ok(());
        }
        let above = folder.parent().ok_or(io::ErrorKind::InvalidInput)?;
        if folder != self.root {
            self.create_folders(above)?;
        }
        match sys::create_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => sys::create_dirs(folder),
            Ok(()) if folder != self.root => {
                let mode = |path: &Path| fs::metadata(path).map(|meta| meta.mode() & 0o7777);
                match mode(above)? {
                    wanted if wanted != mode(folder)? => fs::set_permissions(folder, fs::Permissions::from_mode(wanted)),
                    _ => Ok(()),
                }
            }
            other => other,
        }?;
        sys::sync_dir(above)
    }

    /// Calls `each` with everything below `folder` that is no directory, objects or not, and whether it is a regular file. What a file
    /// system puts into its root is passed over.
    fn walk(&self, folder: &Path, depth: usize, each: &mut dyn FnMut(&Path, bool) -> Result<()>) -> Result<()> {
        let failed = |e| Error::io(format!("cannot list {}", folder.display()), e);
        let entries = match fs::read_dir(folder) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            match kind.is_dir() {
                true if depth == 0 && entry.file_name() == "lost+found" => (),
                true if depth < DEPTH_MAX => self.walk(&entry.path(), depth + 1, each)?,
                _ => each(&entry.path(), kind.is_file())?,
            }
        }
        Ok(())
    }

    /// Whether the file at `key` holds exactly what the file `ours` does.
    fn holds(&self, key: &Key, ours: &File) -> Result<bool> {
        let failed = |e| Error::io(format!("cannot compare {key} with what is to be written"), e);
        let len = ours.metadata().map_err(failed)?.len();
        if self.stat(key)? != Some(len) {
            return Ok(false);
        }
        let mut at = 0;
        let mut there = vec![0; COMPARE_LEN.min(usize::try_from(len).unwrap_or(COMPARE_LEN))];
        while at < len {
            let n = there.len().min(usize::try_from(len - at).unwrap_or(there.len()));
            self.get(key, at, &mut there[..n])?;
            if sys::read_at(ours, at, n).map_err(failed)? != there[..n] {
                return Ok(false);
            }
            at += n as u64;
        }
        Ok(true)
    }
}

impl Store for Local {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        let mut upload = self.begin_in(&self.path(key), key.as_str())?;
        upload.write(bytes)?;
        Box::new(upload).commit(key)
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        Ok(Box::new(self.begin_in(&self.root.join("packs/new"), "a pack")?))
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        read(&self.open(key)?, key, offset, buf)
    }

    fn start(&self, key: &Key, len_max: usize) -> Result<Option<(Vec<u8>, u64)>> {
        let file = match self.open(key) {
            Err(e) if e.kind() == ErrorKind::Missing => return Ok(None),
            file => file?,
        };
        let meta = file.metadata().map_err(|e| Error::io(format!("cannot look at {key} in {}", self.describe()), e))?;
        if !meta.is_file() {
            return Ok(None);
        }
        let mut bytes = vec![0; usize::try_from(meta.len()).unwrap_or(usize::MAX).min(len_max)];
        read(&file, key, 0, &mut bytes)?;
        Ok(Some((bytes, meta.len())))
    }

    fn expect(&self, key: &Key, offset: u64, len: u64) {
        // Whoever reads it meets what is wrong with it, and tells it.
        if let Ok(file) = self.open(key) {
            sys::expect_reads(&file, offset, len);
        }
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        match fs::metadata(self.path(key)) {
            Ok(meta) if meta.is_file() => Ok(Some(meta.len())),
            Ok(_) => Ok(None),
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
            Err(e) => Err(Error::io(format!("cannot look at {key} in {}", self.describe()), e)),
        }
    }

    fn stored_ns(&self, key: &Key) -> Result<Option<i128>> {
        let failed = |e| Error::io(format!("cannot look at {key} in {}", self.describe()), e);
        match fs::metadata(self.path(key)) {
            Ok(meta) => Ok(Some(i128::from(meta.mtime()) * 1_000_000_000 + i128::from(meta.mtime_nsec()))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(failed(e)),
        }
    }

    fn room(&self) -> Result<Option<u64>> {
        let failed = |e| Error::io(format!("cannot ask how much is free in {}", self.describe()), e);
        sys::free_bytes(&self.root).map_err(failed)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.walk(&self.root.join(prefix), 0, &mut |path, _| {
            let Some(key) = self.key(path) else { return Ok(()) };
            match fs::symlink_metadata(path) {
                Ok(meta) if meta.is_file() => each(key, meta.len()),
                Ok(_) => Ok(()),
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(e) => Err(Error::io(format!("cannot look at {key} in {}", self.describe()), e)),
            }
        })
    }

    fn names(&self, prefix: &str, each: &mut dyn FnMut(Key)) -> Result<()> {
        self.walk(&self.root.join(prefix), 0, &mut |path, is_file| {
            if let Some(key) = self.key(path).filter(|_| is_file) {
                each(key);
            }
            Ok(())
        })
    }

    fn replace(&self, key: &Key, bytes: &[u8], aside: &Key) -> Result<()> {
        let (path, aside_path) = (self.path(key), self.path(aside));
        let failed = |e| Error::io(format!("cannot put a sound {key} in place of the damaged one in {}", self.describe()), e);
        let mut upload = self.begin_in(&path, key.as_str())?;
        upload.write(bytes)?;
        self.create_folders(aside_path.parent().expect("a key lies below the root")).map_err(failed)?;
        upload.file.replace(&path, &aside_path).map_err(failed)
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

    fn is_empty(&self) -> Result<bool> {
        let mut empty = true;
        self.walk(&self.root, 0, &mut |_, _| {
            empty = false;
            Ok(())
        })?;
        Ok(empty)
    }

    fn tidy(&self, before_ns: i128) -> Result<()> {
        self.walk(&self.root, 0, &mut |path, _| {
            if sys::is_unfinished(path, before_ns) {
                // Another process may have been quicker, or may own it; it does no harm.
                let _ = fs::remove_file(path);
            }
            Ok(())
        })
    }

    fn describe(&self) -> String {
        self.root.display().to_string()
    }
}

fn read(file: &File, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
    file.read_exact_at(buf, offset).map_err(|e| match e.kind() {
        io::ErrorKind::UnexpectedEof => short(key),
        _ => Error::io(format!("cannot read {key} at byte {offset}"), e).as_kind(ErrorKind::Unavailable),
    })
}

/// A file without a name yet.
struct LocalUpload {
    store: Local,
    file: sys::NewFile,
    what: String,
}

impl Upload for LocalUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file.write(bytes).map_err(|e| Error::io(format!("cannot write {} to {}", self.what, self.store.describe()), e))
    }

    fn commit(self: Box<Self>, key: &Key) -> Result<()> {
        let path = self.store.path(key);
        let place = self.store.describe();
        let failed = |e| Error::io(format!("cannot write {key} to {place}"), e);
        self.store.create_folders(path.parent().expect("a key lies below the root")).map_err(failed)?;
        match self.file.commit(&path).map_err(failed)? {
            None => Ok(()),
            Some(ours) => {
                if !self.store.holds(key, &ours)? {
                    return Err(conflict(key));
                }
                // Whoever put it may have died before it was durable.
                sys::sync_file_and_dir(&path).map_err(failed)
            }
        }
    }
}
