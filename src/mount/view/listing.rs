//! What a directory of a mount lists.

use std::sync::Arc;

use super::{
    LATEST, Listed, Node, TOPS, Views, Way, What,
    groups::{group_node, groups_of, link},
};
use crate::{
    error::{Error, Result},
    format::Content,
    mount::inode::{AT, HISTORY, HOSTS, Mounted, ROOT, SNAPSHOTS, TAGS},
    vault::Dir,
};

impl Views {
    /// Lists directory `ino` from cookie `from` on, handing each name with the cookie after it to `each` until that returns false.
    ///
    /// Cookies count names in the order of the listing. Below a snapshot they hold across requests and mounts.
    pub fn list_dir(&self, ino: u64, from: u64, mut each: impl FnMut(Listed, u64) -> bool) -> Result<()> {
        let node = self.node(ino)?;
        let skip = usize::try_from(from).unwrap_or(usize::MAX);
        let fixed = node.is_fixed();
        for (n, dots) in [".", ".."].iter().enumerate().skip(skip) {
            let node = if *dots == "." { self.node(ino)? } else { self.above(&node)? };
            if !each(Listed { name: dots.as_bytes().to_vec(), node, fixed }, n as u64 + 1) {
                return Ok(());
            }
        }
        let skip = skip.saturating_sub(2);
        let mut tell = |n: usize, name: &[u8], node: Node| each(Listed { name: name.to_vec(), node, fixed }, n as u64 + 3);
        let list = self.list();
        match &node {
            Node::Link { .. } => return Err(not_a_dir()),
            Node::Made { what, ino, .. } => match what {
                What::Top(ROOT) => {
                    let latest = list.latest(&self.host).map(|m| (LATEST, Node::Root(Way::Latest, m.clone())));
                    let mut names: Vec<_> = TOPS.iter().map(|(name, ino)| (*name, self.top(&list, *ino))).chain(latest).collect();
                    names.sort_by_key(|(name, _)| *name);
                    let names = names.into_iter().enumerate().skip(skip);
                    names.map(|(n, (name, node))| tell(n, name, node)).take_while(|more| *more).for_each(drop);
                }
                What::Top(SNAPSHOTS) => {
                    let all = list.all.iter().enumerate().skip(skip);
                    all.map(|(n, m)| tell(n, m.name.as_bytes(), Node::Root(Way::Snapshots, m.clone())))
                        .take_while(|more| *more)
                        .for_each(drop);
                }
                What::Top(top @ (HOSTS | TAGS)) => {
                    let groups = groups_of(&list, *top == HOSTS);
                    let nodes = (skip..groups.len()).map(|at| (at, &groups[at].name, group_node(&list, *top == HOSTS, at)));
                    nodes.map(|(n, name, node)| tell(n, name.as_bytes(), node)).take_while(|more| *more).for_each(drop);
                }
                What::Top(AT) => {
                    for (n, day) in list.days.iter().enumerate().skip(skip) {
                        // A day whose snapshots a clock put in another order may have none at its end.
                        if let Some(node) = self.at(&list, day.as_bytes())?
                            && !tell(n, day.as_bytes(), node)
                        {
                            break;
                        }
                    }
                }
                What::Top(HISTORY) => self.list_path(&list, *ino, &[], skip, tell)?,
                What::Top(_) => (),
                What::Group { list, hosts, at } => {
                    let group = &groups_of(list, *hosts)[*at];
                    let members = group.members.iter().map(|n| &list.all[*n]).enumerate().skip(skip);
                    members.map(|(n, m)| tell(n, m.name.as_bytes(), link(list, m))).take_while(|more| *more).for_each(drop);
                }
                What::Path(path) => self.list_path(&list, *ino, path, skip, tell)?,
                What::Versions(path) => self.list_versions(&list, *ino, path, skip, tell)?,
                What::Change(_, door) => self.list_kinds(door, skip, tell)?,
            },
            Node::Root(way, mounted) => match way.change() {
                Some(door) => self.list_changed(way, door, mounted, 0, ino, skip, tell)?,
                None => self.list_entries(way, mounted, self.dirs.dir(&mounted.keys, mounted.root())?, 0, skip, tell)?,
            },
            Node::Entry(way, mounted, spot) => match (self.dir_of(mounted, spot.entry())?, way.change()) {
                (None, _) => return Err(not_a_dir()),
                (Some(_), Some(door)) => self.list_changed(way, door, mounted, spot.index, ino, skip, tell)?,
                (Some(dir), None) => self.list_entries(way, mounted, dir, spot.index, skip, tell)?,
            },
        }
        Ok(())
    }

    fn list_entries(
        &self,
        way: &Way,
        mounted: &Arc<Mounted>,
        dir: Dir,
        base: u64,
        skip: usize,
        mut tell: impl FnMut(usize, &[u8], Node) -> bool,
    ) -> Result<()> {
        let mut dirs = Vec::new();
        for at in skip.. {
            let Some(spot) = self.dirs.at(&mounted.keys, &dir, base, at)? else { break };
            let name = spot.entry().name.clone();
            if let Content::Dir { node, .. } = &spot.entry().content {
                dirs.push(*node);
            }
            if !tell(at, &name, Node::Entry(way.clone(), mounted.clone(), spot)) {
                break;
            }
        }
        self.onward.listed(mounted, dirs);
        Ok(())
    }
}

fn not_a_dir() -> Error {
    Error::usage("not a directory")
}
