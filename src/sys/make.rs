//! Making things in an open directory: every call takes one name, follows no link, and never leaves the directory.

use std::{
    fs::File,
    io,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{AtFlags, FileType as Kind, Mode, OFlags, RawDir, linkat, makedev, mkdirat, mknodat, openat, renameat, symlinkat, unlinkat},
    io::Errno,
};

use crate::sys::{Dir, dir::with_c_name};

/// How deep a tree that is removed may be; each level holds a descriptor.
const REMOVE_DEPTH_MAX: usize = 4096;

impl Dir {
    /// Opens the root of the file system.
    pub fn root() -> io::Result<Self> {
        Ok(Self::open(Path::new("/"))?)
    }

    /// The same directory, opened once more.
    pub fn again(&self) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self::from_fd(openat(self, c".", flags, Mode::empty())?))
    }

    /// Makes a directory.
    pub fn make_dir(&self, name: &[u8], mode: u32) -> io::Result<()> {
        Ok(with_c_name(name, |name| mkdirat(self, name, Mode::from_raw_mode(mode)))?)
    }

    /// Makes a regular file that must not be there yet, for writing.
    pub fn make_file(&self, name: &[u8], mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(with_c_name(name, |name| openat(self, name, flags, Mode::from_raw_mode(mode)))?.into())
    }

    /// Opens a regular file for writing, never through a link, never waiting for the reader of a fifo.
    pub fn open_for_writing(&self, name: &[u8]) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        Ok(with_c_name(name, |name| openat(self, name, flags, Mode::empty()))?.into())
    }

    /// Makes a symbolic link.
    pub fn make_link(&self, name: &[u8], target: &[u8]) -> io::Result<()> {
        Ok(with_c_name(name, |name| with_c_name(target, |target| symlinkat(target, self, name)))?)
    }

    /// Makes a fifo.
    pub fn make_fifo(&self, name: &[u8]) -> io::Result<()> {
        Ok(with_c_name(name, |name| mknodat(self, name, Kind::Fifo, Mode::from_raw_mode(0o600), 0))?)
    }

    /// Makes a block or character device; root alone may.
    pub fn make_device(&self, name: &[u8], is_block: bool, major: u32, minor: u32) -> io::Result<()> {
        let kind = if is_block { Kind::BlockDevice } else { Kind::CharacterDevice };
        Ok(with_c_name(name, |name| mknodat(self, name, kind, Mode::from_raw_mode(0o600), makedev(major, minor)))?)
    }

    /// Gives what is called `from` in the directory `there` another name here.
    pub fn make_hard_link(&self, name: &[u8], there: &Dir, from: &[u8]) -> io::Result<()> {
        Ok(with_c_name(from, |from| with_c_name(name, |name| linkat(there, from, self, name, AtFlags::empty())))?)
    }

    /// Gives `from` the name `to`, in place of what has it: anything but a directory.
    pub fn rename(&self, from: &[u8], to: &[u8]) -> io::Result<()> {
        Ok(with_c_name(from, |from| with_c_name(to, |to| renameat(self, from, self, to)))?)
    }

    /// Removes a name that is no directory.
    pub fn remove_file(&self, name: &[u8]) -> io::Result<()> {
        Ok(with_c_name(name, |name| unlinkat(self, name, AtFlags::empty()))?)
    }

    /// Removes an entry with all that is below it, but nothing on another file system than `device`. Returns how many entries went.
    ///
    /// # Errors
    /// The first thing that could not be removed; what went before it is gone.
    pub fn remove_tree(&self, name: &[u8], device: u64) -> io::Result<u64> {
        self.remove_below(name, device, 0)
    }

    fn remove_below(&self, name: &[u8], device: u64, depth: usize) -> io::Result<u64> {
        match with_c_name(name, |name| unlinkat(self, name, AtFlags::empty())) {
            Ok(()) => return Ok(1),
            Err(Errno::ISDIR) => (),
            Err(e) => return Err(e.into()),
        }
        let child = self.child(name)?;
        if depth > REMOVE_DEPTH_MAX || child.stat()?.device != device {
            return Err(Errno::XDEV.into());
        }
        let mut gone = 1;
        for name in child.names()? {
            gone += child.remove_below(&name, device, depth + 1)?;
        }
        with_c_name(name, |name| unlinkat(self, name, AtFlags::REMOVEDIR))?;
        Ok(gone)
    }

    /// The names in it, sorted, without their stats.
    pub fn names(&self) -> io::Result<Vec<Box<[u8]>>> {
        // A descriptor of its own: where a listing stands belongs to the open file.
        let again = self.again()?;
        let mut buf = [std::mem::MaybeUninit::uninit(); 32 << 10];
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let mut entries = RawDir::new(&again, &mut buf);
        while let Some(entry) = entries.next() {
            let name: Box<[u8]> = entry?.file_name().to_bytes().into();
            if *name != *b"." && *name != *b".." {
                names.push(name);
            }
        }
        names.sort_unstable();
        names.dedup();
        Ok(names)
    }

    /// Opens an entry of whatever kind without any access to its content: to set what it is, not what is in it.
    pub(super) fn open_path(&self, name: &[u8]) -> Result<OwnedFd, Errno> {
        with_c_name(name, |name| openat(self, name, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()))
    }
}

/// Copies what `from` holds to `to`, sharing blocks where the file system can. Returns how many bytes were copied.
pub fn copy_content(from: &File, to: &File, len: u64) -> io::Result<u64> {
    let mut done = 0;
    while done < len {
        let step = usize::try_from(len - done).unwrap_or(usize::MAX).min(1 << 30);
        let (mut at, mut to_at) = (done, done);
        match rustix::fs::copy_file_range(from, Some(&mut at), to, Some(&mut to_at), step) {
            Ok(0) => break,
            Ok(n) => done += n as u64,
            Err(Errno::INTR) => (),
            Err(e) => return Err(e.into()),
        }
    }
    Ok(done)
}

/// Writes everything on the file system of `dir` to the disk.
pub fn sync_file_system(dir: &Dir) -> io::Result<()> {
    // SAFETY: the call takes an open descriptor, and touches no memory of ours.
    let done = unsafe { libc::syncfs(std::os::fd::AsFd::as_fd(dir).as_raw_fd()) };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has what is cached of a file dropped, so that the next read comes from the disk.
pub fn forget_pages(file: &File) {
    // Only an advice: what stays in memory is read from there.
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

/// Reserves room for `len` bytes at the start of a file; whether the file system can.
pub fn reserve(file: &File, len: u64) -> io::Result<bool> {
    match rustix::fs::fallocate(file, rustix::fs::FallocateFlags::KEEP_SIZE, 0, len) {
        Ok(()) => Ok(true),
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// The permission bits that new files of this process do not get.
pub fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|l| u32::from_str_radix(l.strip_prefix("Umask:")?.trim(), 8).ok());
    // Nothing is taken for granted where the kernel does not say.
    mask.unwrap_or(0o777)
}

/// Opens the directory at an absolute path from the root on, through no link at all.
///
/// # Errors
/// The name that could not be opened, and why; a link is `NotADirectory`.
pub fn open_unlinked<'a>(names: impl Iterator<Item = &'a [u8]>) -> Result<Dir, (Vec<u8>, io::Error)> {
    let mut dir = Dir::root().map_err(|e| (b"/".to_vec(), e))?;
    for name in names {
        dir = dir.child(name).map_err(|e| (name.to_vec(), e.into()))?;
    }
    Ok(dir)
}
