//! What is never sealed, whoever asks: the vault, the state directory, mounted vaults, file systems that the kernel makes up.
//!
//! Directories are told by device and inode, so a bind mount or another path leads nowhere else.

use std::{
    collections::{HashMap, HashSet},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use crate::{
    error::{Error, Result},
    ops::seal::exclude::reason::Reason,
    sys::{self, Dir, FileType, Stat},
};

/// File systems without content of their own: interfaces of the kernel. Reading `/proc/kcore` would not end.
const KERNEL: [&str; 22] = [
    "autofs",
    "binder",
    "binfmt_misc",
    "bpf",
    "cgroup",
    "cgroup2",
    "configfs",
    "debugfs",
    "devpts",
    "efivarfs",
    "functionfs",
    "fusectl",
    "hugetlbfs",
    "mqueue",
    "nsfs",
    "proc",
    "pstore",
    "rpc_pipefs",
    "securityfs",
    "selinuxfs",
    "sysfs",
    "tracefs",
];

/// The places, as they are when the seal begins.
pub struct Guard {
    /// Device and inode of the vault, of the folders in it, and of the state directory.
    places: HashSet<(u64, u64)>,
    /// Devices of mounted vaults.
    mounted: HashSet<u64>,
    /// Where vaults are mounted; for mounts that do not answer, or not to this user.
    points: HashSet<PathBuf>,
    /// Devices of the kernel's file systems, and their types.
    kernel: HashMap<u64, String>,
}

impl Guard {
    /// Looks at the directories `never` and at what is mounted.
    pub fn new(never: &[PathBuf]) -> Result<Self> {
        let mut guard = Self { places: HashSet::new(), mounted: HashSet::new(), points: HashSet::new(), kernel: HashMap::new() };
        for dir in never.iter().filter_map(|path| Dir::open(path).ok()) {
            let inside = dir.list().unwrap_or_default();
            let folders = inside.iter().filter_map(|found| found.stat.ok()).filter(|stat| stat.file_type() == FileType::Dir);
            guard.places.extend(dir.stat().ok().into_iter().chain(folders).map(|stat| (stat.device, stat.inode)));
        }
        for mount in sys::mounts()? {
            let device =
                mount.device.split_once(':').and_then(|(major, minor)| Some(major.parse::<u64>().ok()? << 32 | minor.parse::<u64>().ok()?));
            let Some(device) = device else { continue };
            if mount.kind == "fuse.coffre" {
                guard.mounted.insert(device);
                guard.points.insert(mount.point);
            } else if KERNEL.contains(&mount.kind.as_str()) {
                guard.kernel.insert(device, mount.kind);
            }
        }
        Ok(guard)
    }

    /// Why a directory is never sealed, if it is one of those.
    pub fn reason(&self, stat: &Stat) -> Option<Reason> {
        if self.places.contains(&(stat.device, stat.inode)) {
            return Some(Reason::Vault);
        }
        self.mounted.contains(&stat.device).then_some(Reason::Mount)
    }

    /// Whether a vault is mounted on `name` in the directory at `path`. For what cannot be looked at.
    pub fn is_mount_point(&self, path: &[u8], name: &[u8]) -> bool {
        !self.points.is_empty() && self.points.contains(Path::new(std::ffi::OsStr::from_bytes(&[path, b"/", name].concat())))
    }

    /// The type of the kernel's file system on this device, if it is one.
    pub fn kernel_file_system(&self, device: u64) -> Option<&str> {
        self.kernel.get(&device).map(String::as_str)
    }

    /// Fails if one of `sources`, which are real paths, is one of those places or inside one.
    pub fn check(&self, sources: &[PathBuf]) -> Result<()> {
        let mut fine = HashSet::new();
        sources.iter().try_for_each(|source| self.check_one(source, &mut fine))
    }

    /// `fine` are paths that are known to be neither; there may be very many sources in one directory.
    fn check_one<'a>(&self, source: &'a Path, fine: &mut HashSet<&'a Path>) -> Result<()> {
        let shown = source.display();
        for above in source.ancestors().take_while(|above| !fine.contains(above)) {
            if self.points.contains(above) {
                return Err(mounted(source));
            }
            let Ok(stat) = Dir::open(above).and_then(|dir| dir.stat()) else { continue };
            match self.reason(&stat) {
                Some(Reason::Mount) => return Err(mounted(source)),
                Some(_) => {
                    return Err(Error::usage(format!("cannot seal {shown}: it is inside the vault, or this host's state of it"))
                        .hint("name what is to be kept; a second copy of the vault is made by copying it, see OPERATIONS.md"));
                }
                None => (),
            }
            if let Some(kind) = self.kernel_file_system(stat.device) {
                return Err(Error::usage(format!("cannot seal {shown}: the kernel makes it up ({kind}), it holds nothing to keep"))
                    .hint("to keep what such a file says, pipe it: coffre seal --stdin-name NAME < FILE"));
            }
        }
        fine.extend(source.ancestors());
        Ok(())
    }
}

fn mounted(source: &Path) -> Error {
    Error::usage(format!("cannot seal {}: a vault is mounted there", source.display()))
        .hint("name the files where they really are, or copy them out of the mount first")
}
