//! The fuser adapter: translate arguments, call, reply. No decisions.
//!
//! Every body is caught: a panic answers EIO, says so once, and the mount lives.

use std::{
    cell::RefCell,
    ffi::OsStr,
    io,
    os::unix::ffi::OsStrExt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr,
    ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use crate::{
    error::{ErrorKind, Result},
    event::{Event, Sink},
    format::{Content, Entry, Hole},
    mount::{
        errno::errno,
        push::Push,
        view::{Node, Views},
    },
};

/// Everything below a snapshot is immutable: the kernel may keep it as long as it likes.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// What the mount made up can change when a snapshot is sealed.
const A_MOMENT: Duration = Duration::from_secs(1);
/// Requests that the kernel may have under way in the background.
const BACKGROUND_MAX: u16 = 64;

/// Serves a vault to the kernel.
pub struct Fs {
    pub views: Arc<Views>,
    pub push: Arc<Push>,
    pub sink: Arc<dyn Sink>,
    /// Whether extended attributes are answered at all.
    pub xattrs: bool,
    /// Shown in place of the recorded owner.
    pub owner: Option<(u32, u32)>,
    /// Owner of the directories that the mount made up.
    pub mounter: (u32, u32),
    /// Whether the kernel shall obey ACLs.
    pub posix_acl: bool,
}

fn time(ns: i128) -> SystemTime {
    let part = |ns: u128| Duration::new(u64::try_from(ns / 1_000_000_000).unwrap_or(u64::MAX >> 1), (ns % 1_000_000_000) as u32);
    match ns {
        0.. => UNIX_EPOCH.checked_add(part(ns.unsigned_abs())),
        _ => UNIX_EPOCH.checked_sub(part(ns.unsigned_abs())),
    }
    .unwrap_or(UNIX_EPOCH)
}

fn file_type(entry: &Entry) -> FileType {
    match entry.content {
        Content::File { .. } => FileType::RegularFile,
        Content::Dir { .. } => FileType::Directory,
        Content::Symlink(_) => FileType::Symlink,
        Content::Device { .. } if entry.mode & 0o170_000 == 0o020_000 => FileType::CharDevice,
        Content::Device { .. } => FileType::BlockDevice,
        Content::Fifo => FileType::NamedPipe,
    }
}

/// A device number as the kernel's protocol has it: `new_encode_dev`, include/linux/kdev_t.h.
fn encode_device(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}

impl Fs {
    fn attr(&self, node: &Node) -> (FileAttr, Duration) {
        let blank = FileAttr {
            ino: INodeNo(node.ino()),
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: FileType::Directory,
            perm: 0o755,
            // Programs that count subdirectories by links know that 1 means nothing.
            nlink: 1,
            uid: self.mounter.0,
            gid: self.mounter.1,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        };
        let at = |ns: i128| FileAttr { atime: time(ns), mtime: time(ns), ctime: time(ns), ..blank };
        match node {
            Node::Top { mtime_ns, .. } => (at(*mtime_ns), A_MOMENT),
            Node::Root(_, m) => (at(m.snapshot.manifest.time_ns), FOREVER),
            Node::Entry(_, _, spot) => (self.entry_attr(spot.entry(), blank), FOREVER),
        }
    }

    fn entry_attr(&self, entry: &Entry, blank: FileAttr) -> FileAttr {
        let (uid, gid) = self.owner.unwrap_or((entry.uid, entry.gid));
        let stored = match &entry.content {
            Content::File { size, holes, .. } => size - holes.iter().map(|h| h.len).sum::<u64>(),
            _ => entry.size(),
        };
        FileAttr {
            size: entry.size(),
            blocks: stored.div_ceil(512),
            atime: time(entry.mtime_ns),
            mtime: time(entry.mtime_ns),
            ctime: time(entry.ctime_ns),
            kind: file_type(entry),
            perm: (entry.mode & 0o7777) as u16,
            nlink: entry.hard_link.map_or(1, |link| link.nlink),
            uid,
            gid,
            rdev: match entry.content {
                Content::Device { major, minor } => encode_device(major, minor),
                _ => 0,
            },
            ..blank
        }
    }

    /// Runs a handler's body; a failure becomes an errno, a panic EIO. Damage is said to the log.
    fn answer<T>(&self, body: impl FnOnce() -> Result<T>) -> std::result::Result<T, Errno> {
        match catch_unwind(AssertUnwindSafe(body)) {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(e)) => {
                if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Usage) {
                    self.sink.send(Event::Warning(e.chain()));
                }
                Err(errno(e.kind()))
            }
            Err(_) => {
                self.sink.send(Event::Warning(
                    "a request was answered with an I/O error after an internal failure; please report it".to_owned(),
                ));
                Err(Errno::EIO)
            }
        }
    }

    /// Runs `f` on the entry `ino`.
    fn with_entry<T>(
        &self,
        ino: INodeNo,
        f: impl FnOnce(Option<&Entry>) -> std::result::Result<T, Errno>,
    ) -> std::result::Result<T, Errno> {
        self.answer(|| self.views.node(ino.0).map(|node| f(node.entry())))?
    }
}

thread_local! {
    /// Where a read is put together; fresh pages are dear.
    static GLUE: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Filesystem for Fs {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = vec![
            InitFlags::FUSE_DO_READDIRPLUS, // always, not "auto": one request a directory instead of one an entry
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_CACHE_SYMLINKS,
            InitFlags::FUSE_EXPORT_SUPPORT,
        ];
        if self.posix_acl && self.xattrs {
            wanted.push(InitFlags::FUSE_POSIX_ACL);
        }
        for flag in wanted {
            // Older kernels lack some; each only makes things faster or more complete.
            let _ = config.add_capabilities(flag);
        }
        let _ = config.set_max_background(BACKGROUND_MAX);
        Ok(())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.answer(|| self.views.lookup(parent.0, name)) {
            Ok(Some(node)) => {
                let (attr, ttl) = self.attr(&node);
                // `latest` is a name that moves.
                let ttl = if parent.0 == super::inode::ROOT { A_MOMENT } else { ttl };
                reply.entry(&ttl, &attr, Generation(0));
            }
            // What the mount made up may appear any moment; inside a snapshot a missing name stays missing.
            Ok(None) if parent.0 <= super::inode::SNAPSHOTS => reply.error(Errno::ENOENT),
            Ok(None) => {
                let node = Node::Top { ino: 0, mtime_ns: 0 };
                reply.entry(&FOREVER, &self.attr(&node).0, Generation(0));
            }
            Err(e) => reply.error(e),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.answer(|| self.views.node(ino.0)) {
            Ok(node) => {
                let (attr, ttl) = self.attr(&node);
                reply.attr(&ttl, &attr);
            }
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        let target = self.with_entry(ino, |entry| match entry.map(|e| &e.content) {
            Some(Content::Symlink(target)) => Ok(target.clone()),
            _ => Err(Errno::EINVAL),
        });
        match target {
            Ok(target) => reply.data(&target),
            Err(e) => reply.error(e),
        }
    }

    // Once answered so, the kernel opens, closes and lists on its own account and keeps what it read: right for immutable files, and
    // four requests fewer a file.
    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn read(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, size: u32, _: OpenFlags, _: Option<LockOwner>, reply: ReplyData) {
        GLUE.with_borrow_mut(|buf| {
            buf.resize(size as usize, 0);
            if offset == 0
                && let Ok(Some(dir)) = self.views.dir_of_entry(ino.0)
            {
                self.push.read(dir);
            }
            match self.answer(|| self.views.read(ino.0, offset, buf)) {
                Ok(n) => reply.data(&buf[..n]),
                Err(e) => reply.error(e),
            }
        });
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.answer(|| {
            self.views.list_dir(ino.0, offset, |listed, next| {
                let kind = listed.node.entry().map_or(FileType::Directory, file_type);
                !reply.add(INodeNo(listed.node.ino()), next, kind, OsStr::from_bytes(&listed.name))
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        let mut any = false;
        let listed = self.answer(|| {
            self.views.list_dir(ino.0, offset, |listed, next| {
                any = true;
                let (attr, ttl) = self.attr(&listed.node);
                let ttl = if ino.0 == super::inode::ROOT { A_MOMENT } else { ttl };
                !reply.add(attr.ino, next, OsStr::from_bytes(&listed.name), &ttl, &attr, Generation(0))
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => return reply.error(e),
        }
        if !any && offset > 2 {
            self.push.listed(ino.0);
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let (bytes, entries) = self.views.totals();
        reply.statfs(bytes.div_ceil(4096), 0, 0, entries, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        if !self.xattrs {
            return reply.error(Errno::ENOSYS);
        }
        let value = self.with_entry(ino, |entry| {
            let xattrs = entry.map(|e| e.xattrs.as_slice()).unwrap_or_default();
            xattrs.iter().find(|(n, _)| **n == *name.as_bytes()).map(|(_, value)| value.to_vec()).ok_or(Errno::NO_XATTR)
        });
        reply_xattr(value, size, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        if !self.xattrs {
            return reply.error(Errno::ENOSYS);
        }
        let list = self.with_entry(ino, |entry| {
            let xattrs = entry.map(|e| e.xattrs.as_slice()).unwrap_or_default();
            Ok(xattrs.iter().flat_map(|(name, _)| name.iter().copied().chain([0])).collect())
        });
        reply_xattr(list, size, reply);
    }

    fn lseek(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: i64, whence: i32, reply: ReplyLseek) {
        let found = self.with_entry(ino, |entry| match entry.map(|e| &e.content) {
            Some(Content::File { size, holes, .. }) => seek(*size, holes, u64::try_from(offset).map_err(|_| Errno::ENXIO)?, whence),
            _ => Err(Errno::EINVAL),
        });
        match found {
            Ok(offset) => reply.offset(i64::try_from(offset).unwrap_or(i64::MAX)),
            Err(e) => reply.error(e),
        }
    }
}

/// lseek(2) with SEEK_DATA (3) and SEEK_HOLE (4).
fn seek(size: u64, holes: &[Hole], offset: u64, whence: i32) -> std::result::Result<u64, Errno> {
    if offset >= size {
        return Err(Errno::ENXIO);
    }
    let next = holes.iter().find(|h| h.offset + h.len > offset);
    match (whence, next) {
        (3, Some(hole)) if hole.offset <= offset => match hole.offset + hole.len {
            end if end >= size => Err(Errno::ENXIO),
            end => Ok(end),
        },
        (3, _) => Ok(offset),
        (4, Some(hole)) => Ok(hole.offset.max(offset)),
        (4, None) => Ok(size),
        _ => Err(Errno::EINVAL),
    }
}

fn reply_xattr(value: std::result::Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Err(e) => reply.error(e),
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeking_finds_data_and_holes() {
        let holes = [Hole { offset: 0, len: 10 }, Hole { offset: 20, len: 10 }];
        let at = |offset, whence| seek(30, &holes, offset, whence).map_err(|e| e.code());
        assert_eq!((at(0, 3), at(0, 4), at(5, 3)), (Ok(10), Ok(0), Ok(10)));
        assert_eq!((at(12, 3), at(12, 4)), (Ok(12), Ok(20)));
        assert_eq!((at(25, 3), at(30, 4)), (Err(Errno::ENXIO.code()), Err(Errno::ENXIO.code())));
        assert_eq!(seek(5, &[], 2, 4).map_err(|e| e.code()), Ok(5));
    }

    #[test]
    fn times_before_1970_and_after_2106_are_exact() {
        for ns in [-1, -86_400_000_000_000_000_001, 4_300_000_000_000_000_005] {
            let t = time(ns);
            let back = match t.duration_since(UNIX_EPOCH) {
                Ok(d) => d.as_nanos() as i128,
                Err(e) => -(e.duration().as_nanos() as i128),
            };
            assert_eq!(back, ns);
        }
    }

    #[test]
    fn device_numbers_are_the_kernels() {
        assert_eq!(encode_device(259, 300), 0x0011_032c);
        assert_eq!(encode_device(1, 3), 0x103);
    }
}
