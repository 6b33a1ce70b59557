//! Marking: from the roots of snapshots to every chunk that they need. Reads nodes only, no content; each node once.

use std::sync::{Condvar, Mutex, MutexGuard};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{ChunkId, ChunkList, Content, Data, DomainId, Node},
    ops::prune::table::{Holds, Marked, Table},
    sys::Cancel,
    vault::Reader,
};

/// Nodes that a thread keeps to itself before it shares.
const OWN_MAX: usize = 64;
/// Missing content chunks that are listed one by one.
const MISSING_MAX: usize = 100;

/// A node yet to be read.
#[derive(Clone, Copy, Debug)]
pub struct Item {
    /// Whose keys name it.
    pub domain: DomainId,
    /// What it is.
    pub id: ChunkId,
    /// Whether it is a piece of a long list of chunks, and no directory.
    pub is_list: bool,
}

/// What a node needs.
#[derive(Clone, Copy, Debug)]
pub enum Need {
    /// Another node.
    Node(ChunkId),
    /// A piece of a long list of chunks.
    List(ChunkId),
    /// Content.
    Content(ChunkId),
}

/// Where nodes come from.
pub trait Trees: Sync {
    /// Calls `each` with everything that a node needs.
    fn needs(&self, item: &Item, each: &mut dyn FnMut(Need)) -> Result<()>;
}

impl Trees for Reader {
    fn needs(&self, item: &Item, each: &mut dyn FnMut(Need)) -> Result<()> {
        let keys = self.owner.domain(item.domain);
        if item.is_list {
            let list = self.with_chunk(&item.id, &keys.tree, ChunkList::from_bytes)??;
            list.iter().for_each(|chunk| each(Need::Content(chunk.id)));
            return Ok(());
        }
        match self.node(&keys, &item.id)? {
            Node::Parts(parts) => parts.iter().for_each(|(_, id)| each(Need::Node(*id))),
            Node::Entries(entries) => {
                for entry in &entries {
                    match &entry.content {
                        Content::Dir { node, .. } => each(Need::Node(*node)),
                        Content::File { data: Data::Chunks(list), .. } => list.iter().for_each(|chunk| each(Need::Content(chunk.id))),
                        Content::File { data: Data::Lists(parts), .. } => parts.iter().for_each(|part| each(Need::List(part.id))),
                        _ => (),
                    }
                }
            }
        }
        Ok(())
    }
}

/// What was marked.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Nodes that were read.
    pub nodes: u64,
    /// Content that no pack has: already lost, whatever prune does.
    pub missing: Vec<ChunkId>,
}

#[derive(Default)]
struct Shared {
    waiting: Vec<Item>,
    working: usize,
    failed: Option<Error>,
    tally: Tally,
}

/// Marks everything that the `roots` need, with so many threads. Marks that are there stay, and what is below them is not read again.
///
/// # Errors
/// `Missing` or `Corrupt` if a node cannot be read: what is below it is not known, so nothing may be deleted.
pub fn mark(table: &Table, trees: &dyn Trees, roots: Vec<Item>, workers: usize, cancel: &Cancel) -> Result<Tally> {
    let mut shared = Shared::default();
    for root in roots {
        push(table, &mut shared.waiting, root)?;
    }
    let (shared, bell) = (Mutex::new(shared), Condvar::new());
    std::thread::scope(|scope| {
        for _ in 0..workers.max(1) {
            scope.spawn(|| work(table, trees, &shared, &bell, cancel));
        }
    });
    let shared = shared.into_inner().expect("nobody panicked while marking");
    match shared.failed {
        Some(e) => Err(e),
        None => Ok(shared.tally),
    }
}

/// Marks a node, and notes it if that is news.
fn push(table: &Table, to: &mut Vec<Item>, item: Item) -> Result<()> {
    match table.mark(&item.id, Holds::Nodes) {
        Marked::New => to.push(item),
        Marked::Already => (),
        Marked::Unknown => {
            return Err(Error::missing(format!("directory node {} is in no pack of the vault", item.id.short())).hint(
                "coffre verify --depth chunks names what is damaged; forget the snapshots that are, or bring the pack back from a copy",
            ));
        }
    }
    Ok(())
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().expect("nobody panics while holding the list")
}

fn work(table: &Table, trees: &dyn Trees, shared: &Mutex<Shared>, bell: &Condvar, cancel: &Cancel) {
    let mut own: Vec<Item> = Vec::new();
    let mut tally = Tally::default();
    let mut is_working = false;
    loop {
        if own.is_empty() {
            let mut all = lock(shared);
            all.working -= usize::from(std::mem::take(&mut is_working));
            loop {
                if all.failed.is_some() || (all.waiting.is_empty() && all.working == 0) {
                    all.tally.nodes += tally.nodes;
                    all.tally.missing.append(&mut tally.missing);
                    bell.notify_all();
                    return;
                }
                if !all.waiting.is_empty() {
                    break;
                }
                all = bell.wait(all).expect("nobody panics while holding the list");
            }
            let half = all.waiting.len().div_ceil(2).min(OWN_MAX);
            let at = all.waiting.len() - half;
            own = all.waiting.split_off(at);
            all.working += 1;
            is_working = true;
        }
        let Some(item) = own.pop() else { continue };
        let read = cancel.check().and_then(|()| one(table, trees, &item, &mut own, &mut tally));
        if let Err(e) = read {
            let mut all = lock(shared);
            all.failed.get_or_insert(e);
            own.clear();
            continue;
        }
        if own.len() > OWN_MAX {
            let mut all = lock(shared);
            all.waiting.extend(own.drain(..OWN_MAX / 2));
            bell.notify_one();
        }
    }
}

fn one(table: &Table, trees: &dyn Trees, item: &Item, own: &mut Vec<Item>, tally: &mut Tally) -> Result<()> {
    tally.nodes += 1;
    let mut failed = None;
    let mut missing = Vec::new();
    let read = trees.needs(item, &mut |need| match need {
        Need::Content(id) => {
            if table.mark(&id, Holds::Content) == Marked::Unknown && missing.len() < MISSING_MAX {
                missing.push(id);
            }
        }
        Need::Node(id) | Need::List(id) => {
            let below = Item { domain: item.domain, id, is_list: matches!(need, Need::List(_)) };
            if let Err(e) = push(table, own, below) {
                failed.get_or_insert(e);
            }
        }
    });
    let cut = MISSING_MAX.saturating_sub(tally.missing.len());
    tally.missing.extend(missing.into_iter().take(cut));
    match (read, failed) {
        (Err(e), _) if e.kind() == ErrorKind::Cancelled => Err(e),
        (Err(e), _) => Err(e.while_doing(format!("cannot read directory node {}, so nothing may be deleted", item.id.short()))),
        (Ok(()), Some(e)) => Err(e),
        (Ok(()), None) => Ok(()),
    }
}
