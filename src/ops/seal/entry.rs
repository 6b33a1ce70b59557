//! From what the system says of a file to what the tree says of it.

use crate::{
    format::{Content, Digester, Entry, HardLink},
    sys::{Names, Stat, Xattrs},
};

/// Most bytes of extended attributes that an entry may carry, so that its node fits a frame.
pub const XATTRS_LEN_MAX: usize = 3 << 20;

/// Makes entries; remembers names of owners.
pub struct EntryMaker {
    names: Names,
    main_device: u64,
}

impl EntryMaker {
    /// `main_device` is the device of the first source: inode numbers there name hard links by themselves.
    pub fn new(main_device: u64) -> Self {
        Self { names: Names::default(), main_device }
    }

    /// Returns the entry.
    pub fn entry(&mut self, name: Box<[u8]>, stat: &Stat, xattrs: Xattrs, content: Content) -> Entry {
        let several = stat.nlink > 1 && !matches!(content, Content::Dir { .. });
        Entry {
            name,
            mode: stat.mode,
            uid: stat.uid,
            gid: stat.gid,
            mtime_ns: stat.mtime_ns,
            ctime_ns: stat.ctime_ns,
            source_inode: stat.inode,
            hard_link: several.then(|| HardLink { group: self.group(stat), nlink: stat.nlink }),
            xattrs,
            user: self.names.user(stat.uid),
            group: self.names.group(stat.gid),
            content,
        }
    }

    /// A number that names of one inode share, and no others.
    fn group(&self, stat: &Stat) -> u64 {
        if stat.device == self.main_device {
            return stat.inode;
        }
        let mut hash = Digester::default();
        hash.update(&stat.device.to_le_bytes());
        hash.update(&stat.inode.to_le_bytes());
        u64::from_le_bytes(hash.finish().as_bytes()[..8].try_into().expect("8 of 32 bytes"))
    }
}

/// Stands in the catalog for the change time of a file that changed too recently for its times to be relied on. No file system gives it.
const UNSETTLED_NS: i128 = i64::MIN as i128;

/// `entry` as the catalog remembers it when its times cannot be relied on: it is known, and read again.
pub fn unsettled(entry: &Entry) -> Entry {
    Entry { ctime_ns: UNSETTLED_NS, ..entry.clone() }
}

/// Whether a file still is what the catalog's `entry` says, so that it need not be read.
pub fn same_as_cached(entry: &Entry, stat: &Stat) -> bool {
    entry.ctime_ns == stat.ctime_ns && looks_like_cached(entry, stat)
}

/// Whether a file looks like what the catalog's `entry` says; enough to count it.
pub fn looks_like_cached(entry: &Entry, stat: &Stat) -> bool {
    let Content::File { size, .. } = entry.content else { return false };
    let nlink = entry.hard_link.map_or(1, |link| link.nlink);
    let ctime_ns = if entry.ctime_ns == UNSETTLED_NS { stat.ctime_ns } else { entry.ctime_ns };
    (entry.mode, entry.uid, entry.gid, entry.mtime_ns, ctime_ns, entry.source_inode, size, nlink)
        == (stat.mode, stat.uid, stat.gid, stat.mtime_ns, stat.ctime_ns, stat.inode, stat.size, stat.nlink)
}
