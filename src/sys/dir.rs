//! Directories by descriptor: list, stat, open. No path is ever walked twice, so nothing can be swapped underneath.

use std::{
    ffi::CStr,
    fs::File,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, Mode, OFlags, RawDir, Statx, StatxFlags, openat, statx},
    io::Errno,
};

/// Kind of a directory entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileType {
    /// Regular file.
    File,
    /// Directory.
    Dir,
    /// Symbolic link.
    Symlink,
    /// Fifo.
    Fifo,
    /// Character or block device.
    Device,
    /// Socket.
    Socket,
}

/// What `statx` says of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Type and permission bits.
    pub mode: u32,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Number of names.
    pub nlink: u32,
    /// Inode number.
    pub inode: u64,
    /// Device it lies on: major << 32 | minor.
    pub device: u64,
    /// Device it is, likewise.
    pub rdev: u64,
    /// Size in bytes.
    pub size: u64,
    /// Bytes allocated.
    pub allocated: u64,
    /// Modification time, ns since 1970.
    pub mtime_ns: i128,
    /// Change time, ns since 1970.
    pub ctime_ns: i128,
    /// Whether it has the nodump flag (`chattr +d`); never where the file system knows none.
    pub nodump: bool,
}

impl Stat {
    fn from_statx(s: &Statx) -> Self {
        let device = |major: u32, minor: u32| u64::from(major) << 32 | u64::from(minor);
        let ns = |t: &rustix::fs::StatxTimestamp| i128::from(t.tv_sec) * 1_000_000_000 + i128::from(t.tv_nsec);
        Self {
            mode: u32::from(s.stx_mode),
            uid: s.stx_uid,
            gid: s.stx_gid,
            nlink: s.stx_nlink,
            inode: s.stx_ino,
            device: device(s.stx_dev_major, s.stx_dev_minor),
            rdev: device(s.stx_rdev_major, s.stx_rdev_minor),
            size: s.stx_size,
            allocated: s.stx_blocks * 512,
            mtime_ns: ns(&s.stx_mtime),
            ctime_ns: ns(&s.stx_ctime),
            nodump: s.stx_attributes.contains(rustix::fs::StatxAttributes::NODUMP),
        }
    }

    /// What kind of entry this is.
    pub fn file_type(&self) -> FileType {
        match self.mode & libc::S_IFMT {
            libc::S_IFREG => FileType::File,
            libc::S_IFDIR => FileType::Dir,
            libc::S_IFLNK => FileType::Symlink,
            libc::S_IFIFO => FileType::Fifo,
            libc::S_IFSOCK => FileType::Socket,
            _ => FileType::Device,
        }
    }

    /// Whether the same content may be expected as when `earlier` was taken.
    pub fn same_content_as(&self, earlier: &Stat) -> bool {
        (self.inode, self.device, self.size, self.mtime_ns, self.ctime_ns)
            == (earlier.inode, earlier.device, earlier.size, earlier.mtime_ns, earlier.ctime_ns)
    }
}

/// One name in a directory, with its stat.
#[derive(Clone, Debug)]
pub struct Found {
    /// The name.
    pub name: Box<[u8]>,
    /// What it is, or why that cannot be said.
    pub stat: std::result::Result<Stat, Errno>,
}

/// An open directory.
#[derive(Debug)]
pub struct Dir(OwnedFd);

const STAT: StatxFlags = StatxFlags::BASIC_STATS;

/// Runs `f` with `name` as a C string, on the stack for ordinary lengths.
pub(super) fn with_c_name<T>(name: &[u8], f: impl FnOnce(&CStr) -> std::result::Result<T, Errno>) -> std::result::Result<T, Errno> {
    let mut buf = [0u8; 256];
    if name.len() < buf.len() {
        buf[..name.len()].copy_from_slice(name);
        return f(CStr::from_bytes_with_nul(&buf[..=name.len()]).map_err(|_| Errno::INVAL)?);
    }
    f(&std::ffi::CString::new(name).map_err(|_| Errno::INVAL)?)
}

impl Dir {
    /// Opens the directory at `path`, following links.
    pub fn open(path: &Path) -> std::result::Result<Self, Errno> {
        openat(rustix::fs::CWD, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(Self)
    }

    pub(super) fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Opens the child directory `name`, never through a link; access times are left alone where allowed.
    pub fn child(&self, name: &[u8]) -> std::result::Result<Self, Errno> {
        with_c_name(name, |name| {
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(&self.0, name, flags | OFlags::NOATIME, Mode::empty()) {
                Err(Errno::PERM) => openat(&self.0, name, flags, Mode::empty()),
                other => other,
            }
        })
        .map(Self)
    }

    /// Opens the parent directory.
    pub fn parent(&self) -> std::result::Result<Self, Errno> {
        openat(&self.0, c"..", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(Self)
    }

    /// Stat of the directory itself.
    pub fn stat(&self) -> std::result::Result<Stat, Errno> {
        statx(&self.0, c"", AtFlags::EMPTY_PATH, STAT).map(|s| Stat::from_statx(&s))
    }

    /// Number of the mount through which it was opened, as in `MountInfo`; `None` before Linux 5.8.
    pub fn mount_id(&self) -> Option<u64> {
        let found = statx(&self.0, c"", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).ok()?;
        StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::MNT_ID).then_some(found.stx_mnt_id)
    }

    /// Stat of the entry `name`, not following links.
    pub fn stat_of(&self, name: &[u8]) -> std::result::Result<Stat, Errno> {
        with_c_name(name, |name| statx(&self.0, name, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, STAT))
            .map(|s| Stat::from_statx(&s))
    }

    /// Target of the symbolic link `name`.
    pub fn read_link(&self, name: &[u8]) -> std::result::Result<Vec<u8>, Errno> {
        with_c_name(name, |name| rustix::fs::readlinkat(&self.0, name, Vec::new())).map(|target| target.into_bytes())
    }

    /// Lists all entries with their stats, sorted by name. About 1.6 µs an entry when cached.
    pub fn list(&self) -> std::result::Result<Vec<Found>, Errno> {
        let mut buf = [MaybeUninit::uninit(); 32 << 10];
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut entries = RawDir::new(&self.0, &mut buf);
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.into());
            }
        }
        names.sort_unstable();
        // Some file systems repeat a name that is renamed while the listing runs.
        names.dedup();
        Ok(names
            .into_iter()
            .filter_map(|name| match self.stat_of(&name) {
                Err(Errno::NOENT) => None, // Gone since it was listed.
                stat => Some(Found { name, stat }),
            })
            .collect())
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Opens the regular file `name` in `dir` for reading: never through a link, never waiting for a fifo's writer.
pub fn open_file(dir: &Dir, name: &[u8]) -> std::result::Result<(File, Stat), Errno> {
    let file = with_c_name(name, |name| {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
        match openat(dir, name, flags | OFlags::NOATIME, Mode::empty()) {
            Err(Errno::PERM) => openat(dir, name, flags, Mode::empty()),
            other => other,
        }
    })?;
    let stat = statx(&file, c"", AtFlags::EMPTY_PATH, STAT).map(|s| Stat::from_statx(&s))?;
    Ok((File::from(file), stat))
}

/// Stat of an open file.
pub fn stat_of_file(file: &File) -> std::result::Result<Stat, Errno> {
    statx(file, c"", AtFlags::EMPTY_PATH, STAT).map(|s| Stat::from_statx(&s))
}
