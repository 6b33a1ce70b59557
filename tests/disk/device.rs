//! A disk of the test's own: files in memory, a log of all that was done to them, and rules that make calls fail.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{OsStr, OsString},
    sync::{Arc, Condvar, Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use fuser::Errno;

pub const ROOT: u64 = 1;

/// One change, or one promise that changes last.
#[derive(Clone, Debug)]
pub enum Op {
    /// An inode that nothing names yet.
    Born {
        ino: u64,
        is_dir: bool,
    },
    /// The name stands for this inode now, or for none.
    Name {
        dir: u64,
        name: OsString,
        ino: Option<u64>,
    },
    Write {
        ino: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    Size {
        ino: u64,
        len: u64,
    },
    Mode {
        ino: u64,
        mode: u32,
    },
    /// All of a file lasts; all names of a directory do.
    Sync {
        ino: u64,
    },
}

#[derive(Clone)]
pub struct Inode {
    /// Names if it is a directory.
    pub names: Option<BTreeMap<OsString, u64>>,
    pub bytes: Vec<u8>,
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: SystemTime,
    pub links: u32,
    /// Where it was last, for rules.
    pub path: String,
}

impl Inode {
    fn new(is_dir: bool, mode: u32, owner: (u32, u32), path: String) -> Self {
        let names = is_dir.then(BTreeMap::new);
        Self { names, bytes: Vec::new(), mode, owner, mtime: UNIX_EPOCH + Duration::from_secs(1 << 31), links: 1, path }
    }
}

/// What a rule says of a call.
pub enum Verdict {
    Go,
    Fail(Errno),
    /// Half of what was asked for.
    Short,
    /// No answer until the device is let go.
    Hang,
}

/// Looks at each call: its name (`read`, `write`, `create`, `mkdir`, `rename`, `sync`, `list`), and the path.
pub type Rule = Box<dyn FnMut(&str, &str) -> Verdict + Send>;

#[derive(Default)]
pub struct State {
    pub inodes: HashMap<u64, Inode>,
    next: u64,
    pub log: Vec<Op>,
    rule: Option<Rule>,
    stuck: bool,
}

/// Shared by the threads that serve it and by the test.
#[derive(Clone, Default)]
pub struct Device(Arc<(Mutex<State>, Condvar)>);

pub type Answer<T> = Result<T, Errno>;

impl Device {
    pub fn new() -> Self {
        let device = Self::default();
        let mut state = device.state();
        state.next = ROOT + 1;
        state.inodes.insert(ROOT, Inode::new(true, 0o755, (0, 0), String::new()));
        drop(state);
        device
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// How much was done so far.
    pub fn mark(&self) -> usize {
        self.state().log.len()
    }

    /// Every call is held against `rule` from now on, or against none.
    pub fn set(&self, rule: Option<Rule>) {
        let mut state = self.state();
        state.rule = rule;
        state.stuck = false;
        self.0.1.notify_all();
    }

    /// Whether a call hangs.
    pub fn is_stuck(&self) -> bool {
        self.state().stuck
    }

    /// Asks the rule about a call on `ino`, or on `name` in it; true to do half of it.
    pub fn ask(&self, call: &str, ino: u64, name: Option<&OsStr>) -> Answer<bool> {
        let mut state = self.state();
        let path = state.path(ino, name);
        let Some(rule) = &mut state.rule else { return Ok(false) };
        match rule(call, &path) {
            Verdict::Go => Ok(false),
            Verdict::Short => Ok(true),
            Verdict::Fail(errno) => Err(errno),
            Verdict::Hang => {
                state.stuck = true;
                while state.stuck {
                    state = self.0.1.wait(state).unwrap_or_else(|e| e.into_inner());
                }
                Ok(false)
            }
        }
    }
}

impl State {
    fn path(&self, ino: u64, name: Option<&OsStr>) -> String {
        let above = self.inodes.get(&ino).map_or("", |inode| inode.path.as_str());
        match name {
            Some(name) if above.is_empty() => name.to_string_lossy().into_owned(),
            Some(name) => format!("{above}/{}", name.to_string_lossy()),
            None => above.to_owned(),
        }
    }

    pub fn get(&self, ino: u64) -> Answer<&Inode> {
        self.inodes.get(&ino).ok_or(Errno::ENOENT)
    }

    fn names(&mut self, dir: u64) -> Answer<&mut BTreeMap<OsString, u64>> {
        self.inodes.get_mut(&dir).and_then(|inode| inode.names.as_mut()).ok_or(Errno::ENOTDIR)
    }

    pub fn lookup(&self, dir: u64, name: &OsStr) -> Answer<u64> {
        self.get(dir)?.names.as_ref().ok_or(Errno::ENOTDIR)?.get(name).copied().ok_or(Errno::ENOENT)
    }

    pub fn make(&mut self, dir: u64, name: &OsStr, is_dir: bool, mode: u32, owner: (u32, u32)) -> Answer<u64> {
        if self.lookup(dir, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        let (ino, path) = (self.next, self.path(dir, Some(name)));
        self.next += 1;
        self.inodes.insert(ino, Inode::new(is_dir, mode, owner, path));
        self.log.push(Op::Born { ino, is_dir });
        self.log.push(Op::Mode { ino, mode });
        self.name(dir, name, Some(ino))?;
        Ok(ino)
    }

    fn name(&mut self, dir: u64, name: &OsStr, ino: Option<u64>) -> Answer<()> {
        let names = self.names(dir)?;
        match ino {
            Some(ino) => names.insert(name.to_owned(), ino),
            None => names.remove(name),
        };
        self.log.push(Op::Name { dir, name: name.to_owned(), ino });
        Ok(())
    }

    pub fn remove(&mut self, dir: u64, name: &OsStr, wants_dir: bool) -> Answer<()> {
        let ino = self.lookup(dir, name)?;
        match (&self.get(ino)?.names, wants_dir) {
            (Some(names), true) if !names.is_empty() => return Err(Errno::ENOTEMPTY),
            (Some(_), false) => return Err(Errno::EISDIR),
            (None, true) => return Err(Errno::ENOTDIR),
            _ => (),
        }
        self.name(dir, name, None)
    }

    pub fn rename(&mut self, from: (u64, &OsStr), to: (u64, &OsStr), replace: bool) -> Answer<()> {
        let ino = self.lookup(from.0, from.1)?;
        if !replace && self.lookup(to.0, to.1).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.name(from.0, from.1, None)?;
        self.name(to.0, to.1, Some(ino))?;
        let path = self.path(to.0, Some(to.1));
        self.inodes.get_mut(&ino).ok_or(Errno::ENOENT)?.path = path;
        Ok(())
    }

    pub fn link(&mut self, ino: u64, dir: u64, name: &OsStr) -> Answer<()> {
        if self.lookup(dir, name).is_ok() {
            return Err(Errno::EEXIST);
        }
        self.name(dir, name, Some(ino))
    }

    pub fn write(&mut self, ino: u64, offset: u64, bytes: &[u8]) -> Answer<()> {
        put(&mut self.inodes.get_mut(&ino).ok_or(Errno::ENOENT)?.bytes, offset, bytes);
        self.log.push(Op::Write { ino, offset, bytes: bytes.to_vec() });
        Ok(())
    }

    pub fn resize(&mut self, ino: u64, len: u64) -> Answer<()> {
        self.inodes.get_mut(&ino).ok_or(Errno::ENOENT)?.bytes.resize(len as usize, 0);
        self.log.push(Op::Size { ino, len });
        Ok(())
    }

    pub fn set_mode(&mut self, ino: u64, mode: u32) -> Answer<()> {
        self.inodes.get_mut(&ino).ok_or(Errno::ENOENT)?.mode = mode;
        self.log.push(Op::Mode { ino, mode });
        Ok(())
    }

    pub fn sync(&mut self, ino: u64) {
        self.log.push(Op::Sync { ino });
    }
}

/// Puts bytes into a file, which grows as it must.
pub fn put(file: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if file.len() < end {
        file.resize(end, 0);
    }
    file[start..end].copy_from_slice(bytes);
}
