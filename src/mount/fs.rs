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
    time::{Duration, UNIX_EPOCH},
};

use fuser::{
    Errno, FileAttr, FileHandle, Filesystem, Generation, INodeNo, InitFlags, KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyXattr, Request,
};

use crate::{
    error::{ErrorKind, Result},
    event::{Event, Sink},
    format::{Content, Entry, Hole},
    mount::{
        attr::{Owners, kind},
        errno::errno,
        push::Push,
        requests::{Op, Requests},
        view::{Found, Node, Views},
        xattr::{self, Blake3, reply_xattr},
    },
};

/// Everything below a snapshot is immutable: the kernel may keep it as long as it likes.
const FOREVER: Duration = Duration::from_secs(1 << 30);
/// What the mount made up can change when a snapshot is sealed. With the time between two looks at the vault below two seconds.
const A_MOMENT: Duration = Duration::from_millis(500);
/// Requests that the kernel may have under way in the background.
const BACKGROUND_MAX: u16 = 64;

/// Serves a vault to the kernel.
pub struct Fs {
    pub views: Arc<Views>,
    pub push: Arc<Push>,
    pub sink: Arc<dyn Sink>,
    /// Whether extended attributes are answered at all.
    pub xattrs: bool,
    pub owners: Owners,
    pub blake3: Blake3,
    /// Whether the kernel shall obey ACLs.
    pub posix_acl: bool,
    pub requests: Arc<Requests>,
}

impl Fs {
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

    /// Runs `f` on what `ino` stands for.
    fn with_node<T>(&self, ino: INodeNo, f: impl FnOnce(&Node) -> std::result::Result<T, Errno>) -> std::result::Result<T, Errno> {
        self.answer(|| self.views.node(ino.0).map(|node| f(&node)))?
    }

    /// Runs `f` on the entry `ino`.
    fn with_entry<T>(
        &self,
        ino: INodeNo,
        f: impl FnOnce(Option<&Entry>) -> std::result::Result<T, Errno>,
    ) -> std::result::Result<T, Errno> {
        self.with_node(ino, |node| f(node.entry()))
    }
}

/// For how long the kernel may keep something.
fn lasts(fixed: bool) -> Duration {
    if fixed { FOREVER } else { A_MOMENT }
}

/// What stands for a name that is missing.
fn no_entry() -> FileAttr {
    FileAttr {
        ino: INodeNo(0),
        size: 0,
        blocks: 0,
        atime: UNIX_EPOCH,
        mtime: UNIX_EPOCH,
        ctime: UNIX_EPOCH,
        crtime: UNIX_EPOCH,
        kind: fuser::FileType::RegularFile,
        perm: 0,
        nlink: 0,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 0,
        flags: 0,
    }
}

/// Panics if `name` is what `COFFRE_TEST_PANIC_AT` says: for the test that a mount outlives that. Not in release builds.
fn fail_if_asked_to(name: &OsStr) {
    if cfg!(debug_assertions) && std::env::var_os("COFFRE_TEST_PANIC_AT").is_some_and(|at| at == name) {
        panic!("a test asked for this");
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
            // A listing that the kernel keeps is dropped when the directory's time has moved: what the mount made up changes so. Costs
            // nothing where attributes are kept for ever.
            InitFlags::FUSE_AUTO_INVAL_DATA,
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
        self.requests.count(Op::Lookup);
        match self.answer(|| {
            fail_if_asked_to(name);
            self.views.lookup(parent.0, name)
        }) {
            Ok(Found { node: Some(node), fixed }) => {
                let attr = self.owners.attr(&node);
                self.views.told(attr.ino.0);
                reply.entry_with_ttls(&lasts(node.is_fixed()), &lasts(fixed), &attr, Generation(0));
            }
            // What the mount made up may appear any moment; inside a snapshot a missing name stays missing.
            Ok(Found { node: None, fixed: false }) => reply.error(Errno::ENOENT),
            Ok(Found { node: None, fixed: true }) => reply.entry(&FOREVER, &no_entry(), Generation(0)),
            Err(e) => reply.error(e),
        }
    }

    fn forget(&self, _: &Request, ino: INodeNo, times: u64) {
        self.views.forgotten(ino.0, times);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        self.requests.count(Op::Getattr);
        match self.answer(|| self.views.node(ino.0)) {
            Ok(node) => reply.attr(&lasts(node.is_fixed()), &FileAttr { ino, ..self.owners.attr(&node) }),
            Err(e) => reply.error(e),
        }
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        self.requests.count(Op::Readlink);
        let target = self.with_node(ino, |node| match (node, node.entry().map(|e| &e.content)) {
            (Node::Link { target, .. }, _) => Ok(target.clone()),
            (_, Some(Content::Symlink(target))) => Ok(target.to_vec()),
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
        self.requests.count(Op::Other);
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        self.requests.count(Op::Other);
        reply.error(Errno::ENOSYS);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.requests.count(Op::Other);
        reply.error(Errno::ENOSYS);
    }

    fn access(&self, _: &Request, _: INodeNo, _: fuser::AccessFlags, reply: ReplyEmpty) {
        self.requests.count(Op::Other);
        reply.error(Errno::ENOSYS);
    }

    fn read(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, size: u32, _: OpenFlags, _: Option<LockOwner>, reply: ReplyData) {
        self.requests.count(Op::Read);
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
        self.requests.count(Op::Readdir);
        let listed = self.answer(|| {
            self.views.list_dir(ino.0, offset, |listed, next| {
                !reply.add(INodeNo(listed.node.ino()), next, kind(&listed.node), OsStr::from_bytes(&listed.name))
            })
        });
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn readdirplus(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectoryPlus) {
        self.requests.count(Op::Readdir);
        let mut any = false;
        let listed = self.answer(|| {
            self.views.list_dir(ino.0, offset, |listed, next| {
                any = true;
                let attr = self.owners.attr(&listed.node);
                // One time for the name and what it stands for.
                let ttl = lasts(listed.fixed && listed.node.is_fixed());
                let full = reply.add(attr.ino, next, OsStr::from_bytes(&listed.name), &ttl, &attr, Generation(0));
                if !full && next > 2 {
                    self.views.told(attr.ino.0);
                }
                !full
            })
        });
        if listed.is_ok()
            && !any
            && offset > 2
            && let Some(dir) = self.views.same_dir(ino.0)
        {
            self.push.listed(dir);
        }
        match listed {
            Ok(()) => reply.ok(),
            Err(e) => reply.error(e),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        self.requests.count(Op::Other);
        let (bytes, entries) = self.views.totals();
        reply.statfs(bytes.div_ceil(4096), 0, 0, entries, 0, 4096, 255, 4096);
    }

    fn getxattr(&self, _: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        self.requests.count(Op::Xattr);
        if !self.xattrs {
            return reply.error(Errno::ENOSYS);
        }
        if name.as_bytes() == xattr::BLAKE3 {
            return match self.answer(|| self.blake3.wanted(ino.0)) {
                Ok(Some(file)) => self.blake3.answer(file, size, reply),
                Ok(None) => reply.error(Errno::NO_XATTR),
                Err(e) => reply.error(e),
            };
        }
        let value = self.answer(|| xattr::value(&self.views, ino.0, name.as_bytes()));
        reply_xattr(value.and_then(|value| value.ok_or(Errno::NO_XATTR)), size, reply);
    }

    fn listxattr(&self, _: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        self.requests.count(Op::Xattr);
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
        self.requests.count(Op::Lseek);
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
}
