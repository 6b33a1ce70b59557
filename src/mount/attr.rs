//! What a program that asks for attributes is told.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fuser::{FileAttr, FileType, INodeNo};

use crate::{
    format::{Content, Entry},
    mount::view::Node,
};

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

/// Who owns what.
pub struct Owners {
    /// Shown in place of every recorded owner.
    pub all: Option<(u32, u32)>,
    /// Owner of what the mount made up.
    pub mounter: (u32, u32),
}

/// The type of a node.
pub fn kind(node: &Node) -> FileType {
    match node {
        Node::Made { .. } | Node::Root(..) => FileType::Directory,
        Node::Link { .. } => FileType::Symlink,
        Node::Entry(_, _, spot) => file_type(spot.entry()),
    }
}

impl Owners {
    /// The attributes of a node.
    pub fn attr(&self, node: &Node) -> FileAttr {
        let blank = FileAttr {
            ino: INodeNo(node.ino()),
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: kind(node),
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
            Node::Made { changed_ns, guard: None, .. } => at(*changed_ns),
            Node::Made { changed_ns, guard: Some(guard), .. } => {
                let (uid, gid) = guard.owner.map_or(self.mounter, |owner| self.all.unwrap_or(owner));
                FileAttr { perm: guard.perm, uid, gid, ..at(*changed_ns) }
            }
            Node::Link { target, time_ns, names, .. } => FileAttr { size: target.len() as u64, perm: 0o777, nlink: *names, ..at(*time_ns) },
            Node::Root(_, m) => at(m.snapshot.manifest.time_ns),
            Node::Entry(_, _, spot) => self.entry(spot.entry(), blank),
        }
    }

    fn entry(&self, entry: &Entry, blank: FileAttr) -> FileAttr {
        let (uid, gid) = self.all.unwrap_or((entry.uid, entry.gid));
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
}

#[cfg(test)]
mod tests {
    use super::*;

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
