//! The device as a file system that processes can use: translates for the kernel, and has every call and answer in one place.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    ffi::OsStr,
    path::Path,
    time::{Duration, SystemTime},
};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner, MountOption,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};

use super::device::{Answer, Device, Inode, State};

/// The kernel asks every time: what it keeps, the rules would not see.
const NEVER: Duration = Duration::ZERO;
/// Threads that answer: one that hangs must not keep the others.
const THREADS: usize = 6;

/// A mounted device, gone when dropped.
pub struct Mounted {
    pub device: Device,
    session: Option<BackgroundSession>,
}

impl Mounted {
    pub fn at(point: &Path) -> Self {
        let device = Device::new();
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("a-test-of-coffre".to_owned()), MountOption::DefaultPermissions];
        config.n_threads = Some(THREADS);
        std::fs::create_dir_all(point).unwrap();
        let session = fuser::spawn_mount(Served(device.clone()), point, &config).unwrap();
        Self { device, session: Some(session) }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        self.device.set(None);
        drop(self.session.take().map(BackgroundSession::umount_and_join));
    }
}

struct Served(Device);

impl Served {
    /// Asks the rule, then does it.
    fn call<T>(&self, call: &str, at: (INodeNo, Option<&OsStr>), f: impl FnOnce(&mut State, bool) -> Answer<T>) -> Answer<T> {
        let half = self.0.ask(call, at.0.0, at.1)?;
        f(&mut self.0.state(), half)
    }
}

fn attr(state: &State, ino: u64) -> Answer<FileAttr> {
    let Inode { names, bytes, mode, owner, mtime, links, .. } = state.get(ino)?;
    Ok(FileAttr {
        ino: INodeNo(ino),
        size: bytes.len() as u64,
        blocks: bytes.len().div_ceil(512) as u64,
        atime: *mtime,
        mtime: *mtime,
        ctime: *mtime,
        crtime: *mtime,
        kind: if names.is_some() { FileType::Directory } else { FileType::RegularFile },
        perm: *mode as u16 & 0o7777,
        nlink: *links,
        uid: owner.0,
        gid: owner.1,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    })
}

macro_rules! answer {
    ($reply:ident, $result:expr, $($value:pat => $ok:expr),+) => {
        match $result {
            $(Ok($value) => $ok,)+
            Err(errno) => $reply.error(errno),
        }
    };
}

impl Filesystem for Served {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let found = self.call("lookup", (parent, Some(name)), |state, _| state.lookup(parent.0, name).and_then(|ino| attr(state, ino)));
        answer!(reply, found, attr => reply.entry(&NEVER, &attr, Generation(0)));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        answer!(reply, self.call("stat", (ino, None), |state, _| attr(state, ino.0)), attr => reply.attr(&NEVER, &attr));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = self.call(if size.is_some() { "write" } else { "chmod" }, (ino, None), |state, _| {
            if let Some(len) = size {
                state.resize(ino.0, len)?;
            }
            if let Some(mode) = mode {
                state.set_mode(ino.0, mode)?;
            }
            let inode = state.inodes.get_mut(&ino.0).ok_or(Errno::ENOENT)?;
            inode.owner = (uid.unwrap_or(inode.owner.0), gid.unwrap_or(inode.owner.1));
            attr(state, ino.0)
        });
        answer!(reply, set, attr => reply.attr(&NEVER, &attr));
    }

    fn mkdir(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, reply: ReplyEntry) {
        let owner = (request.uid(), request.gid());
        let made = self.call("mkdir", (parent, Some(name)), |state, _| {
            state.make(parent.0, name, true, mode & !umask, owner).and_then(|ino| attr(state, ino))
        });
        answer!(reply, made, attr => reply.entry(&NEVER, &attr, Generation(0)));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.call("unlink", (parent, Some(name)), |state, _| state.remove(parent.0, name, false)), () => reply.ok());
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        answer!(reply, self.call("unlink", (parent, Some(name)), |state, _| state.remove(parent.0, name, true)), () => reply.ok());
    }

    fn rename(&self, _: &Request, parent: INodeNo, name: &OsStr, to: INodeNo, new: &OsStr, flags: RenameFlags, reply: ReplyEmpty) {
        let replace = !flags.contains(RenameFlags::RENAME_NOREPLACE);
        let done = self.call("rename", (to, Some(new)), |state, _| state.rename((parent.0, name), (to.0, new), replace));
        answer!(reply, done, () => reply.ok());
    }

    fn link(&self, _: &Request, ino: INodeNo, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let linked = self.call("rename", (parent, Some(name)), |state, _| {
            state.link(ino.0, parent.0, name)?;
            attr(state, ino.0)
        });
        answer!(reply, linked, attr => reply.entry(&NEVER, &attr, Generation(0)));
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.call("open", (ino, None), |state, _| state.get(ino.0).map(drop));
        answer!(reply, opened, () => reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO));
    }

    fn create(&self, request: &Request, parent: INodeNo, name: &OsStr, mode: u32, umask: u32, _: i32, reply: ReplyCreate) {
        let owner = (request.uid(), request.gid());
        let made = self.call("create", (parent, Some(name)), |state, _| {
            state.make(parent.0, name, false, mode & !umask, owner).and_then(|ino| attr(state, ino))
        });
        answer!(reply, made, attr => reply.created(&NEVER, &attr, Generation(0), FileHandle(0), FopenFlags::FOPEN_DIRECT_IO));
    }

    fn read(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, len: u32, _: OpenFlags, _: Option<LockOwner>, reply: ReplyData) {
        let read = self.call("read", (ino, None), |state, half| {
            let bytes = &state.get(ino.0)?.bytes;
            let start = (offset as usize).min(bytes.len());
            let end = (start + if half { (len as usize).div_ceil(2) } else { len as usize }).min(bytes.len());
            Ok(bytes[start..end].to_vec())
        });
        answer!(reply, read, bytes => reply.data(&bytes));
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let written = self.call("write", (ino, None), |state, half| {
            let data = if half { &data[..data.len().div_ceil(2)] } else { data };
            state.write(ino.0, offset, data).map(|()| data.len() as u32)
        });
        answer!(reply, written, len => reply.written(len));
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, _: Option<LockOwner>, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let done = self.call("sync", (ino, None), |state, _| {
            state.sync(ino.0);
            Ok(())
        });
        answer!(reply, done, () => reply.ok());
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, handle: FileHandle, data: bool, reply: ReplyEmpty) {
        self.fsync(request, ino, handle, data, reply);
    }

    fn opendir(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        let opened = self.call("list", (ino, None), |state, _| state.get(ino.0).map(drop));
        answer!(reply, opened, () => reply.opened(FileHandle(0), FopenFlags::empty()));
    }

    fn releasedir(&self, _: &Request, _: INodeNo, _: FileHandle, _: OpenFlags, reply: ReplyEmpty) {
        reply.ok();
    }

    fn readdir(&self, _: &Request, ino: INodeNo, _: FileHandle, offset: u64, mut reply: ReplyDirectory) {
        let listed = self.call("list", (ino, None), |state, _| {
            let names = state.get(ino.0)?.names.as_ref().ok_or(Errno::ENOTDIR)?;
            let dots = [(OsStr::new("."), ino.0), (OsStr::new(".."), ino.0)];
            let all = dots.into_iter().chain(names.iter().map(|(name, ino)| (name.as_os_str(), *ino)));
            for ((name, ino), next) in all.zip(1u64..).skip(offset as usize) {
                let is_dir = state.get(ino)?.names.is_some();
                if reply.add(INodeNo(ino), next, if is_dir { FileType::Directory } else { FileType::RegularFile }, name) {
                    break;
                }
            }
            Ok(())
        });
        answer!(reply, listed, () => reply.ok());
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        reply.statfs(1 << 30, 1 << 29, 1 << 29, 1 << 20, 1 << 19, 4096, 255, 4096);
    }
}
