//! What the commands have in common that look into a vault.

use std::sync::Arc;

use clap::builder::{PossibleValue, TypedValueParser};

use crate::{
    cli::{DISK_CACHE_BYTES, Opened, Run, keys},
    error::{Error, Result},
    ops::{look::Look, row::Type},
    sys,
    vault::{Reader, Selector, Snapshot, StateDir, select},
};

/// Opens the vault for looking, and says what was wrong with its snapshots.
pub fn open(run: &Run) -> Result<Looking> {
    sys::keep_heaps();
    let opened = run.globals.open_to_read(DISK_CACHE_BYTES)?;
    let owner = Arc::new(keys::unlock(run.globals, &opened.vault)?);
    let (look, findings) = Look::open(&opened.vault, owner, &opened.state)?;
    for finding in findings {
        run.screen.warning(&format!("{}: {}", finding.object, finding.text));
    }
    look.dirs.reader().tell(run.screen.clone());
    Ok(Looking { look: Some(look), state: opened.state })
}

/// Opens what a vault holds for reading one snapshot, with so much memory for frames, and says what was wrong on the way.
pub fn one(run: &Run, opened: &Opened, selector: &Selector, cache_bytes: u64) -> Result<(Reader, Snapshot)> {
    let owner = Arc::new(keys::unlock(run.globals, &opened.vault)?);
    let (mut snapshots, findings) = opened.vault.snapshots(&owner)?;
    for finding in findings {
        run.screen.warning(&format!("{}: {}", finding.object, finding.text));
    }
    let id = select(&snapshots, selector)?.id;
    let at = snapshots.iter().position(|snapshot| snapshot.id == id).expect("it was found among them");
    let (reader, _) = Reader::open(opened.vault.clone(), owner, cache_bytes)?;
    reader.tell(run.screen.clone());
    Ok((reader, snapshots.swap_remove(at)))
}

/// A look that remembers, when it is over, what it had to open.
pub struct Looking {
    /// Taken when it is dropped.
    look: Option<Look>,
    state: StateDir,
}

impl std::ops::Deref for Looking {
    type Target = Look;

    fn deref(&self) -> &Look {
        self.look.as_ref().expect("it is taken when this is dropped, not before")
    }
}

impl Drop for Looking {
    fn drop(&mut self) {
        if let Some(look) = self.look.take() {
            look.keep(&self.state);
            look.end();
        }
    }
}

/// Reads SNAP.
pub fn selector(run: &Run, text: &str) -> Result<Selector> {
    Selector::parse(text, run.clock.now_ns())
}

/// Reads a moment; `None` stays that.
pub fn moment(run: &Run, text: Option<&str>) -> Result<Option<i128>> {
    let Some(text) = text else { return Ok(None) };
    let moment = sys::parse_moment(text, run.clock.now_ns());
    moment
        .map(Some)
        .ok_or_else(|| Error::usage(format!("`{text}` is no time")).hint("write 2025-11-08, 2025-11-08T03:00, yesterday, or 3 days ago"))
}

/// A day that was named means its start where something is to be newer, not its end.
pub fn since(moment: Option<i128>, typed: Option<&str>) -> Option<i128> {
    const DAY_NS: i128 = 86_400_000_000_000;
    let names_day = typed.is_some_and(|t| !t.contains([':', 'T']) && !["now", "hour", "minute", "second"].iter().any(|w| t.contains(w)));
    moment.map(|ns| if names_day { ns - DAY_NS + 1 } else { ns })
}

/// Says that a part of the answer is missing, and gives the exit code.
pub fn unreadable(run: &Run, unreadable: Option<&(usize, String)>) -> u8 {
    let Some((n, why)) = unreadable else { return 0 };
    run.screen.warning(&format!("the answer is not whole: {n} directories cannot be read: {why}"));
    crate::cli::exit::DAMAGE
}

/// Reads a type by its letter or word.
pub fn type_parser() -> impl TypedValueParser<Value = Type> {
    let names = [("f", "file"), ("d", "dir"), ("l", "symlink"), ("b", "block"), ("c", "char"), ("p", "fifo")];
    clap::builder::PossibleValuesParser::new(names.map(|(letter, word)| PossibleValue::new(letter).alias(word).help(word))).map(
        move |text| {
            let at = names.iter().position(|(letter, word)| text == *letter || text == *word);
            Type::ALL[at.expect("only these are let through")]
        },
    )
}

/// A path as it is in snapshots: absolute, without `.`; `..` is taken back by name, as the file may be gone.
pub fn absolute(path: &std::path::Path) -> Result<Vec<u8>> {
    use std::{os::unix::ffi::OsStrExt, path::Component};
    let path = std::path::absolute(path).map_err(|e| Error::io(format!("cannot use {}", path.display()), e))?;
    let mut parts: Vec<&[u8]> = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => parts.push(name.as_bytes()),
            Component::ParentDir => drop(parts.pop()),
            _ => (),
        }
    }
    Ok([b"/", &parts.join(&b'/')[..]].concat())
}
