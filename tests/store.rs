//! The contract in `src/store/mod.rs`, held against every kind of store; and how `Faulty` fails.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;

use std::{
    fs,
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use coffre::{
    error::{Error, ErrorKind, Result},
    store::{Fault, Faulty, Key, Local, Memory, Store, get_all, list_all},
};
use common::library::{noise, temp};

fn key(path: &str) -> Key {
    Key::parse(path).unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Runs every rule of the contract on a store of its own.
fn conforms(new: &dyn Fn() -> Arc<dyn Store>) {
    let rules: [fn(&dyn Store); 10] = [
        what_is_put_is_there_whole,
        an_object_is_written_once,
        ranges_are_filled_or_refused,
        an_upload_is_a_put_in_pieces,
        emptiness_is_told_and_tidying_takes_no_object,
        what_is_not_there_is_missing,
        lists_are_complete_and_by_folder,
        deleting_is_final_and_may_be_repeated,
        threads_that_put_the_same_all_succeed,
        of_threads_that_put_different_bytes_one_wins,
    ];
    for rule in rules {
        rule(&*new());
    }
    assert!(!new().describe().is_empty());
}

fn what_is_put_is_there_whole(store: &dyn Store) {
    let objects = [("VAULT", noise(120, 1)), ("packs/ab/abcdef.age", noise(3 << 20, 2)), ("snaps/host-1/0000000001.b3", Vec::new())];
    for (path, bytes) in &objects {
        store.put(&key(path), bytes).unwrap();
        assert_eq!(store.stat(&key(path)).unwrap(), Some(bytes.len() as u64), "{path}");
        assert_eq!(&get_all(store, &key(path), 4 << 20).unwrap(), bytes, "{path}");
    }
    // Later puts leave earlier objects as they are.
    for (path, bytes) in &objects {
        assert_eq!(&get_all(store, &key(path), 4 << 20).unwrap(), bytes, "{path}");
    }
    assert_eq!(kind(get_all(store, &key("VAULT"), 119)), ErrorKind::Corrupt, "longer than its reader accepts");
}

fn an_object_is_written_once(store: &dyn Store) {
    let at = key("keys/owner-0001-age.age");
    store.put(&at, b"first").unwrap();
    store.put(&at, b"first").unwrap();
    for other in [&b"other"[..], b"firs", b"first!", b""] {
        assert_eq!(kind(store.put(&at, other)), ErrorKind::Conflict, "{other:?}");
    }
    assert_eq!(get_all(store, &at, 100).unwrap(), b"first");
    let empty = key("keys/empty");
    store.put(&empty, b"").unwrap();
    store.put(&empty, b"").unwrap();
    assert_eq!(kind(store.put(&empty, b"x")), ErrorKind::Conflict);
}

fn ranges_are_filled_or_refused(store: &dyn Store) {
    let (at, bytes) = (key("packs/00/00.age"), noise(1000, 3));
    store.put(&at, &bytes).unwrap();
    for (offset, len) in [(0, 1000), (0, 0), (1000, 0), (999, 1), (1, 998), (500, 500)] {
        let mut buf = vec![0xee; len];
        store.get(&at, offset as u64, &mut buf).unwrap();
        assert_eq!(buf, bytes[offset..offset + len], "{len} bytes at {offset}");
    }
    for (offset, len) in [(0, 1001), (1000, 1), (999, 2), (5000, 1), (1 << 40, 10)] {
        let mut buf = vec![0; len];
        assert_eq!(kind(store.get(&at, offset, &mut buf)), ErrorKind::Corrupt, "{len} bytes at {offset}");
    }
}

fn an_upload_is_a_put_in_pieces(store: &dyn Store) {
    let (at, bytes) = (key("packs/cd/cdef.age"), noise(2_500_000, 5));
    let upload = |bytes: &[u8], piece: usize| {
        let mut upload = store.begin().unwrap();
        bytes.chunks(piece).for_each(|piece| upload.write(piece).unwrap());
        upload
    };
    // Begun, written, dropped: nothing of it stays.
    drop(upload(&bytes, 65_552));
    assert_eq!((list_all(store, "").unwrap(), store.is_empty().unwrap()), (vec![], true));
    // Until it is committed, nobody sees anything.
    let whole = upload(&bytes, 65_552);
    assert_eq!((list_all(store, "").unwrap(), store.stat(&at).unwrap()), (vec![], None));
    whole.commit(&at).unwrap();
    assert_eq!(get_all(store, &at, 4 << 20).unwrap(), bytes);
    // Several at once do not mix, and the rule of `put` holds: the same again is fine, other bytes are not.
    let (mut one, mut two) = (store.begin().unwrap(), store.begin().unwrap());
    for piece in bytes.chunks(1_000_000) {
        one.write(piece).unwrap();
        two.write(&piece[1..]).unwrap();
    }
    one.commit(&at).unwrap();
    assert_eq!(kind(two.commit(&at)), ErrorKind::Conflict);
    let mut longer = upload(&bytes, 1 << 20);
    longer.write(b"!").unwrap();
    assert_eq!(kind(longer.commit(&at)), ErrorKind::Conflict);
    store.begin().unwrap().commit(&key("packs/cd/empty.age")).unwrap();
    assert_eq!(get_all(store, &at, 4 << 20).unwrap(), bytes);
    assert_eq!(list_all(store, "").unwrap(), [(at, 2_500_000), (key("packs/cd/empty.age"), 0)]);
}

fn emptiness_is_told_and_tidying_takes_no_object(store: &dyn Store) {
    assert!(store.is_empty().unwrap());
    store.put(&key("snaps/h/0000000001.b3"), b"x").unwrap();
    assert!(!store.is_empty().unwrap());
    store.tidy(i128::MAX).unwrap();
    assert_eq!(get_all(store, &key("snaps/h/0000000001.b3"), 10).unwrap(), b"x");
    store.delete(&key("snaps/h/0000000001.b3")).unwrap();
    assert!(store.is_empty().unwrap());
}

fn what_is_not_there_is_missing(store: &dyn Store) {
    let missing = |store: &dyn Store, path: &str| {
        assert_eq!(store.stat(&key(path)).unwrap(), None, "{path}");
        assert_eq!(kind(store.get(&key(path), 0, &mut [0; 4])), ErrorKind::Missing, "{path}");
        assert_eq!(kind(get_all(store, &key(path), 10)), ErrorKind::Missing, "{path}");
    };
    missing(store, "VAULT");
    missing(store, "packs/ab/none.age");
    store.put(&key("packs/ab/one.age"), b"1").unwrap();
    missing(store, "packs/ab/none.age");
    // A folder is no object.
    assert_eq!(store.stat(&key("packs")).unwrap(), None);
    assert_eq!(store.stat(&key("packs/ab")).unwrap(), None);
}

fn lists_are_complete_and_by_folder(store: &dyn Store) {
    assert_eq!(list_all(store, "").unwrap(), []);
    assert_eq!(list_all(store, "packs").unwrap(), []);
    let paths = ["VAULT", "keys/a", "packs/00/a.age", "packs/00/b.age", "packs/ff/c.age", "packs-not/d", "snaps/web-1/0000000001.b3"];
    for (n, path) in paths.iter().enumerate() {
        store.put(&key(path), &vec![7; n]).unwrap();
    }
    let listed = |prefix: &str| list_all(store, prefix).unwrap();
    let expected = |below: &str| -> Vec<(Key, u64)> {
        let mut all: Vec<_> = paths.iter().enumerate().filter(|(_, p)| p.starts_with(below)).map(|(n, p)| (key(p), n as u64)).collect();
        all.sort();
        all
    };
    assert_eq!(listed(""), expected(""));
    assert_eq!(listed("packs"), expected("packs/"));
    assert_eq!(listed("packs/00"), expected("packs/00/"));
    assert_eq!(listed("snaps/web-1"), expected("snaps/web-1/"));
    assert_eq!(listed("pack"), [], "a prefix is a folder, not the start of a name");
    assert_eq!(listed("none"), []);
    // Whoever lists may stop, and the reason comes back.
    let mut seen = 0;
    let stopped = store.list("packs", &mut |_, _| {
        seen += 1;
        Err(Error::cancelled())
    });
    assert_eq!((kind(stopped), seen), (ErrorKind::Cancelled, 1));
}

fn deleting_is_final_and_may_be_repeated(store: &dyn Store) {
    let (a, b) = (key("packs/aa/a.age"), key("packs/aa/b.age"));
    store.delete(&a).unwrap();
    store.put(&a, b"a").unwrap();
    store.put(&b, b"b").unwrap();
    store.delete(&a).unwrap();
    store.delete(&a).unwrap();
    assert_eq!(store.stat(&a).unwrap(), None);
    assert_eq!(kind(store.get(&a, 0, &mut [0])), ErrorKind::Missing);
    assert_eq!(list_all(store, "").unwrap(), [(b.clone(), 1)]);
    store.put(&a, b"another").unwrap();
    assert_eq!(get_all(store, &a, 10).unwrap(), b"another");
    assert_eq!(get_all(store, &b, 10).unwrap(), b"b");
}

const THREADS: usize = 8;

fn threads_that_put_the_same_all_succeed(store: &dyn Store) {
    let bytes = noise(200_000, 4);
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for n in 0..THREADS {
            let (bytes, start) = (&bytes, &start);
            scope.spawn(move || {
                start.wait();
                for round in 0..10 {
                    let (shared, own) = (key(&format!("packs/00/{round}.age")), key(&format!("packs/{n:02}/own-{n}-{round}.age")));
                    store.put(&shared, bytes).unwrap();
                    // Once one's own put returned, the object is whole, whoever else is putting it.
                    assert_eq!(&get_all(store, &shared, 1 << 20).unwrap(), bytes);
                    store.put(&own, &bytes[n..]).unwrap();
                    assert!(list_all(store, "packs").unwrap().contains(&(own, (bytes.len() - n) as u64)));
                }
            });
        }
    });
    assert_eq!(list_all(store, "").unwrap().len(), 10 + THREADS * 10);
}

fn of_threads_that_put_different_bytes_one_wins(store: &dyn Store) {
    let start = Barrier::new(THREADS);
    let done = AtomicUsize::new(0);
    for round in 0..10 {
        let at = key(&format!("snaps/host1/{round:010}.age"));
        let won: Vec<usize> = thread::scope(|scope| {
            let put = |n: usize| {
                let (at, start, done) = (&at, &start, &done);
                move || {
                    start.wait();
                    let bytes = vec![n as u8; 50_000 + n];
                    let result = store.put(at, &bytes);
                    done.fetch_add(1, Ordering::SeqCst);
                    match result {
                        Ok(()) => Some(n),
                        Err(e) => {
                            assert_eq!(e.kind(), ErrorKind::Conflict, "{}", e.chain());
                            None
                        }
                    }
                }
            };
            let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(put(n))).collect();
            // Somebody who looks meanwhile sees nothing, or all of one.
            while done.load(Ordering::SeqCst) < THREADS * (round + 1) {
                if let Some(len) = store.stat(&at).unwrap() {
                    let bytes = get_all(store, &at, 1 << 20).unwrap();
                    assert_eq!((bytes.len() as u64, bytes.len()), (len, 50_000 + usize::from(bytes[0])));
                    assert!(bytes.iter().all(|b| *b == bytes[0]));
                }
            }
            threads.into_iter().filter_map(|t| t.join().unwrap()).collect()
        });
        let [winner] = won[..] else { panic!("{won:?} all say that theirs is stored") };
        assert_eq!(get_all(store, &at, 1 << 20).unwrap(), vec![winner as u8; 50_000 + winner]);
    }
}

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
