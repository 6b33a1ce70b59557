//! Who reads a whole vault does so on all threads, and tells how far it is.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::BTreeMap,
    sync::{Arc, Condvar, Mutex},
    time::Duration,
};

use coffre::{
    error::Result,
    event::{Event, HowFar, Sink},
    ops::{
        audit,
        repair::{self, Context, Scope},
        verify::{self, Depth},
    },
    store::{Key, Memory, Store, Upload},
    sys::{Cancel, SystemClock},
};

use super::{common::library::Host, subject};

/// A store in which the first reader of a sidecar, or of a pack, waits until another one reads one as well.
struct Meeting {
    inner: Memory,
    of_sidecars: bool,
    /// Readers, and whether two have met.
    readers: Mutex<(u32, bool)>,
    changed: Condvar,
}

impl Meeting {
    fn meet(&self) {
        let mut readers = self.readers.lock().unwrap();
        readers.0 += 1;
        readers.1 |= readers.0 > 1;
        self.changed.notify_all();
        // Only where nobody comes does the time matter.
        let mut readers = self.changed.wait_timeout_while(readers, Duration::from_secs(20), |readers| !readers.1).unwrap().0;
        readers.0 -= 1;
    }
}

impl Store for Meeting {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        self.inner.put(key, bytes)
    }
    fn begin(&self) -> Result<Box<dyn Upload>> {
        self.inner.begin()
    }
    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        let is_one = if self.of_sidecars { key.as_str().ends_with(".par") } else { key.as_str().starts_with("packs/") };
        if is_one {
            self.meet();
        }
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
        self.inner.describe()
    }
}

/// Keeps how far it was told to be, by what there is in all.
#[derive(Default)]
struct Watching(Mutex<BTreeMap<u64, u64>>);

impl Sink for Watching {
    fn send(&self, event: Event) {
        if let Event::Progress(HowFar { bytes, bytes_total: Some(total), .. }) = event {
            let before = self.0.lock().unwrap().insert(total, bytes);
            assert!(before.is_none_or(|before| before <= bytes) && bytes <= total, "{bytes} of {total} after {before:?}");
        }
    }
}

// A vault of which the sidecars took minutes to read stood still at 0 % meanwhile, and all cores but one were idle.
#[test]
fn packs_and_sidecars_are_read_on_all_threads_and_it_is_told_how_far_that_is() {
    let subject = subject();
    let sidecars: u64 = subject.whole.iter().filter(|(key, _)| key.as_str().ends_with(".par")).map(|(_, b)| b.len() as u64).sum();
    let packs: u64 = subject.of_kind("packs/").iter().map(|key| subject.whole[key].len() as u64).sum();
    for (who, of_sidecars) in ["repair", "verify", "audit"].into_iter().flat_map(|who| [(who, true), (who, false)]) {
        let store = Arc::new(Meeting { inner: subject.store.clone(), of_sidecars, readers: Mutex::default(), changed: Condvar::new() });
        let (watching, cancel) = (Watching::default(), Cancel::default());
        let host = subject.host.twin(store.clone());
        let Host { vault, state, .. } = &host;
        let (clock, sink, cancel, workers) = (&SystemClock, &watching, &cancel, 2);
        let is_clean = match who {
            "repair" => {
                let context = Context { store: store.clone(), from: &[], owner: None, clock, sink, cancel, workers };
                repair::run(&context, &Scope::Everything).unwrap().repaired.is_empty()
            }
            "verify" => {
                let context = verify::Context { vault, reader: None, state, expect: &[], clock, sink, cancel, workers };
                verify::run(&context, Depth::Packs).unwrap().is_clean()
            }
            _ => {
                let context = audit::Context { vault, owner: None, state, expect: &[], clock, sink, cancel, workers };
                audit::run(&context).unwrap().findings.is_empty()
            }
        };
        assert!(is_clean, "{who}");
        assert!(store.readers.lock().unwrap().1, "{who}: two read at once (sidecars: {of_sidecars})");
        let told = watching.0.into_inner().unwrap();
        assert!(told.iter().all(|(total, bytes)| total == bytes), "{who} ends where it said: {told:?}");
        assert!(told.keys().sum::<u64>() >= packs + sidecars, "{who} counts packs and sidecars: {told:?}");
    }
}
