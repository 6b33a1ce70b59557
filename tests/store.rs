//! The contract in `src/store/mod.rs`, held against every kind of store; and how `Faulty` fails.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use coffre::{
    error::{ErrorKind, Result},
    format::digest,
    store::{Fault, Faulty, Glimpse, Key, Local, Memory, Seen, Store, Upload, get_all, list_all},
};
use common::{
    contract::{conforms, key, kind},
    library::temp,
};

#[test]
fn a_directory_keeps_the_contract() {
    let (_guard, dir) = temp();
    let n = AtomicUsize::new(0);
    conforms(&|| Arc::new(Local::new(dir.join(n.fetch_add(1, Ordering::SeqCst).to_string()))));
}

#[test]
fn a_map_keeps_the_contract() {
    conforms(&|| Arc::new(Memory::default()));
}

#[test]
fn a_faulty_store_that_behaves_keeps_the_contract() {
    conforms(&|| Arc::new(Faulty::new(Memory::default())));
    let (_guard, dir) = temp();
    let n = AtomicUsize::new(0);
    conforms(&|| Arc::new(Faulty::new(Local::new(dir.join(n.fetch_add(1, Ordering::SeqCst).to_string())))));
}

/// A map that shows marks in its lists, as S3 does, and counts what it is asked.
#[derive(Clone, Default)]
struct Marked {
    inner: Memory,
    calls: Arc<AtomicUsize>,
}

impl Marked {
    fn count(&self) -> &Memory {
        self.calls.fetch_add(1, Ordering::SeqCst);
        &self.inner
    }

    fn mark(&self, key: &Key) -> String {
        digest(&get_all(&self.inner, key, 9 << 20).unwrap()).to_string()
    }
}

impl Store for Marked {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.count().put(key, bytes)
    }

    fn put_new(&self, key: &Key, bytes: &[u8]) -> Result<Option<String>> {
        self.count().put(key, bytes).map(|()| Some(self.mark(key)))
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        self.inner.begin()
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        self.count().get(key, offset, buf)
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        self.count().stat(key)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.count().list(prefix, each)
    }

    fn glance(&self, prefix: &str) -> Result<Option<Vec<(Key, Glimpse)>>> {
        let found = list_all(self.count(), prefix)?;
        // As many as a page of a list holds.
        let whole = found.len() <= 20;
        Ok(whole.then(|| found.into_iter().map(|(key, len)| (key.clone(), Glimpse { len, tag: self.mark(&key) })).collect()))
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.count().delete(key)
    }

    fn describe(&self) -> String {
        "marked".to_owned()
    }
}

#[test]
fn what_was_seen_keeps_the_contract() {
    let (_guard, dir) = temp();
    conforms(&|| Arc::new(Seen::new(Arc::new(Marked::default()), &dir)));
    conforms(&|| Arc::new(Seen::new(Arc::new(Memory::default()), &dir)));
}

#[test]
fn what_was_read_is_not_read_again_unless_it_is_another_object() {
    let (_guard, dir) = temp();
    let marked = Marked::default();
    let asked = || marked.calls.swap(0, Ordering::SeqCst);
    let seen = || Seen::new(Arc::new(marked.clone()), &dir);
    let [config, receipt, pack] = ["VAULT", "snaps/h/0000000001.b3", "packs/ab/one.age"].map(key);
    let store = seen();
    store.put(&config, b"config").unwrap();
    store.put(&receipt, b"receipt").unwrap();
    store.put(&pack, b"pack").unwrap();
    assert_eq!(asked(), 4, "one look and three puts");
    drop(store);
    let store = seen();
    for _ in 0..2 {
        assert_eq!(get_all(&store, &config, 99).unwrap(), b"config");
        assert_eq!(get_all(&store, &receipt, 99).unwrap(), b"receipt");
        assert_eq!(list_all(&store, "snaps/h").unwrap(), [(receipt.clone(), 7)]);
        assert_eq!(store.stat(&key("snaps/h/0000000002.b3")).unwrap(), None);
    }
    assert_eq!(asked(), 1, "a look");
    assert_eq!(get_all(&store, &pack, 99).unwrap(), b"pack");
    assert_eq!(asked(), 1, "packs are not kept");
    // Somebody rolls the vault back, and makes something of the same name and length.
    marked.inner.delete(&receipt).unwrap();
    marked.inner.put(&receipt, b"recEipt").unwrap();
    store.refresh();
    assert_eq!(get_all(&store, &receipt, 99).unwrap(), b"recEipt");
    assert_eq!(asked(), 2, "a look and a read");
    // What somebody else put in the meantime is not overwritten, whatever the last look said.
    marked.inner.put(&key("snaps/h/0000000002.b3"), b"theirs").unwrap();
    assert_eq!(kind(store.put(&key("snaps/h/0000000002.b3"), b"ours")), ErrorKind::Conflict);
    // A vault that one list does not show is asked, folder by folder where that is worth it.
    for n in 0..30 {
        marked.inner.put(&key(&format!("packs/ab/{n}.age")), b"x").unwrap();
    }
    store.refresh();
    asked();
    assert_eq!(list_all(&store, "packs").unwrap().len(), 31);
    marked.inner.put(&key("gc/1.txt"), b"record").unwrap();
    for _ in 0..3 {
        assert_eq!(list_all(&store, "gc").unwrap().len(), 1);
        assert_eq!(get_all(&store, &key("gc/1.txt"), 99).unwrap(), b"record");
    }
    assert_eq!(asked(), 4, "a look at all, a list of packs, a look at gc, a read");
}

#[test]
fn clones_of_a_map_share_its_objects() {
    let one = Memory::default();
    let two = one.clone();
    one.put(&key("a"), b"x").unwrap();
    assert_eq!(get_all(&two, &key("a"), 9).unwrap(), b"x");
    assert!(two.damage(&key("a"), |bytes| bytes[0] ^= 1));
    assert_eq!(get_all(&one, &key("a"), 9).unwrap(), b"y");
    assert!(!two.damage(&key("b"), |_| ()));
}

#[test]
fn unfinished_and_foreign_files_in_a_directory_are_no_objects() {
    let (_guard, dir) = temp();
    let store = Local::new(&dir);
    store.put(&key("packs/ab/one.age"), b"one").unwrap();
    fs::write(dir.join("packs/ab/.tmp-x1y2z3"), b"half a pack").unwrap();
    fs::write(dir.join(".tmp-abc"), b"").unwrap();
    fs::create_dir(dir.join(".snapshots")).unwrap();
    fs::write(dir.join(".snapshots/inside"), b"").unwrap();
    fs::write(dir.join("packs/a name with spaces"), b"").unwrap();
    std::os::unix::fs::symlink("one.age", dir.join("packs/ab/link.age")).unwrap();
    assert_eq!(list_all(&store, "").unwrap(), [(key("packs/ab/one.age"), 3)]);
}

#[test]
fn a_directory_with_anything_in_it_is_not_empty_and_old_unfinished_writes_are_tidied_away() {
    use std::time::{Duration, UNIX_EPOCH};
    let (_guard, dir) = temp();
    let store = Local::new(&dir);
    fs::create_dir_all(dir.join("packs/ab")).unwrap();
    fs::create_dir_all(dir.join("lost+found")).unwrap();
    assert!(store.is_empty().unwrap(), "folders alone are nothing");
    let files = ["packs/ab/.tmp-old", "packs/ab/.tmp-new", ".hidden-old", "packs/ab/old.age"];
    for (n, name) in files.iter().enumerate() {
        fs::write(dir.join(name), b"x").unwrap();
        let time = UNIX_EPOCH + Duration::from_secs(if n == 1 { 2_000 } else { 1_000 });
        fs::File::options().write(true).open(dir.join(name)).unwrap().set_modified(time).unwrap();
        assert!(!store.is_empty().unwrap(), "{name}");
    }
    store.tidy(1_500_000_000_000).unwrap();
    let left: Vec<bool> = files.iter().map(|name| dir.join(name).exists()).collect();
    assert_eq!(left, [false, true, true, true]);
}

#[test]
fn a_put_leaves_no_unfinished_file_and_a_read_only_object() {
    use std::os::unix::fs::PermissionsExt;
    let (_guard, dir) = temp();
    let store = Local::new(dir.join("new/vault"));
    store.put(&key("packs/ab/one.age"), b"one").unwrap();
    store.put(&key("packs/ab/one.age"), b"one").unwrap();
    assert_eq!(kind(store.put(&key("packs/ab/one.age"), b"two")), ErrorKind::Conflict);
    let names: Vec<_> = fs::read_dir(dir.join("new/vault/packs/ab")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names, ["one.age"]);
    let mode = fs::metadata(dir.join("new/vault/packs/ab/one.age")).unwrap().permissions().mode();
    assert_eq!(mode & 0o222, 0, "nobody writes to an object: mode {mode:o}");
}

#[test]
fn an_object_cut_short_behind_the_stores_back_is_corrupt() {
    let (_guard, dir) = temp();
    let local = Local::new(&dir);
    local.put(&key("a"), &[1; 100]).unwrap();
    fs::File::options().write(true).open(dir.join("a")).unwrap().set_len(60).unwrap();
    let memory = Memory::default();
    memory.put(&key("a"), &[1; 100]).unwrap();
    memory.damage(&key("a"), |bytes| bytes.truncate(60));
    for store in [&local as &dyn Store, &memory] {
        assert_eq!(store.stat(&key("a")).unwrap(), Some(60));
        assert_eq!(kind(store.get(&key("a"), 0, &mut [0; 100])), ErrorKind::Corrupt, "{}", store.describe());
        store.get(&key("a"), 0, &mut [0; 60]).unwrap();
        // The whole object again is not the object that stands there.
        assert_eq!(kind(store.put(&key("a"), &[1; 100])), ErrorKind::Conflict, "{}", store.describe());
    }
}

/// Puts a, gets a, puts b, stats b, lists; returns what each call gave.
fn five_calls(store: &dyn Store) -> Vec<Option<ErrorKind>> {
    let (a, b) = (key("a"), key("b"));
    let results = [
        store.put(&a, b"aaaa"),
        store.get(&a, 0, &mut [0; 4]),
        store.put(&b, b"bbbb"),
        store.stat(&b).map(drop),
        list_all(store, "").map(drop),
    ];
    results.into_iter().map(|r| r.err().map(|e| e.kind())).collect()
}

#[test]
fn a_faulty_store_fails_as_told() {
    // Uploads count as the put that they are, when they are committed.
    let inner = Memory::default();
    let store = Faulty::new(inner.clone());
    for (fault, there) in [(Fault::CrashAt(0), false), (Fault::FullAfter(3), false), (Fault::CrashAfter(0), true)] {
        store.set(None);
        let mut upload = store.begin().unwrap();
        upload.write(b"1234").unwrap();
        store.set(Some(fault));
        assert!(upload.commit(&key("u")).is_err());
        assert_eq!((store.calls(), inner.stat(&key("u")).unwrap().is_some()), (1, there), "{fault:?}");
    }
    const GONE: Option<ErrorKind> = Some(ErrorKind::Unavailable);
    type Case = (Option<Fault>, [Option<ErrorKind>; 5], &'static [&'static str]);
    let cases: [Case; 7] = [
        (None, [None; 5], &["a", "b"]),
        (Some(Fault::CrashAt(0)), [GONE; 5], &[]),
        (Some(Fault::CrashAt(2)), [None, None, GONE, GONE, GONE], &["a"]),
        (Some(Fault::CrashAfter(2)), [None, None, GONE, GONE, GONE], &["a", "b"]),
        (Some(Fault::CrashAfter(1)), [None, GONE, GONE, GONE, GONE], &["a"]),
        (Some(Fault::FailOnceAt(2)), [None, None, GONE, None, None], &["a"]),
        (Some(Fault::FullAfter(7)), [None, None, Some(ErrorKind::Full), None, None], &["a"]),
    ];
    for (fault, expected, left) in cases {
        let inner = Memory::default();
        let store = Faulty::new(inner.clone());
        store.set(fault);
        assert_eq!(five_calls(&store), expected, "{fault:?}");
        assert_eq!(store.calls(), 5, "{fault:?}");
        // What reached the disk is there for the next process, and nothing else.
        let there: Vec<String> = list_all(&inner, "").unwrap().into_iter().map(|(k, _)| k.to_string()).collect();
        assert_eq!(there, left, "{fault:?}");
        store.set(None);
        assert_eq!((store.calls(), five_calls(&store)), (0, vec![None; 5]), "{fault:?}, then well again");
    }
}

#[test]
fn a_full_store_takes_what_still_fits() {
    let store = Faulty::new(Memory::default());
    store.set(Some(Fault::FullAfter(10)));
    store.put(&key("a"), &[0; 6]).unwrap();
    assert_eq!(kind(store.put(&key("b"), &[0; 5])), ErrorKind::Full);
    store.put(&key("c"), &[0; 4]).unwrap();
    assert_eq!(kind(store.put(&key("d"), &[0; 1])), ErrorKind::Full);
    store.delete(&key("a")).unwrap();
    assert_eq!(list_all(&store, "").unwrap(), [(key("c"), 4)]);
}
