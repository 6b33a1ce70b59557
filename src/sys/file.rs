//! Files that survive power loss, and private ones. The home of `tempfile`.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Prefix of unfinished writes; whoever lists a directory ignores such names.
const UNFINISHED: &str = ".tmp-";

/// A file that gets its name when it is whole. Dropped without `commit`, nothing of it stays.
///
/// Written under a temporary name; `commit` syncs it, renames it without replacing, and syncs the directory. It is
/// read-only; who may read it follows the umask.
pub struct NewFile(tempfile::NamedTempFile);

impl NewFile {
    /// Starts a file in `dir`.
    pub fn begin(dir: &Path) -> io::Result<Self> {
        tempfile::Builder::new().prefix(UNFINISHED).permissions(fs::Permissions::from_mode(0o444)).tempfile_in(dir).map(Self).map_err(bare)
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.as_file_mut().write_all(bytes)
    }

    /// Gives the file its name, durably. If something has that name already, nothing is changed, and what was written comes back.
    pub fn commit(self, path: &Path) -> io::Result<Option<File>> {
        self.0.as_file().sync_data()?;
        match self.0.persist_noclobber(path) {
            Ok(_) => sync_dir(parent(path)?).map(|()| None),
            Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => e.file.reopen().map(Some),
            Err(e) => Err(e.error),
        }
    }
}

/// The error without the temporary name that `tempfile` adds: nobody can do anything with that.
fn bare(e: io::Error) -> io::Error {
    match e.raw_os_error() {
        Some(_) => e,
        None => io::Error::from(e.kind()),
    }
}

/// Whether `path` is an unfinished write that was begun before `before_ns`.
pub fn is_unfinished(path: &Path, before_ns: i128) -> bool {
    let named = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()));
    named && fs::symlink_metadata(path).is_ok_and(|m| i128::from(m.mtime()) * 1_000_000_000 < before_ns)
}

/// Replaces `path` with `bytes`, whole and durable; a private file (mode 0600).
pub fn replace_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = parent(path)?;
    let mut temp = tempfile::Builder::new().prefix(UNFINISHED).permissions(fs::Permissions::from_mode(0o600)).tempfile_in(dir)?;
    temp.write_all(bytes)?;
    temp.as_file().sync_data()?;
    temp.persist(path).map_err(|e| e.error)?;
    sync_dir(dir)
}

/// Creates a private file (mode 0600 whatever the umask) that must not exist yet.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Creates a directory and those above it, for the owner only; an existing one is made so.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Makes the names in `dir` durable.
pub fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Makes a file that somebody else wrote durable, and its name.
///
/// sled's own flush syncs ranges, not the file's length or extents: see docs/ARCHITECTURE.md, Catalog.
pub fn sync_file_and_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    sync_dir(parent(path)?)
}

/// Reads exactly `len` bytes at `offset`, or fails with `UnexpectedEof`.
pub fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut buf = vec![0; len];
    file.read_exact_at(&mut buf, offset)?;
    Ok(buf)
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}
