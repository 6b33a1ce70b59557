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

/// Whether a file still is what the catalog's `entry` says, so that it need not be read.
pub fn same_as_cached(entry: &Entry, stat: &Stat) -> bool {
    let Content::File { size, .. } = entry.content else { return false };
    let nlink = entry.hard_link.map_or(1, |link| link.nlink);
    (entry.mode, entry.uid, entry.gid, entry.mtime_ns, entry.ctime_ns, entry.source_inode, size, nlink)
        == (stat.mode, stat.uid, stat.gid, stat.mtime_ns, stat.ctime_ns, stat.inode, stat.size, stat.nlink)
}
