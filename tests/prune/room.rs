//! A store on which room is short.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use coffre::{
    error::{Error, ErrorKind, Result},
    format::PackKind,
    ops::prune::Options,
    store::{Key, Memory, Store, Upload},
};

use crate::{
    all, assert_all, bytes_of,
    common::library::{copy_of, keys},
    day, forget, options, prune, vault,
};

/// Takes small objects, and packs of up to so many bytes.
struct Cramped {
    inner: Memory,
    is_full: Arc<AtomicBool>,
    room: Option<u64>,
}

/// A pack of nodes of the tests is shorter, one of content longer.
const PACK_MAX: usize = 40_000;

struct CrampedUpload {
    inner: Box<dyn Upload>,
    is_full: Arc<AtomicBool>,
    len: usize,
}

impl Upload for CrampedUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.len += bytes.len();
        match self.is_full.load(Ordering::SeqCst) && self.len > PACK_MAX {
            true => Err(Error::new(ErrorKind::Full, "no space left")),
            false => self.inner.write(bytes),
        }
    }
    fn commit(self: Box<Self>, key: &Key) -> Result<()> {
        self.inner.commit(key)
    }
}

impl Store for Cramped {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        match self.is_full.load(Ordering::SeqCst) && key.as_str().starts_with("packs/") && bytes.len() > PACK_MAX {
            true => Err(Error::new(ErrorKind::Full, "no space left")),
            false => self.inner.put(key, bytes),
        }
    }
    fn begin(&self) -> Result<Box<dyn Upload>> {
        Ok(Box::new(CrampedUpload { inner: self.inner.begin()?, is_full: self.is_full.clone(), len: 0 }))
    }
    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.inner.get(key, offset, buf)
    }
    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.inner.stat(key)
    }
    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.inner.list(prefix, each)
    }
    fn delete(&self, key: &Key) -> Result<()> {
        self.inner.delete(key)
    }
    fn room(&self) -> Result<Option<u64>> {
        Ok(self.room)
    }
    fn describe(&self) -> String {
        "cramped".to_owned()
    }
}

/// A prune on a full disk freed nothing, and left packs that nothing names: each try made it worse.
#[test]
fn where_no_room_is_left_what_is_dead_goes_first_and_nothing_is_left_behind() {
    let (_guard, root, host) = vault(1);
    // A day that nothing is left of, and two that something is.
    for n in 1..4 {
        day(&root, n);
        host.seal(&[&root]).unwrap();
    }
    forget(&host, &["latest~1", "latest~2", "latest~3"]).unwrap();
    let expected = all(&host);
    let is_full = Arc::new(AtomicBool::new(true));
    let inner = copy_of(&*host.vault.store);
    let cramped = host.twin(Arc::new(Cramped { inner: inner.clone(), is_full: is_full.clone(), room: None }));
    let pressed = Options { max_unused_permille: 0, repack_small: true, ..options(0) };
    let before = bytes_of(&cramped, "packs");
    let report = prune(&cramped, &pressed).unwrap();
    let told = format!("{:?}", cramped.told.lock().unwrap());
    assert!(told.contains("no room is left"), "{told}");
    assert!(report.deleted_objects > 0 && bytes_of(&cramped, "packs") < before, "{report:?}");
    assert_eq!(report.loose.objects, 0);
    assert_all(&cramped, &expected, "full");
    cramped.assert_clean_after("full");
    let reader = cramped.reader();
    let content = keys(&inner, "packs/").into_iter().filter(|key| reader.pack_index(&key.digest().unwrap()).unwrap().0 == PackKind::Data);
    assert!(content.count() > 1, "content stayed where it was");
    // Room is made, and it goes on.
    is_full.store(false, Ordering::SeqCst);
    let more = prune(&cramped, &pressed).unwrap();
    assert!(more.plan.packs_rewritten > 0 && more.loose.objects == 0, "{more:?}");
    assert_all(&cramped, &expected, "roomy");
    cramped.assert_clean_after("roomy");
}

/// What has no room is not begun: the store says so, and nothing is written that would have to go again.
#[test]
fn where_the_store_says_that_room_is_short_no_content_is_written() {
    let (_guard, root, host) = vault(1);
    for n in 1..4 {
        day(&root, n);
        host.seal(&[&root]).unwrap();
    }
    forget(&host, &["latest~1", "latest~2", "latest~3"]).unwrap();
    let expected = all(&host);
    let pressed = Options { max_unused_permille: 0, ..options(0) };
    let with_room = |room: u64| {
        let inner = copy_of(&*host.vault.store);
        host.twin(Arc::new(Cramped { inner, is_full: Arc::new(AtomicBool::new(true)), room: Some(room) }))
    };
    let short = with_room(500_000);
    let dry = prune(&short, &Options { dry_run: true, ..pressed }).unwrap();
    let done = prune(&short, &pressed).unwrap();
    assert_eq!(done.plan, dry.plan);
    let told = format!("{:?}", short.told.lock().unwrap());
    assert!(told.contains("takes up to 2 MiB, and 0 MiB are free") && !told.contains("no room is left"), "{told}");
    assert!(done.deleted_objects > 0 && done.plan.packs_deleted > 0, "{done:?}");
    assert_all(&short, &expected, "short");
    short.assert_clean_after("short");
    let plenty = with_room(1 << 30);
    let dry = prune(&plenty, &Options { dry_run: true, ..pressed }).unwrap();
    assert!(dry.plan.packs_rewritten > done.plan.packs_rewritten, "{dry:?}");
    let (_guard, dir) = crate::common::library::temp();
    let local = coffre::store::Local::new(&dir);
    assert!(local.room().unwrap().is_some_and(|free| free > 0));
}

/// Lets a directory be changed again when the test ends.
struct AppendOnly(std::path::PathBuf);

impl Drop for AppendOnly {
    fn drop(&mut self) {
        let _ = std::process::Command::new("chattr").args(["-R", "-a"]).arg(&self.0).status();
    }
}

/// Directories to which things can only be added: a file could not get its name there, and its unfinished one could not go.
#[test]
fn a_seal_goes_on_where_directories_only_grow_and_folders_are_as_open_as_the_vault() {
    use std::os::unix::fs::PermissionsExt;
    let (_guard, root) = crate::common::library::temp();
    let place = root.join("vault");
    std::fs::create_dir(&place).unwrap();
    std::fs::set_permissions(&place, std::fs::Permissions::from_mode(0o1777)).unwrap();
    let host = crate::common::library::Host::create(Arc::new(coffre::store::Local::new(&place)));
    day(&root.join("source"), 0);
    host.seal(&[&root.join("source")]).unwrap();
    let folders = || walk(&place).into_iter().filter(|path| path.is_dir()).collect::<Vec<_>>();
    for folder in folders() {
        let mode = std::fs::metadata(&folder).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode, 0o1777, "{}", folder.display());
    }
    let only = AppendOnly(place.clone());
    let done = std::process::Command::new("chattr").arg("+a").arg(&place).args(folders()).output();
    if !done.is_ok_and(|out| out.status.success()) {
        println!("left out: this file system, or this user, knows no chattr +a");
        return;
    }
    day(&root.join("source"), 1);
    host.seal(&[&root.join("source")]).unwrap();
    assert_eq!(host.snapshots().len(), 2);
    host.assert_clean();
    let unfinished = walk(&place).into_iter().filter(|path| path.to_string_lossy().contains("/.tmp-"));
    assert_eq!(unfinished.collect::<Vec<_>>(), Vec::<std::path::PathBuf>::new());
    drop(only);
}

/// Everything below a directory.
fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut all = Vec::new();
    for path in std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()) {
        if path.is_dir() {
            all.extend(walk(&path));
        }
        all.push(path);
    }
    all
}
