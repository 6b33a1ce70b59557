//! What a restore would do, entry by entry, without doing it.

use serde::Serialize;

use crate::{
    error::Result,
    format::{Content, Entry},
    ops::restore::{
        apply::Apply,
        files::Kept,
        plan::{self, Before, data_len},
        table::{self, Handles},
    },
};

/// What would become of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    /// It is not there, and would be made.
    Create,
    /// Something else stands there, and would be replaced.
    Replace,
    /// Its owner, mode, time or attributes would be set.
    Update,
    /// It is right.
    Keep,
    /// It would be deleted.
    Delete,
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// Path in the snapshot.
    pub path: Vec<u8>,
    /// What would become of it.
    pub fate: Fate,
    /// It is a directory.
    pub directory: bool,
    /// Bytes of content that would be written.
    pub bytes: u64,
}

/// How many entries would become what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// Made.
    pub create: u64,
    /// Replaced.
    pub replace: u64,
    /// Set right.
    pub update: u64,
    /// Left as they are.
    pub keep: u64,
    /// Deleted, all below directories included.
    pub delete: u64,
    /// Bytes of content written, at most.
    pub bytes: u64,
}

impl Preview {
    /// Counts an entry.
    pub fn add(&mut self, line: &Line, entries: u64) {
        *match line.fate {
            Fate::Create => &mut self.create,
            Fate::Replace => &mut self.replace,
            Fate::Update => &mut self.update,
            Fate::Keep => &mut self.keep,
            Fate::Delete => &mut self.delete,
        } += entries;
        self.bytes += line.bytes;
    }
}

/// What would become of every entry of a window, in order of paths.
pub fn window(apply: &Apply) -> Result<Vec<Line>> {
    let mut lines = Vec::with_capacity(apply.plan.jobs.len());
    let mut hands = Handles::new(apply.table)?;
    let line = |below: Vec<u8>, fate, entry: Option<&Entry>| Line {
        path: apply.shown(&below),
        fate,
        directory: entry.is_some_and(Entry::is_dir),
        bytes: entry.filter(|_| matches!(fate, Fate::Create | Fate::Replace)).map_or(0, data_len),
    };
    for (number, job) in (0..).zip(&apply.plan.jobs) {
        apply.context.cancel.check()?;
        let fate = match &job.before {
            Before::Nothing => Fate::Create,
            Before::File(_) | Before::Other => Fate::Replace,
            Before::Same(seen) => {
                let mut holds = || -> Result<bool> {
                    let is_file = matches!(job.entry.content, Content::File { .. });
                    if !apply.options.by_content || !is_file {
                        return Ok(true);
                    }
                    let file = hands_file(&mut hands, job);
                    file.map_or(Ok(false), |file| apply.holds(&file, number))
                };
                match holds()? {
                    false => Fate::Replace,
                    true => match apply.files.look(&mut hands, number, seen) {
                        Ok((Kept::Same, _)) => Fate::Keep,
                        Ok((Kept::Set, _)) => Fate::Update,
                        Ok((Kept::Differs, _)) | Err(_) => Fate::Replace,
                    },
                }
            }
        };
        lines.push(line(apply.files.path(number), fate, Some(&job.entry)));
    }
    for link in &apply.plan.links {
        let first = apply.firsts.get(link.first).there.get();
        let fate = match link.before {
            None => Fate::Create,
            before if before.as_ref() == first => Fate::Keep,
            Some(_) => Fate::Replace,
        };
        lines.push(line(apply.table.path_of(link.dir, &link.name), fate, None));
    }
    for number in &apply.plan.finished {
        let node = apply.table.node(*number);
        let Some(entry) = &node.entry else { continue };
        let fate = match node.before {
            _ if *number == 0 && !apply.is_there => Fate::Create,
            table::Before::Nothing => Fate::Create,
            table::Before::Other => Fate::Replace,
            table::Before::Dir => {
                let stat = hands.get(*number).ok().and_then(|dir| dir.stat().ok());
                let right = stat.is_some_and(|stat| !apply.setter.differs(entry, &stat) && stat.mtime_ns == entry.mtime_ns);
                if right { Fate::Keep } else { Fate::Update }
            }
        };
        let mut line = line(apply.table.path(*number), fate, Some(entry));
        while line.path.ends_with(b"/") {
            line.path.pop();
        }
        lines.push(line);
    }
    lines.sort();
    Ok(lines)
}

fn hands_file(hands: &mut Handles, job: &plan::Job) -> Option<std::fs::File> {
    let dir = hands.get(job.dir).ok()?;
    crate::sys::open_file(&dir, &job.entry.name).ok().map(|(file, _)| file)
}
