//! Files that survive power loss, and private ones. The home of `tempfile`.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::fd::AsRawFd,
    os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
};

use crate::sys::umask;

/// Prefix of unfinished writes; whoever lists a directory ignores such names.
const UNFINISHED: &str = ".tmp-";

/// A file that gets its name when it is whole. Dropped without `commit`, nothing of it stays.
///
/// Written under a temporary name; `commit` syncs it, renames it without replacing, and syncs the directory. Where directories only let things
/// be added (`chattr +a`), it has no name until then. It is
/// read-only; who may read it follows the umask. A large one goes to the disk while it is written, so that `commit` does not have all
/// of it to wait for, and leaves the page cache to others afterwards.
pub struct NewFile {
    file: Begun,
    len: u64,
    /// Bytes that are on their way to the disk.
    sent: u64,
}

/// A file on its way.
enum Begun {
    /// To be renamed, or removed.
    Named(tempfile::NamedTempFile),
    /// To be linked; gone with its descriptor.
    Unnamed(File),
}

impl Begun {
    fn file(&self) -> &File {
        match self {
            Begun::Named(file) => file.as_file(),
            Begun::Unnamed(file) => file,
        }
    }
}

/// Bytes after which the kernel is told to begin writing.
const SEND_LEN: u64 = 4 << 20;

impl NewFile {
    /// Starts a file in `dir`.
    pub fn begin(dir: &Path) -> io::Result<Self> {
        let file = match is_append_only(dir) {
            true => {
                let file = tempfile::tempfile_in(dir).map_err(bare)?;
                file.set_permissions(fs::Permissions::from_mode(0o444 & !umask()))?;
                Begun::Unnamed(file)
            }
            false => {
                let mut named = tempfile::Builder::new();
                let named = named.prefix(UNFINISHED).permissions(fs::Permissions::from_mode(0o444));
                Begun::Named(named.tempfile_in(dir).map_err(bare)?)
            }
        };
        Ok(Self { file, len: 0, sent: 0 })
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.file().write_all(bytes)?;
        self.len += bytes.len() as u64;
        if self.len - self.sent >= SEND_LEN {
            begin_writing(self.file.file(), self.sent, self.len - self.sent);
            self.sent = self.len;
        }
        Ok(())
    }

    /// Gives the file its name, durably. If something has that name already, nothing is changed, and what was written comes back.
    pub fn commit(self, path: &Path) -> io::Result<Option<File>> {
        self.file.file().sync_data()?;
        if self.sent > 0 {
            // Only an advice.
            let _ = rustix::fs::fadvise(self.file.file(), 0, None, rustix::fs::Advice::DontNeed);
        }
        let there = match self.file {
            Begun::Named(file) => match file.persist_noclobber(path) {
                Ok(_) => None,
                Err(e) if e.error.kind() == io::ErrorKind::AlreadyExists => Some(e.file.reopen()?),
                Err(e) => return Err(e.error),
            },
            Begun::Unnamed(file) => match give_name(&file, path) {
                Ok(()) => None,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Some(file),
                Err(e) => return Err(e),
            },
        };
        match there {
            None => sync_dir(parent(path)?).map(|()| None),
            there => Ok(there),
        }
    }

    /// Gives the file the name of another, durably; that one, if there is one, is at `aside` afterwards. At every moment one of them is at `path`,
    /// where the file system has hard links.
    pub fn replace(self, path: &Path, aside: &Path) -> io::Result<()> {
        self.file.file().sync_data()?;
        let Begun::Named(file) = self.file else { return Err(io::ErrorKind::PermissionDenied.into()) };
        match fs::hard_link(path, aside) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => (),
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(e),
            Err(_) => fs::rename(path, aside)?,
            Ok(()) => (),
        }
        if let Some(dir) = aside.parent().filter(|_| aside.exists()) {
            sync_dir(dir)?;
        }
        file.persist(path).map_err(|e| e.error)?;
        sync_dir(parent(path)?)
    }
}

/// Whether things can only be added to a directory: nothing in it gets another name, or goes.
fn is_append_only(dir: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
    statx(CWD, dir, AtFlags::empty(), StatxFlags::TYPE).is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::APPEND))
}

/// Gives a file without a name the name `path`, if nothing has it.
fn give_name(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    let open = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, open, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

/// Asks the kernel to write a range of `file` to the disk, without waiting. What fails here fails again, and is told, when the file is synced.
fn begin_writing(file: &File, offset: u64, len: u64) {
    let (Ok(offset), Ok(len)) = (i64::try_from(offset), i64::try_from(len)) else { return };
    // SAFETY: the call takes an open descriptor and three numbers, and touches no memory of ours.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}

/// The error without the temporary name that `tempfile` adds: nobody can do anything with that.
fn bare(e: io::Error) -> io::Error {
    match e.raw_os_error() {
        Some(_) => e,
        None => io::Error::new(e.kind(), e.to_string().split(" at path ").next().unwrap_or_default().to_owned()),
    }
}

/// Whether `path` is an unfinished write that was begun before `before_ns`.
pub fn is_unfinished(path: &Path, before_ns: i128) -> bool {
    let named = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(UNFINISHED.as_bytes()));
    named && fs::symlink_metadata(path).is_ok_and(|m| i128::from(m.mtime()) * 1_000_000_000 < before_ns)
}

/// Replaces `path` with `bytes`, whole but not durable; a private file (mode 0600).
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    written_beside(path, bytes)?.persist(path).map(drop).map_err(|e| e.error)
}

fn written_beside(path: &Path, bytes: &[u8]) -> io::Result<tempfile::NamedTempFile> {
    let private = fs::Permissions::from_mode(0o600);
    let mut temp = tempfile::Builder::new().prefix(UNFINISHED).permissions(private).tempfile_in(parent(path)?)?;
    temp.write_all(bytes)?;
    Ok(temp)
}

/// Replaces `path` with `bytes`, whole and durable; a private file (mode 0600).
pub fn replace_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = parent(path)?;
    let temp = written_beside(path, bytes)?;
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

/// Creates a directory that is never for everybody to write, whatever the umask.
pub fn create_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().mode(0o775).create(path)
}

/// The same with those above it.
pub fn create_dirs(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o775).create(path)
}

/// Creates a directory and those above it, for the owner only; an existing one is made so.
pub fn create_private_dir(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Keeps a directory and all below it from others than the owner: modes 0700 and 0600.
pub fn make_private(path: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(path) {
        // Whoever works in there took it away meanwhile.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    if meta.is_dir() {
        fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
        return fs::read_dir(path)?.try_for_each(|entry| make_private(&entry?.path()));
    }
    match meta.is_file() && meta.mode() & 0o077 != 0 {
        true => fs::set_permissions(path, fs::Permissions::from_mode(0o600)),
        false => Ok(()),
    }
}

/// Removes a directory with all below it, if it is there.
pub fn remove_dir(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
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

/// Opens a file for reading; where a fifo stands in its place, without waiting for anybody.
pub fn open_at_once(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Has the kernel read these bytes of a file in the background.
pub fn expect_reads(file: &File, offset: u64, len: u64) {
    // Whoever reads them has them later, then.
    let _ = rustix::fs::fadvise(file, offset, std::num::NonZeroU64::new(len), rustix::fs::Advice::WillNeed);
}

fn parent(path: &Path) -> io::Result<&Path> {
    path.parent().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))
}
/// Bytes that are free for this process where `dir` lies; `None` on a file system that does not say how large it is.
pub fn free_bytes(dir: &Path) -> io::Result<Option<u64>> {
    let of = rustix::fs::statvfs(dir)?;
    Ok((of.f_blocks > 0).then(|| of.f_bavail.saturating_mul(of.f_frsize)))
}
