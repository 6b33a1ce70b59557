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
    let cramped = host.twin(Arc::new(Cramped { inner: inner.clone(), is_full: is_full.clone() }));
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
