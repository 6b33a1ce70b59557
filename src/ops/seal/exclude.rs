//! What is left out: patterns, and Coffre's own places. The home of `ignore`.

use std::{
    collections::HashSet,
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use ignore::gitignore::{Gitignore, GitignoreBuilder};

use crate::{
    error::{Error, Result},
    sys::{self, Dir, Stat},
};

/// Decides for each entry whether it is taken.
pub struct Excludes {
    patterns: Gitignore,
    /// Device and inode of directories that are never sealed: the vault, the state directory.
    places: HashSet<(u64, u64)>,
    /// Devices of mounted vaults.
    devices: HashSet<u64>,
}

impl Excludes {
    /// Excludes `globs`, with the rules of gitignore lines over absolute paths, and the directories `never`.
    ///
    /// A pattern without a slash fits a name at any depth; one that starts with a slash is an absolute path; any other fits at any depth.
    pub fn new(globs: &[String], never: &[PathBuf]) -> Result<Self> {
        let mut builder = GitignoreBuilder::new("/");
        for glob in globs {
            let anywhere = glob.trim_start_matches('!');
            let line = match anywhere.trim_end_matches('/').contains('/') && !anywhere.starts_with('/') && !anywhere.starts_with("**/") {
                true => format!("{}**/{anywhere}", &glob[..glob.len() - anywhere.len()]),
                false => glob.clone(),
            };
            let wrong = |e: ignore::Error| Error::usage(format!("`{glob}` is no pattern: {e}"));
            builder.add_line(None, &line).map_err(wrong)?;
        }
        let patterns = builder.build().map_err(|e| Error::usage(format!("the patterns cannot be used: {e}")))?;
        let places = never.iter().filter_map(|path| Dir::open(path).and_then(|dir| dir.stat()).ok()).map(|s| (s.device, s.inode)).collect();
        let devices = sys::mounts()?
            .iter()
            .filter(|m| m.kind == "fuse.coffre")
            .filter_map(|m| {
                let (major, minor) = m.device.split_once(':')?;
                Some(major.parse::<u64>().ok()? << 32 | minor.parse::<u64>().ok()?)
            })
            .collect();
        Ok(Self { patterns, places, devices })
    }

    /// Whether the entry at absolute `path` is left out.
    pub fn excludes(&self, path: &[u8], stat: &Stat) -> bool {
        let is_dir = stat.file_type() == sys::FileType::Dir;
        if is_dir && (self.places.contains(&(stat.device, stat.inode)) || self.devices.contains(&stat.device)) {
            return true;
        }
        !self.patterns.is_empty() && self.patterns.matched(Path::new(OsStr::from_bytes(path)), is_dir).is_ignore()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_mean_what_people_expect() {
        let globs = ["*.log", "/srv/cache/", "node_modules/.cache", "!keep.log"].map(str::to_owned);
        let excludes = Excludes::new(&globs, &[]).unwrap();
        let file = sys::Dir::open(Path::new("/")).unwrap().stat_of(b"proc").unwrap();
        let (dir, file) = (file, Stat { mode: 0o100_644, device: 0, ..file });
        let dir = Stat { device: 0, ..dir };
        for (path, stat, out) in [
            ("/a/b/x.log", file, true),
            ("/a/keep.log", file, false),
            ("/srv/cache", dir, true),
            ("/srv/cache", file, false),
            ("/home/srv/cache", dir, false),
            ("/w/site/node_modules/.cache", dir, true),
            ("/w/site/node_modules", dir, false),
        ] {
            assert_eq!(excludes.excludes(path.as_bytes(), &stat), out, "{path}");
        }
    }
}
