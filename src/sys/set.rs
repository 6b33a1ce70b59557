//! Setting what an entry is: owner, mode, times, extended attributes. By descriptor, or by name without following links.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};

use rustix::{
    fs::{
        AtFlags, Gid, Mode, Timespec, Timestamps, UTIME_OMIT, Uid, XattrFlags, chmod, chownat, fchmod, fchown, fremovexattr, fsetxattr,
        futimens, lremovexattr, lsetxattr, utimensat,
    },
    io::Errno,
};

use crate::sys::{Dir, FileType, Stat, Xattrs, dir::with_c_name, meta::xattrs_of_path, xattrs_of_fd};

/// Something whose owner, mode, times and attributes can be set.
pub enum Subject<'a> {
    /// An open regular file.
    File(&'a File),
    /// An open directory.
    Dir(&'a Dir),
    /// A link, fifo or device: the directory it stands in, its name, what it must be.
    Named(&'a Dir, &'a [u8], FileType),
}

impl Subject<'_> {
    /// What it is now.
    pub fn stat(&self) -> io::Result<Stat> {
        Ok(match self {
            Subject::File(file) => crate::sys::stat_of_file(file)?,
            Subject::Dir(dir) => dir.stat()?,
            Subject::Named(dir, name, _) => dir.stat_of(name)?,
        })
    }

    /// Sets owner and group; `None` leaves one as it is.
    pub fn set_owner(&self, uid: Option<u32>, gid: Option<u32>) -> io::Result<()> {
        let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
        Ok(match self {
            Subject::File(file) => fchown(file, uid, gid),
            Subject::Dir(dir) => fchown(dir, uid, gid),
            Subject::Named(dir, name, _) => with_c_name(name, |name| chownat(dir, name, uid, gid, AtFlags::SYMLINK_NOFOLLOW)),
        }?)
    }

    /// Sets the permission bits; of a link there are none to set.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        let mode = Mode::from_raw_mode(mode & 0o7777);
        Ok(match self {
            Subject::File(file) => fchmod(file, mode),
            Subject::Dir(dir) => fchmod(dir, mode),
            Subject::Named(_, _, FileType::Symlink) => Ok(()),
            Subject::Named(dir, name, _) => {
                // There is no fchmodat before Linux 6.6 that follows no link. What the descriptor holds cannot be exchanged.
                let fd = dir.open_path(name)?;
                self.is_still(&fd)?;
                chmod(proc_name(&fd).as_slice(), mode)
            }
        }?)
    }

    /// Sets the modification time, in ns since 1970; the access time stays.
    pub fn set_mtime(&self, ns: i128) -> io::Result<()> {
        let secs = i64::try_from(ns.div_euclid(1_000_000_000)).map_err(|_| Errno::INVAL)?;
        let times = Timestamps {
            last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
            last_modification: Timespec { tv_sec: secs, tv_nsec: ns.rem_euclid(1_000_000_000) as _ },
        };
        Ok(match self {
            Subject::File(file) => futimens(file, &times),
            Subject::Dir(dir) => futimens(dir, &times),
            Subject::Named(dir, name, _) => with_c_name(name, |name| utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)),
        }?)
    }

    /// Its extended attributes, sorted by name.
    pub fn xattrs(&self) -> io::Result<Xattrs> {
        Ok(match self {
            Subject::File(file) => xattrs_of_fd(file),
            Subject::Dir(dir) => xattrs_of_fd(dir),
            Subject::Named(dir, name, _) => xattrs_of_path(&in_proc(dir, name)),
        }?)
    }

    /// Sets one extended attribute.
    pub fn set_xattr(&self, key: &[u8], value: &[u8]) -> io::Result<()> {
        Ok(match self {
            Subject::File(file) => fsetxattr(file, key, value, XattrFlags::empty()),
            Subject::Dir(dir) => fsetxattr(dir, key, value, XattrFlags::empty()),
            Subject::Named(dir, name, _) => lsetxattr(in_proc(dir, name).as_slice(), key, value, XattrFlags::empty()),
        }?)
    }

    /// Removes one extended attribute; one that is not there is gone already.
    pub fn remove_xattr(&self, key: &[u8]) -> io::Result<()> {
        let removed = match self {
            Subject::File(file) => fremovexattr(file, key),
            Subject::Dir(dir) => fremovexattr(dir, key),
            Subject::Named(dir, name, _) => lremovexattr(in_proc(dir, name).as_slice(), key),
        };
        match removed {
            Err(Errno::NODATA) => Ok(()),
            other => Ok(other?),
        }
    }

    /// Fails if what was opened is not of the kind that this must be: somebody put another thing there.
    fn is_still(&self, fd: impl AsFd) -> Result<(), Errno> {
        let Subject::Named(_, _, kind) = self else { return Ok(()) };
        let found = rustix::fs::FileType::from_raw_mode(rustix::fs::fstat(fd)?.st_mode);
        let same = match kind {
            FileType::Fifo => found.is_fifo(),
            FileType::Device => found.is_block_device() || found.is_char_device(),
            FileType::Symlink => found.is_symlink(),
            _ => false,
        };
        if same { Ok(()) } else { Err(Errno::STALE) }
    }
}

/// The name in /proc of what a descriptor holds. Following it leads to exactly that.
fn proc_name(fd: impl AsFd) -> Vec<u8> {
    format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()).into_bytes()
}

/// The name of an entry by the descriptor of its directory: there are no calls for attributes at a name before Linux 6.13.
fn in_proc(dir: &Dir, name: &[u8]) -> Vec<u8> {
    [&proc_name(dir), &b"/"[..], name].concat()
}
