//! Files that survive power loss, and private ones. The home of `tempfile`.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

/// Prefix of unfinished writes; whoever lists a directory ignores such names.
const UNFINISHED: &str = ".tmp-";

/// Creates `path` with `bytes`, whole and durable, never replacing what stands there (`AlreadyExists`).
///
/// Written under a temporary name in the same directory, synced, renamed without replacing, directory synced.
/// The file is read-only; who may read it follows the umask.
pub fn create_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = parent(path)?;
    let mut temp = tempfile::Builder::new().prefix(UNFINISHED).permissions(fs::Permissions::from_mode(0o444)).tempfile_in(dir)?;
    temp.write_all(bytes)?;
    temp.as_file().sync_data()?;
    temp.persist_noclobber(path).map_err(|e| e.error)?;
    sync_dir(dir)
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
