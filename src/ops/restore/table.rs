//! The directories of a restore: which there are, and the way to each from the target down, name by name and through no link.
//!
//! A directory is known by device and inode from the moment at which it was made or first opened. If another one is found under its
//! name later, somebody moved it there, and nothing is written into it.

use std::{
    rc::Rc,
    sync::{Mutex, OnceLock},
};

use crate::{
    error::Result,
    format::Entry,
    ops::restore::failed,
    sys::{self, Dir, Stat},
};

/// Directories that a thread keeps open.
const OPEN_MAX: usize = 256;
/// Locks over which the making of directories is spread.
const LOCKS: usize = 64;

/// Number of a directory in the table. The target is 0.
pub type DirNumber = u32;

/// What stands where a directory is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Before {
    /// Nothing: it is made.
    Nothing,
    /// A directory: used.
    Dir,
    /// Something else: removed, and the directory made.
    Other,
}

/// What is known of a directory once it is there.
#[derive(Clone, Copy, Debug)]
struct There {
    device: u64,
    inode: u64,
    /// What is made in it gets a group or ACLs from it.
    passes_on: bool,
}

/// One directory.
pub struct Node {
    parent: DirNumber,
    name: Box<[u8]>,
    /// What stood there when the plan was made.
    pub before: Before,
    there: OnceLock<There>,
    /// What it shall be; taken once that is set.
    pub entry: Option<Box<Entry>>,
}

impl Node {
    /// Whether this run made it.
    pub fn is_new(&self) -> bool {
        self.before != Before::Dir
    }
}

/// All directories so far: about 100 bytes each, and their entries until they are finished.
pub struct Table {
    root: Dir,
    nodes: Vec<Node>,
    locks: Vec<Mutex<()>>,
    group: u32,
}

impl Table {
    /// Starts at an open target directory.
    pub fn new(root: Dir) -> Result<Self> {
        let stat = root.stat().map_err(|e| failed("cannot look at the target", e.into()))?;
        let group = sys::effective_ids().1;
        let there = OnceLock::from(There { device: stat.device, inode: stat.inode, passes_on: passes_on(&root, &stat, group) });
        let node = Node { parent: 0, name: Box::default(), before: Before::Dir, there, entry: None };
        let locks = std::iter::repeat_with(Mutex::default).take(LOCKS).collect();
        Ok(Self { root, nodes: vec![node], locks, group })
    }

    /// Adds a directory.
    pub fn add(&mut self, parent: DirNumber, name: &[u8], before: Before, entry: Box<Entry>) -> DirNumber {
        self.nodes.push(Node { parent, name: name.into(), before, there: OnceLock::new(), entry: Some(entry) });
        DirNumber::try_from(self.nodes.len() - 1).expect("fewer than 2^32 directories")
    }

    /// Takes the newest directory back: nothing in it is wanted.
    pub fn take_back(&mut self, number: DirNumber) {
        assert_eq!(number as usize + 1, self.nodes.len(), "only the newest can go");
        self.nodes.pop();
    }

    /// One directory.
    pub fn node(&self, number: DirNumber) -> &Node {
        &self.nodes[number as usize]
    }

    /// What the directory shall be; kept here until it is finished.
    pub fn set_entry(&mut self, number: DirNumber, entry: Option<Box<Entry>>) {
        self.nodes[number as usize].entry = entry;
    }

    /// The path of a directory below the target, without a slash at either end.
    pub fn path(&self, number: DirNumber) -> Vec<u8> {
        let (mut names, mut at) = (Vec::new(), number);
        while at != 0 {
            names.push(&*self.node(at).name);
            at = self.node(at).parent;
        }
        names.reverse();
        names.join(&b'/')
    }

    /// The path of an entry below the target.
    pub fn path_of(&self, dir: DirNumber, name: &[u8]) -> Vec<u8> {
        let mut path = self.path(dir);
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        path
    }

    /// Whether what is made in a directory, which must be there, gets a group or ACLs from it.
    pub fn passes_on(&self, number: DirNumber) -> bool {
        self.node(number).there.get().is_none_or(|there| there.passes_on)
    }

    /// Whether a directory was opened or made.
    pub fn is_there(&self, number: DirNumber) -> bool {
        self.node(number).there.get().is_some()
    }
}

/// Whether a directory gives its group or a default ACL to what is made in it.
fn passes_on(dir: &Dir, stat: &Stat, group: u32) -> bool {
    let has_default = || sys::xattrs_of_fd(dir).map_or(true, |found| found.iter().any(|(name, _)| **name == *b"system.posix_acl_default"));
    stat.mode & 0o2000 != 0 || stat.gid != group || has_default()
}

/// The directories that one thread has open.
pub struct Handles<'a> {
    table: &'a Table,
    open: Vec<Option<(DirNumber, Rc<Dir>)>>,
    root: Rc<Dir>,
}

impl<'a> Handles<'a> {
    /// Opens directories of `table`.
    pub fn new(table: &'a Table) -> Result<Self> {
        let root = table.root.again().map_err(|e| failed("cannot open the target", e))?;
        Ok(Self { table, open: vec![None; OPEN_MAX], root: Rc::new(root) })
    }

    /// The directory `number`, made if it is not there yet, and the directories above it.
    ///
    /// # Errors
    /// What the system says; `Conflict` if it is not the directory that it was.
    pub fn get(&mut self, number: DirNumber) -> std::io::Result<Rc<Dir>> {
        if number == 0 {
            return Ok(self.root.clone());
        }
        let slot = number as usize % OPEN_MAX;
        if let Some((found, dir)) = &self.open[slot]
            && *found == number
        {
            return Ok(dir.clone());
        }
        let node = self.table.node(number);
        let parent = self.get(node.parent)?;
        let dir = Rc::new(self.enter(node, number, &parent)?);
        self.open[slot] = Some((number, dir.clone()));
        Ok(dir)
    }

    fn enter(&self, node: &Node, number: DirNumber, parent: &Dir) -> std::io::Result<Dir> {
        let _making = self.table.locks[number as usize % LOCKS].lock().expect("nobody panics while making a directory");
        let known = node.there.get();
        if known.is_none() && node.before != Before::Dir {
            if node.before == Before::Other {
                match parent.remove_file(&node.name) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e),
                    _ => (),
                }
            }
            match parent.make_dir(&node.name, 0o700) {
                // Somebody made it since the plan: it is looked at like one that was there.
                Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => return Err(e),
                _ => (),
            }
        }
        let dir = parent.child(&node.name)?;
        let stat = dir.stat()?;
        match known {
            Some(there) if (there.device, there.inode) != (stat.device, stat.inode) => {
                return Err(std::io::Error::other("another directory was put in its place meanwhile"));
            }
            Some(_) => (),
            None => {
                let above = node.before != Before::Dir && self.table.passes_on(node.parent);
                let passes_on = above || passes_on_unless_new(&dir, &stat, node.before, self.table.group);
                let there = There { device: stat.device, inode: stat.inode, passes_on };
                node.there.set(there).expect("set below the lock only");
            }
        }
        Ok(dir)
    }
}

/// The same as `passes_on`; one that was just made has no ACL that its parent has not.
fn passes_on_unless_new(dir: &Dir, stat: &Stat, before: Before, group: u32) -> bool {
    match before {
        Before::Dir => passes_on(dir, stat, group),
        _ => stat.mode & 0o7777 != 0o700 || stat.gid != group,
    }
}
