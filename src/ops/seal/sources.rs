//! From the paths that were asked for to the tree that is walked: the sources, and the directories above them.

use std::{
    collections::{BTreeMap, VecDeque},
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Problem, ProblemKind},
};

/// A directory above sources, or a source.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Skeleton {
    /// Names below. At a source: sources inside it that were named too, and what leads to them.
    pub children: BTreeMap<Box<[u8]>, Skeleton>,
    /// Whether everything below is taken.
    pub is_source: bool,
}

/// What is to be sealed.
#[derive(Debug, Default)]
pub struct Sources {
    /// The sources, each once, none inside another, as absolute paths without links in them.
    pub paths: Vec<PathBuf>,
    /// The same with those that are inside another.
    pub all: Vec<PathBuf>,
    /// The tree that leads to them.
    pub skeleton: Skeleton,
    /// Listed paths that are not there.
    pub problems: Vec<Problem>,
}

/// Links on the way to one source, at most; the kernel's own limit.
const LINKS_MAX: usize = 40;
/// Sources that a manifest names at most: of longer lists the directories above.
const NAMED_MAX: usize = 256;

/// Finds out what `typed` and `listed` paths mean.
///
/// A link on the way to a typed source, or a link that is the source, is followed, and is taken too, as a link. So a snapshot
/// holds real paths, and the path that was asked for leads to them. A list says exactly what is meant: a link in it is a link.
/// A source inside another is part of it.
///
/// # Errors
/// `NotFound` if a path that was typed does not exist, or none of those that were listed.
pub fn plan(typed: &[PathBuf], listed: &[PathBuf]) -> Result<Sources> {
    let mut sources = Sources::default();
    let mut real = Vec::new();
    for path in typed {
        resolve(path, &mut real)
            .map_err(|e| Error::io(format!("cannot seal {}", path.display()), e).hint("nothing was sealed; check the path"))?;
    }
    for path in listed {
        if let Err(e) = resolve_listed(path, &mut real) {
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            let text = format!("cannot look at it: {e}");
            sources.problems.push(Problem { kind: ProblemKind::Unreadable, path: path.as_os_str().as_bytes().to_vec(), text });
        }
    }
    if real.is_empty() {
        let what = if listed.is_empty() { "the list of paths is empty" } else { "none of the listed paths exists" };
        return Err(
            Error::new(ErrorKind::NotFound, what).hint("nothing was sealed; one path a line is wanted, relative to the current directory")
        );
    }
    // By components, so that what is inside a path comes right after it.
    real.sort_unstable();
    real.dedup();
    for path in &real {
        add(&mut sources.skeleton, path);
        if !sources.paths.last().is_some_and(|above| path.starts_with(above)) {
            sources.paths.push(path.clone());
        }
    }
    sources.all = real;
    Ok(sources)
}

/// The paths that a manifest names for these sources: all of them, or, of a long list, the directories that hold them.
pub fn named(paths: &[PathBuf]) -> Vec<Vec<u8>> {
    let mut named: Vec<PathBuf> = paths.to_vec();
    let mut depth = paths.iter().map(|path| path.components().count()).max().unwrap_or(0);
    while named.len() > NAMED_MAX && depth > 1 {
        depth -= 1;
        for path in &mut named {
            *path = path.components().take(depth).collect();
        }
        named.dedup();
    }
    named.iter().map(|path| path.as_os_str().as_bytes().to_vec()).collect()
}

/// Adds the real path of `path`, and the links that lead there.
fn resolve(path: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let whole = fs::canonicalize(path)?;
    let absolute = std::path::absolute(path)?;
    let mut rest: VecDeque<OsString> = parts(&absolute).collect();
    let mut at = PathBuf::from("/");
    let mut links = Vec::new();
    while let Some(part) = rest.pop_front() {
        if part == ".." {
            at.pop();
            continue;
        }
        at.push(part);
        if let Ok(target) = fs::read_link(&at) {
            links.push(at.clone());
            at.pop();
            if target.is_absolute() {
                at = PathBuf::from("/");
            }
            for part in parts(&target).collect::<Vec<_>>().into_iter().rev() {
                rest.push_front(part);
            }
        }
        if links.len() > LINKS_MAX {
            break;
        }
    }
    // Links in /proc and /dev lead where their text does not say, and mean something to this process only.
    if at == whole {
        found.extend(links.into_iter().filter(|link| !link.starts_with("/proc") && !link.starts_with("/dev")));
    }
    found.push(whole);
    Ok(())
}

/// The same for a path of a list.
fn resolve_listed(path: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    match (fs::symlink_metadata(path)?.is_symlink(), path.file_name()) {
        (true, Some(name)) => {
            let absolute = std::path::absolute(path)?;
            let dir = fs::canonicalize(absolute.parent().unwrap_or(Path::new("/")))?;
            found.push(dir.join(name));
        }
        _ => found.push(fs::canonicalize(path)?),
    }
    Ok(())
}

/// The names in a path, `..` among them.
fn parts(path: &Path) -> impl Iterator<Item = OsString> {
    path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir)).map(|part| part.as_os_str().to_owned())
}

fn add(root: &mut Skeleton, path: &Path) {
    let mut at = root;
    for part in path.components() {
        if let Component::Normal(name) = part {
            at = at.children.entry(name.as_bytes().into()).or_default();
        }
    }
    at.is_source = true;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        fs::create_dir_all(base.join("a/b")).unwrap();
        fs::create_dir_all(base.join("ab")).unwrap();
        (dir, base)
    }

    #[test]
    fn overlapping_sources_are_one_and_links_are_followed_and_taken() {
        let (_guard, base) = place();
        symlink("a/b", base.join("link")).unwrap();
        symlink(base.join("link"), base.join("second")).unwrap();
        let paths = ["a", "a/b", "second", "ab", "./a/../ab", "second/../../ab"].map(|p| base.join(p));
        let sources = plan(&paths, &[]).unwrap();
        assert_eq!(sources.paths, ["a", "ab", "link", "second"].map(|p| base.join(p)));
        assert!(!sources.skeleton.is_source && sources.skeleton.children.len() == 1);
        let mut at = &sources.skeleton;
        for part in parts(&base.join("a")) {
            at = &at.children[part.as_bytes()];
        }
        assert!(at.is_source && at.children[&b"b"[..]].is_source, "a source inside another was named too");
        assert!(plan(&[PathBuf::from("/")], &[]).unwrap().skeleton.is_source);
    }

    #[test]
    fn a_typed_path_must_exist_and_a_listed_one_is_a_problem() {
        let (_guard, base) = place();
        let none = base.join("none");
        assert_eq!(plan(&[base.join("a"), none.clone()], &[]).unwrap_err().kind(), ErrorKind::NotFound);
        let sources = plan(&[], &[base.join("a"), none.clone()]).unwrap();
        assert_eq!((sources.paths, sources.problems.len()), (vec![base.join("a")], 1));
        assert_eq!(plan(&[], &[none]).unwrap_err().kind(), ErrorKind::NotFound);
        symlink("nowhere", base.join("dangling")).unwrap();
        assert_eq!(plan(&[], &[base.join("dangling")]).unwrap().paths, [base.join("dangling")]);
        assert!(plan(&[base.join("dangling")], &[]).is_err());
        symlink("loop", base.join("loop")).unwrap();
        assert!(plan(&[base.join("loop")], &[]).is_err());
    }

    #[test]
    fn a_long_list_is_named_by_its_directories() {
        let paths: Vec<PathBuf> = (0..1000).map(|n| PathBuf::from(format!("/srv/{}/{n}", n / 100))).collect();
        let names: Vec<Vec<u8>> = (0..10).map(|n| format!("/srv/{n}").into_bytes()).collect();
        assert_eq!(named(&paths), names);
        assert_eq!(named(&paths[..3]).len(), 3);
    }
}
