//! What the commands have in common that look into a vault.

use std::{ffi::OsStr, os::unix::ffi::OsStrExt, sync::Arc};

use clap::builder::{PossibleValue, TypedValueParser};

use crate::{
    cli::{DISK_CACHE_BYTES, Opened, Run, keys},
    error::{Error, Result},
    ops::{look::Look, row::Type},
    sys,
    vault::{Reader, Selector, Snapshot, StateDir, parts_of, select},
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

/// Opens what a vault holds for reading one snapshot, with so much memory for frames, and says what was wrong on the way. `back_on` is the host on
/// which files go back to their place: of several in a vault, the newest of another one is hardly meant.
pub fn one(run: &Run, opened: &Opened, selector: &Selector, cache_bytes: u64, back_on: Option<&str>) -> Result<(Reader, Snapshot)> {
    let owner = Arc::new(keys::unlock(run.globals, &opened.vault)?);
    let (mut snapshots, findings) = opened.vault.snapshots(&owner)?;
    for finding in findings {
        run.screen.warning(&format!("{}: {}", finding.object, finding.text));
    }
    let id = select(&snapshots, selector)?.id;
    let at = snapshots.iter().position(|snapshot| snapshot.id == id).expect("it was found among them");
    if let Some(here) = back_on {
        check_host(&snapshots, &snapshots[at], selector, here)?;
    }
    let (reader, _) = Reader::open(opened.vault.clone(), owner, cache_bytes)?;
    reader.tell(run.screen.clone());
    Ok((reader, snapshots.swap_remove(at)))
}

/// Fails if a time alone led to another host's snapshot.
fn check_host(all: &[Snapshot], found: &Snapshot, selector: &Selector, here: &str) -> Result<()> {
    // Whoever sealed it: the name that the snapshot bears says whose files they are.
    let (host, is_here) = (&found.manifest.host, |s: &Snapshot| s.manifest.host == here);
    let is_alone = all.iter().all(|s| s.manifest.host == *host);
    if !selector.is_of_any_host() || is_alone || is_here(found) {
        return Ok(());
    }
    let mine = if all.iter().any(is_here) { format!("; {here}@latest is the newest of this host") } else { String::new() };
    Err(Error::usage(format!("snapshot {} was sealed on {host}, and this is {here}", found.id.short()))
        .hint(format!("say {host}@latest if its files shall take the place of those here{mine}")))
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

/// Reads `SNAP[:PATH]`; the path is empty or starts with a slash, and need not be UTF-8.
pub fn snap_path(run: &Run, text: &OsStr) -> Result<(Selector, Vec<u8>)> {
    parse_snap_path(text, run.clock.now_ns())
}

/// Splits `SNAP[:PATH]`. The path starts at the first `:/`, or else at the first colon, unless all of it names a snapshot.
fn parse_snap_path(text: &OsStr, now_ns: i128) -> Result<(Selector, Vec<u8>)> {
    let bytes = text.as_bytes();
    let read = |snap: &[u8]| Selector::parse(&String::from_utf8_lossy(snap), now_ns);
    let split = match bytes.windows(2).position(|w| w == b":/") {
        Some(at) => Some(at),
        None if read(bytes).is_ok() => None,
        None => bytes.iter().position(|b| *b == b':'),
    };
    let (snap, path) = split.map_or((bytes, &b""[..]), |at| (&bytes[..at], &bytes[at + 1..]));
    let path = parts_of(path).filter(|part| *part != b".").flat_map(|part| [&b"/"[..], part]).collect::<Vec<_>>().concat();
    Ok((read(snap)?, path))
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
    use std::path::Component;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_comes_with_a_path_or_without() {
        let read = |text: &str| {
            parse_snap_path(OsStr::new(text), 1_700_000_000_000_000_000).map(|(_, path)| String::from_utf8(path).unwrap()).unwrap()
        };
        assert_eq!(read("latest"), "");
        assert_eq!(read("latest:/"), "");
        assert_eq!(read("2025-11-08T03:00"), "", "a time has a colon");
        assert_eq!(read("2025-11-08T03:00:/etc/a:b/"), "/etc/a:b");
        assert_eq!(read("latest:etc//./hosts"), "/etc/hosts");
        assert_eq!(read("web1@2025-11-08 03:00"), "");
        assert_eq!(read("1a2b3c4d:etc/hosts"), "/etc/hosts");
        let (_, path) = parse_snap_path(OsStr::from_bytes(b"latest:/\xff"), 0).unwrap();
        assert_eq!(path, b"/\xff", "names need not be UTF-8");
        assert!(parse_snap_path(OsStr::new("nothing:/x"), 0).is_err());
    }
}
