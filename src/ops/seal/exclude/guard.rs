//! What is never sealed, whoever asks: the vault, the state directory, mounted vaults, file systems that the kernel makes up.
//!
//! Directories are told by device and inode, so a bind mount or another path leads nowhere else. A bind mount of something
//! deep in the vault is found in the table of mounts. What is mounted while the seal runs is met where a file system ends.

use std::{
    collections::{HashMap, HashSet},
    ffi::OsStr,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    sync::{RwLock, RwLockReadGuard},
};

use crate::{
    error::{Error, Result},
    ops::seal::exclude::reason::Reason,
    sys::{self, Dir, FileType, MountInfo, Stat},
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

/// What is never sealed.
pub struct Guard {
    /// Device and inode of the vault, of the folders in it, of the state directory, and of what is in them and mounted elsewhere.
    places: HashSet<(u64, u64)>,
    /// What is mounted, as it was when somebody looked last.
    table: RwLock<Table>,
    /// How one looks.
    look: fn() -> Result<Vec<MountInfo>>,
}

/// What matters of the mounts.
#[derive(Default)]
struct Table {
    /// Devices of mounted vaults.
    vaults: HashSet<u64>,
    /// Where vaults are mounted; for mounts that do not answer, or not to this user.
    points: HashSet<PathBuf>,
    /// Devices of the kernel's file systems, and their types.
    kernel: HashMap<u64, String>,
    /// Devices that were there or were asked about. Not every device has a mount of its own: think of subvolumes.
    seen: HashSet<u64>,
}

impl Table {
    fn new(mounts: Vec<MountInfo>) -> Self {
        let mut table = Self::default();
        for mount in mounts {
            let device =
                mount.device.split_once(':').and_then(|(major, minor)| Some(major.parse::<u64>().ok()? << 32 | minor.parse::<u64>().ok()?));
            let Some(device) = device else { continue };
            table.seen.insert(device);
            if mount.kind == "fuse.coffre" {
                table.vaults.insert(device);
                table.points.insert(mount.point);
            } else if KERNEL.contains(&mount.kind.as_str()) {
                table.kernel.insert(device, mount.kind);
            }
        }
        table
    }
}

impl Guard {
    /// Looks at the directories `never` and at what is mounted.
    pub fn new(never: &[PathBuf]) -> Result<Self> {
        let mounts = sys::mounts()?;
        let mut places = HashSet::new();
        let mut add = |dir: &Dir| places.extend(dir.stat().ok().map(|stat| (stat.device, stat.inode)));
        for path in never.iter().filter_map(|path| path.canonicalize().ok()) {
            let Ok(dir) = Dir::open(&path) else { continue };
            let inside = dir.list().unwrap_or_default();
            let folders = inside.iter().filter(|found| found.stat.is_ok_and(|stat| stat.file_type() == FileType::Dir));
            let folders = folders.map(|found| path.join(OsStr::from_bytes(&found.name)));
            let folders: Vec<_> = folders.filter_map(|path| Some((Dir::open(&path).ok()?, path))).collect();
            for (dir, path) in std::iter::once((dir, path)).chain(folders) {
                add(&dir);
                let doors = dir.mount_id().map(|id| doors(&mounts, id, &path)).unwrap_or_default();
                doors.iter().filter_map(|door| Dir::open(door).ok()).for_each(|door| add(&door));
            }
        }
        Ok(Self { places, table: RwLock::new(Table::new(mounts)), look: sys::mounts })
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().expect("nobody panics while holding the table of mounts")
    }

    /// Looks at what is mounted now.
    pub fn look_again(&self) {
        // It could be read when the seal began. If it cannot now, what is known stays.
        if let Ok(mounts) = (self.look)() {
            let mut table = self.table.write().expect("nobody panics while holding the table of mounts");
            let seen = std::mem::take(&mut table.seen);
            *table = Table::new(mounts);
            table.seen.extend(seen);
        }
    }

    /// What is mounted, looked at again if this device was never seen: something was mounted since the seal began.
    fn table_with(&self, device: u64) -> RwLockReadGuard<'_, Table> {
        if !self.table().seen.contains(&device) {
            self.look_again();
            self.table.write().expect("nobody panics while holding the table of mounts").seen.insert(device);
        }
        self.table()
    }

    /// Why a directory is never sealed, if it is one of those. It stands in one on device `above`, which is none.
    ///
    /// Cost: a look-up, and a lock where a file system ends.
    pub fn reason(&self, stat: &Stat, above: u64) -> Option<Reason> {
        if self.places.contains(&(stat.device, stat.inode)) {
            return Some(Reason::Vault);
        }
        (stat.device != above && self.is_mounted_vault(stat.device)).then_some(Reason::Mount)
    }

    /// Whether this is the device of a mounted vault.
    pub fn is_mounted_vault(&self, device: u64) -> bool {
        self.table_with(device).vaults.contains(&device)
    }

    /// Whether a vault is mounted on `name` in the directory at `path`. For what cannot be looked at.
    pub fn is_mount_point(&self, path: &[u8], name: &[u8]) -> bool {
        let table = self.table();
        !table.points.is_empty() && table.points.contains(Path::new(OsStr::from_bytes(&[path, b"/", name].concat())))
    }

    /// The type of the kernel's file system on this device, if it is one.
    pub fn kernel_file_system(&self, device: u64) -> Option<String> {
        self.table_with(device).kernel.get(&device).cloned()
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
            if self.table().points.contains(above) {
                return Err(mounted(source));
            }
            let Ok(stat) = Dir::open(above).and_then(|dir| dir.stat()) else { continue };
            if self.places.contains(&(stat.device, stat.inode)) {
                return Err(Error::usage(format!("cannot seal {shown}: it is inside the vault, or this host's state of it"))
                    .hint("name what is to be kept; a second copy of the vault is made by copying it, see OPERATIONS.md"));
            }
            if self.is_mounted_vault(stat.device) {
                return Err(mounted(source));
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

/// Directories below `path` that are mounted somewhere by themselves, as paths below it. `path` is a real path, seen through mount `id`.
///
/// The mounts of one file system have one device, and `root` says which directory of it each shows; so this is exact.
fn doors(mounts: &[MountInfo], id: u64, path: &Path) -> Vec<PathBuf> {
    let Some(own) = mounts.iter().find(|mount| mount.id == id) else { return Vec::new() };
    let Ok(below_point) = path.strip_prefix(&own.point) else { return Vec::new() };
    let root = own.root.join(below_point);
    let same = mounts.iter().filter(|mount| mount.device == own.device);
    same.filter_map(|mount| mount.root.strip_prefix(&root).ok()).map(|below| path.join(below)).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    fn mount(id: u64, device: &str, root: &str, point: &str, kind: &str) -> MountInfo {
        let (device, kind) = (device.to_owned(), kind.to_owned());
        MountInfo { id, device, root: root.into(), point: point.into(), kind, source: "none".to_owned() }
    }

    #[test]
    fn a_bind_mount_of_anything_in_the_vault_is_found() {
        let mounts = [
            mount(1, "8:1", "/", "/", "ext4"),
            // The vault is /srv/vault, which is data/vault of the second file system.
            mount(2, "8:2", "/data", "/srv", "ext4"),
            mount(3, "8:2", "/data/vault/packs/ab", "/home/u/door", "ext4"),
            mount(4, "8:2", "/data/vault", "/mnt/whole", "ext4"),
            mount(5, "8:2", "/data/vault-2/packs", "/mnt/other", "ext4"),
            mount(6, "8:1", "/data/vault/packs/cd", "/mnt/same-name", "ext4"),
            mount(7, "8:2", "/", "/mnt/all", "ext4"),
        ];
        let found = doors(&mounts, 2, Path::new("/srv/vault"));
        assert_eq!(found, [Path::new("/srv/vault/packs/ab"), Path::new("/srv/vault/")]);
        assert_eq!(doors(&mounts, 1, Path::new("/data/vault")), [Path::new("/data/vault/packs/cd")]);
        assert_eq!(doors(&mounts, 9, Path::new("/srv/vault")), [] as [PathBuf; 0]);
    }

    #[test]
    fn the_table_of_mounts_is_read_again_for_each_new_device_once() {
        static LOOKS: AtomicUsize = AtomicUsize::new(0);
        let look = || {
            let (vault, proc) = (mount(2, "0:50", "/", "/mnt", "fuse.coffre"), mount(3, "0:51", "/", "/p", "proc"));
            // The last one is mounted later: it comes with the second look.
            let all = [mount(1, "8:1", "/", "/", "ext4"), vault, proc, mount(4, "0:52", "/", "/mnt2", "fuse.coffre")];
            let n = LOOKS.fetch_add(1, Ordering::Relaxed) + 3;
            Ok(all[..n.min(4)].to_vec())
        };
        let table = RwLock::new(Table::new(vec![mount(1, "8:1", "/", "/", "ext4")]));
        let guard = Guard { places: HashSet::new(), table, look };
        let looks = || LOOKS.load(Ordering::Relaxed);
        assert!(!guard.is_mounted_vault(8 << 32 | 1) && !guard.is_mount_point(b"", b"mnt"));
        assert_eq!(looks(), 0, "a device that is known");
        assert!(guard.is_mounted_vault(50));
        assert_eq!((guard.kernel_file_system(51), guard.is_mount_point(b"", b"mnt"), looks()), (Some("proc".to_owned()), true, 1));
        assert!(!guard.is_mounted_vault(60) && !guard.is_mounted_vault(60));
        assert_eq!((guard.is_mounted_vault(52), looks()), (true, 2), "a device without a mount is asked about once");
    }
}
