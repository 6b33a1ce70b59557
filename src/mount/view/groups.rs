//! `hosts/` and `tags/`: links to snapshots, by what the manifests say.

use std::sync::Arc;

use super::{Node, What};
use crate::mount::{
    inode::{Made, Mounted, Place, hashed},
    list::{Group, SnapshotList},
};

/// The hosts, or the tags.
pub fn groups_of(list: &SnapshotList, hosts: bool) -> &[Group] {
    if hosts { &list.hosts } else { &list.tags }
}

/// `hosts/HOST/` or `tags/TAG/`, by its place among them.
pub fn group_node(list: &Arc<SnapshotList>, hosts: bool, at: usize) -> Node {
    let group = &groups_of(list, hosts)[at];
    let ino = Place::Made(if hosts { Made::Host(group.hash) } else { Made::Tag(group.hash) }).ino();
    let newest = group.members.last().map_or(0, |n| list.all[*n].snapshot.manifest.time_ns);
    // Not older than what the whole list says: its time must change when its names do.
    let changed_ns = newest.max(list.changed_ns);
    Node::Made { ino, what: What::Group { list: list.clone(), hosts, at }, changed_ns, guard: None }
}

/// The same, by its hash.
pub fn group(list: &Arc<SnapshotList>, hosts: bool, hash: u64) -> Option<Node> {
    groups_of(list, hosts).iter().position(|g| g.hash == hash).map(|at| group_node(list, hosts, at))
}

/// The same, by its name.
pub fn group_named(list: &Arc<SnapshotList>, hosts: bool, name: &[u8]) -> Option<Node> {
    groups_of(list, hosts).iter().position(|g| g.name.as_bytes() == name).map(|at| group_node(list, hosts, at))
}

/// The link to a snapshot.
pub fn link(list: &SnapshotList, mounted: &Mounted) -> Node {
    let manifest = &mounted.snapshot.manifest;
    let mut hashes: Vec<u64> = manifest.tags.iter().map(|tag| hashed(tag)).collect();
    hashes.sort_unstable();
    hashes.dedup();
    let tags = hashes.iter().filter(|hash| list.tags.iter().any(|g| g.hash == **hash)).count();
    Node::Link {
        ino: Place::Made(Made::Link(mounted.serial)).ino(),
        target: format!("../../snapshots/{}", mounted.name).into_bytes(),
        time_ns: manifest.time_ns,
        names: 1 + tags as u32,
    }
}
