//! What is mounted where, and how it goes away again.

use std::{
    ffi::OsString,
    os::unix::ffi::OsStringExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::error::{Error, Result};

/// One line of /proc/self/mountinfo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountInfo {
    /// Its number; see `Dir::mount_id`.
    pub id: u64,
    /// `major:minor`.
    pub device: String,
    /// Which directory of its file system is seen there: `/`, or another one if it is a bind mount.
    pub root: PathBuf,
    /// Where it is mounted.
    pub point: PathBuf,
    /// Type, such as `fuse.coffre`.
    pub kind: String,
    /// What is mounted.
    pub source: String,
}

/// Everything that is mounted, oldest first.
pub fn mounts() -> Result<Vec<MountInfo>> {
    let text = std::fs::read("/proc/self/mountinfo").map_err(|e| Error::io("cannot read /proc/self/mountinfo", e))?;
    Ok(parse(&text))
}

/// The mount whose point is exactly `point`, the topmost if there are several.
pub fn mount_at(point: &Path) -> Result<Option<MountInfo>> {
    Ok(mounts()?.into_iter().rev().find(|m| m.point == point))
}

fn parse(text: &[u8]) -> Vec<MountInfo> {
    let field = |bytes: &[u8]| unescape(bytes);
    text.split(|b| *b == b'\n')
        .filter_map(|line| {
            let words: Vec<&[u8]> = line.split(|b| *b == b' ').collect();
            let dash = words.iter().position(|w| *w == b"-")?;
            Some(MountInfo {
                id: std::str::from_utf8(words.first()?).ok()?.parse().ok()?,
                root: PathBuf::from(OsString::from_vec(field(words.get(3)?))),
                device: String::from_utf8_lossy(words.get(2)?).into_owned(),
                point: PathBuf::from(OsString::from_vec(field(words.get(4)?))),
                kind: String::from_utf8_lossy(words.get(dash + 1)?).into_owned(),
                source: String::from_utf8_lossy(&field(words.get(dash + 2)?)).into_owned(),
            })
        })
        .collect()
}

/// Undoes the kernel's `\040`-style escapes.
fn unescape(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((first, tail)) = rest.split_first() {
        let octal = |d: &[u8]| d.iter().try_fold(0u32, |n, c| Some(n * 8 + char::from(*c).to_digit(8)?));
        match (first, tail.get(..3).and_then(octal)) {
            (b'\\', Some(code)) => {
                out.push(code as u8);
                rest = &tail[3..];
            }
            _ => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

/// Unmounts `point`; as a plain user through `fusermount3`. A busy mount is `Locked`.
pub fn unmount(point: &Path) -> Result<()> {
    use rustix::io::Errno;
    let what = || format!("cannot unmount {}", point.display());
    match rustix::mount::unmount(point, rustix::mount::UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(Errno::BUSY) => Err(Error::locked(what()).because(std::io::Error::from(Errno::BUSY))),
        Err(Errno::PERM) => fusermount(point, &["-u"]),
        Err(e) => Err(Error::unavailable(what()).because(std::io::Error::from(e))),
    }
}

/// Takes `point` out of the tree at once; the mount ends when its last user leaves.
pub fn detach(point: &Path) -> Result<()> {
    match rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH | rustix::mount::UnmountFlags::NOFOLLOW) {
        Ok(()) => Ok(()),
        Err(rustix::io::Errno::PERM) => fusermount(point, &["-u", "-z"]),
        Err(e) => Err(Error::unavailable(format!("cannot detach {}", point.display())).because(std::io::Error::from(e))),
    }
}

fn fusermount(point: &Path, arguments: &[&str]) -> Result<()> {
    let what = || format!("cannot unmount {}", point.display());
    let output = Command::new("fusermount3")
        .args(arguments)
        .arg("--")
        .arg(point)
        .stdin(Stdio::null())
        .output()
        .map_err(|e| Error::io(what(), e).hint("install fuse3, or run this as the user who mounted it"))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    match output.status.success() {
        true => Ok(()),
        false if said.contains("busy") => Err(Error::locked(what()).because(said)),
        false => Err(Error::unavailable(what()).because(said)),
    }
}

/// Sets the read-ahead of a mount, as root; whether that worked.
///
/// The kernel offers FUSE 128 KiB; 1 MiB doubles sequential reads.
pub fn set_read_ahead(mount: &MountInfo, kib: u32) -> bool {
    std::fs::write(format!("/sys/class/bdi/{}/read_ahead_kb", mount.device), kib.to_string()).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_with_a_space_is_found() {
        let text = b"36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 - fuse.coffre coffre:ab rw\n\n";
        let found = parse(text);
        assert_eq!(found[0].point, Path::new("/mnt 2"));
        assert_eq!((found[0].id, found[0].root.as_path()), (36, Path::new("/mnt1")));
        assert_eq!((found[0].kind.as_str(), found[0].source.as_str()), ("fuse.coffre", "coffre:ab"));
    }
}
