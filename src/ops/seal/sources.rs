//! From the paths that were asked for to the tree that is walked: the sources, and the directories above them.

use std::{
    collections::BTreeMap,
    os::unix::ffi::OsStrExt,
    path::{Component, Path, PathBuf},
};

use crate::error::{Error, Result};

/// A directory above sources, or a source.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Skeleton {
    /// Names below; empty at a source.
    pub children: BTreeMap<Box<[u8]>, Skeleton>,
    /// Whether everything below is taken.
    pub is_source: bool,
}

/// The sources, each once, none inside another, as absolute paths, and the tree that leads to them.
///
/// Links on the way are resolved, so that a snapshot holds real paths; a source inside another is part of it.
///
/// # Errors
/// `NotFound` if a source does not exist.
pub fn plan(paths: &[PathBuf]) -> Result<(Vec<PathBuf>, Skeleton)> {
    let mut real: Vec<PathBuf> = paths
        .iter()
        .map(|path| {
            std::fs::canonicalize(path)
                .map_err(|e| Error::io(format!("cannot seal {}", path.display()), e).hint("nothing was sealed; check the path"))
        })
        .collect::<Result<_>>()?;
    real.sort_unstable();
    real.dedup();
    let mut kept: Vec<PathBuf> = Vec::new();
    for path in real {
        if !kept.iter().any(|k| path.starts_with(k)) {
            kept.push(path);
        }
    }
    let mut root = Skeleton::default();
    for path in &kept {
        add(&mut root, path);
    }
    Ok((kept, root))
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

    #[test]
    fn overlapping_sources_are_one_and_links_are_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        std::fs::create_dir_all(base.join("ab")).unwrap();
        std::os::unix::fs::symlink("a/b", base.join("link")).unwrap();
        let paths = ["a", "a/b", "link", "ab", "./a/../ab"].map(|p| base.join(p));
        let (kept, skeleton) = plan(&paths).unwrap();
        assert_eq!(kept, [base.join("a"), base.join("ab")]);
        assert!(!skeleton.is_source && skeleton.children.len() == 1);
        assert!(plan(&[base.join("none")]).is_err());
        assert!(plan(&[PathBuf::from("/")]).unwrap().1.is_source);
    }
}
