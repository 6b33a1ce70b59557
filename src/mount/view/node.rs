//! What a number can stand for.

use std::sync::Arc;

use crate::{
    format::Entry,
    mount::{
        doors::Door,
        guard::Guard,
        inode::{Mounted, Place},
        list::SnapshotList,
    },
    vault::Spot,
};

/// The way by which one came into a snapshot. Directories have a number for each, files one for all.
#[derive(Clone)]
pub enum Way {
    /// `snapshots/NAME/`.
    Snapshots,
    /// `latest/`.
    Latest,
    /// A version of a directory that lies so many names deep.
    Version(u8),
    /// `at/TIME/`, or a directory in `changes/A..B/`.
    Door(u32, Arc<Door>),
}

impl Way {
    /// The number of a directory on this way.
    fn dir_ino(&self, serial: u32, index: u64) -> u64 {
        match self {
            Way::Snapshots => Place::Snapshot(serial, index),
            Way::Latest => Place::Latest(serial, index),
            Way::Version(depth) => Place::Version(serial, index, *depth),
            Way::Door(number, _) => Place::Door(*number, index),
        }
        .ino()
    }

    /// The comparison that it goes through, if it does.
    pub fn change(&self) -> Option<&Door> {
        match self {
            Way::Door(_, door) if matches!(**door, Door::Changes { .. }) => Some(door),
            _ => None,
        }
    }
}

/// What a directory that the mount made up shows.
pub enum What {
    /// The top, or a directory there.
    Top(u64),
    /// The snapshots of a host, or of a tag.
    Group {
        /// The list that says so.
        list: Arc<SnapshotList>,
        /// Whether it is a host.
        hosts: bool,
        /// Which.
        at: usize,
    },
    /// All that ever stood at this path.
    Path(Vec<u8>),
    /// Every version of this path.
    Versions(Vec<u8>),
    /// `changes/A..B/`.
    Change(u32, Arc<Door>),
}

/// What a number stands for.
pub enum Node {
    /// A directory of the mount itself.
    Made {
        /// Its number.
        ino: u64,
        /// What it shows.
        what: What,
        /// When that changed last, ns since 1970.
        changed_ns: i128,
        /// Who may look into it; `None` for everybody.
        guard: Option<Guard>,
    },
    /// A link to a snapshot.
    Link {
        /// Its number.
        ino: u64,
        /// Where it leads.
        target: Vec<u8>,
        /// When that was sealed, ns since 1970.
        time_ns: i128,
        /// How many names it has.
        names: u32,
    },
    /// The root of a snapshot.
    Root(Way, Arc<Mounted>),
    /// An entry of a snapshot.
    Entry(Way, Arc<Mounted>, Spot),
}

/// One name of a directory listing.
pub struct Listed {
    /// The name.
    pub name: Vec<u8>,
    /// What it is.
    pub node: Node,
    /// Whether the name stands for that for ever.
    pub fixed: bool,
}

/// `changes/A..B/`, which has this number.
pub fn change(number: u32, door: Arc<Door>) -> Node {
    let changed_ns = match &*door {
        Door::At { mounted: newest, .. } | Door::Changes { new: newest, .. } => newest.snapshot.manifest.time_ns,
    };
    Node::Made { ino: Place::Door(number, 0).ino(), what: What::Change(number, door), changed_ns, guard: None }
}

impl Node {
    /// Its number.
    pub fn ino(&self) -> u64 {
        match self {
            Node::Made { ino, .. } | Node::Link { ino, .. } => *ino,
            Node::Root(way, m) => way.dir_ino(m.serial, 0),
            Node::Entry(way, m, spot) if spot.entry().is_dir() => way.dir_ino(m.serial, spot.index),
            Node::Entry(_, m, spot) => m.shown(spot.entry(), spot.index),
        }
    }

    /// Its entry, unless the mount made it up.
    pub fn entry(&self) -> Option<&Entry> {
        match self {
            Node::Entry(_, _, spot) => Some(spot.entry()),
            _ => None,
        }
    }

    /// Whether what it is and the names in it never change.
    pub fn is_fixed(&self) -> bool {
        matches!(self, Node::Root(..) | Node::Entry(..) | Node::Made { what: What::Change(..), .. })
    }
}
