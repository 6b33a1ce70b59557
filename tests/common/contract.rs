//! The contract in `src/store/mod.rs`, rule by rule, for every kind of store.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    sync::{
        Arc, Barrier,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
};

use coffre::{
    error::{Error, ErrorKind, Result},
    store::{Key, Store, get_all, list_all},
};

use super::library::noise;

/// A key of a path.
pub fn key(path: &str) -> Key {
    Key::parse(path).unwrap()
}

/// The kind of failure that this is.
pub fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

/// Runs every rule of the contract on a store of its own.
pub fn conforms(new: &dyn Fn() -> Arc<dyn Store>) {
    conforms_alone(new);
    threads_that_put_the_same_all_succeed(&*new(), 1);
    of_threads_that_put_different_bytes_one_wins(&*new());
}

/// Every rule but the last: that of two who put other bytes under one name at one moment one is told. Some servers cannot do that.
pub fn conforms_alone(new: &dyn Fn() -> Arc<dyn Store>) {
    let rules: [fn(&dyn Store); 9] = [
        what_is_put_is_there_whole,
        an_object_is_written_once,
        ranges_are_filled_or_refused,
        an_upload_is_a_put_in_pieces,
        emptiness_is_told_and_tidying_takes_no_object,
        what_is_not_there_is_missing,
        lists_are_complete_and_by_folder,
        deleting_is_final_and_may_be_repeated,
        // A server that overwrites all the same has nothing there for a moment.
        |store| threads_that_put_the_same_all_succeed(store, 200),
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

fn threads_that_put_the_same_all_succeed(store: &dyn Store, tries: usize) {
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
                    let read = (1..tries).find_map(|_| get_all(store, &shared, 1 << 20).ok());
                    assert_eq!(&read.map_or_else(|| get_all(store, &shared, 1 << 20), Ok).unwrap(), bytes);
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
