//! Looking through a vault before anything is put right: all threads, and how far it is.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use crate::{
    error::Result,
    event::{Event, HowFar},
    format::Digest,
    ops::repair::Work,
    store::{self, Key, Store},
    sys,
};

/// Objects of a vault on a server that are looked at once.
const WORKERS_FAR: usize = 8;

/// An object with its hash.
pub type Item<'a> = (&'a Key, &'a Digest);

/// The lengths of all objects, by one listing.
pub fn sizes(store: &dyn Store) -> Result<BTreeMap<Key, u64>> {
    Ok(store::list_all(store, "")?.into_iter().collect())
}

/// Those of `items` of which `is_one` says so, in their order. `len` says how many bytes it has to read for each: only for the progress.
pub fn find<'a>(
    work: &Work,
    items: &[Item<'a>],
    len: impl Fn(&Key) -> u64 + Sync,
    is_one: impl Fn(&Key, &Digest) -> Result<bool> + Sync,
) -> Result<Vec<Item<'a>>> {
    let context = work.context;
    let workers = if context.store.is_far() { context.workers.max(WORKERS_FAR) } else { context.workers };
    let total = items.iter().map(|(key, _)| len(key)).sum();
    let (began, next) = (context.clock.monotonic(), AtomicUsize::new(0));
    let found: Mutex<(Vec<usize>, HowFar)> = Mutex::new((Vec::new(), HowFar { bytes_total: Some(total), ..HowFar::default() }));
    sys::share(workers.clamp(1, items.len().max(1)), || {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            let Some((key, wanted)) = items.get(n) else { return Ok(()) };
            context.cancel.check()?;
            let is_one = is_one(key, wanted)?;
            let mut found = found.lock().expect("nobody panics while holding what was found");
            found.0.extend(is_one.then_some(n));
            found.1.entries += 1;
            found.1.bytes += len(key);
            found.1.bytes_read = found.1.bytes;
            found.1.elapsed_ms = u64::try_from((context.clock.monotonic() - began).as_millis()).unwrap_or(u64::MAX);
            context.sink.send(Event::Progress(found.1.clone()));
        }
    })?;
    let (mut found, _) = found.into_inner().expect("nobody panicked while holding what was found");
    found.sort_unstable();
    Ok(found.into_iter().map(|n| items[n]).collect())
}
