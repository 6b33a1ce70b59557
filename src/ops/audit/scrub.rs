//! Scrub: every object read once, and held against the hash that its name or a signed receipt gives it.
//!
//! Reads as fast as the store gives: one object a thread, 1 MiB at a time, the next pieces asked for ahead. BLAKE3 takes about an
//! eighth of a core a GB/s. Memory is a buffer a thread, and the list of objects: about 150 bytes each.

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use crate::{
    error::{ErrorKind, Result},
    event::{Event, HowFar},
    format::{Digest, Digester},
    ops::{
        audit::{Context, Report},
        chain::taken_away,
        verify::{Pruned, check_sidecar, check_signatures, find_beside, listed},
    },
    store::Key,
    sys,
    vault::{Chain, Finding, Trouble},
};

/// Bytes read at once.
const STEP: usize = 1 << 20;
/// Bytes that the store is asked for ahead.
const AHEAD: u64 = 4 << 20;
/// Progress is told no more often.
const TELL_EVERY_MS: u64 = 100;

/// What a worker has done.
#[derive(Default)]
struct Tally {
    bytes: u64,
    objects: u64,
    told_ms: u64,
    findings: Vec<Finding>,
}

/// Reads everything.
pub fn run(context: &Context, chain: &Chain, report: &mut Report) -> Result<()> {
    let store = &*context.vault.store;
    let pruned = Pruned::load(context.vault, report.owner.clone().as_deref(), &mut report.findings)?;
    let taken = taken_away(context.vault, chain, &report.findings, |id| pruned.is_forgotten(id))?;
    report.notices.retain(|notice| taken.iter().all(|f| f.object != notice.object));
    report.findings.extend(taken);
    report.findings.extend(pruned.taken_away(chain, &context.vault.store.describe(), Some(context.state))?);
    let mut wanted = listed(chain);
    let mut waiting = pruned.apply(&mut wanted);
    let mut there: BTreeMap<Key, u64> = BTreeMap::new();
    store.list("", &mut |key, len| {
        there.insert(key, len);
        Ok(())
    })?;
    // A copy need not have them.
    waiting.retain(|key, _| there.contains_key(key));
    wanted.append(&mut waiting);
    let beside = find_beside(store, &wanted)?;
    let keys: Vec<(Key, Digest)> =
        wanted.iter().filter(|(key, _)| key.as_str().starts_with("keys/")).map(|(key, digest)| (key.second(), *digest)).collect();
    wanted.extend(beside.copies.into_iter().chain(keys));
    if context.vault.config.parity > 0 {
        let copies = check_signatures(store, &wanted, &report.findings, context.cancel)?;
        report.findings.extend(copies);
    }
    // What names itself by its hash is checked whether a receipt names it or not.
    for key in there.keys().filter(|key| ["packs/", "index/"].iter().any(|folder| key.as_str().starts_with(folder))) {
        let Some(digest) = key.digest() else { continue };
        if wanted.insert(key.clone(), digest).is_none() && !pruned.is_condemned(key.as_str()) {
            report.unreferenced += 1;
        }
    }
    for key in wanted.keys().filter(|key| !there.contains_key(*key)) {
        report.findings.push(Finding::of(Trouble::Deleted, key.as_str(), "is gone"));
    }
    let work: Vec<(&Key, &Digest, u64)> = wanted.iter().filter_map(|(key, digest)| Some((key, digest, *there.get(key)?))).collect();
    let total = work.iter().map(|(key, _, len)| len + beside.sidecars.get(*key).unwrap_or(&0)).sum();
    let (next, tally, began) = (AtomicUsize::new(0), Mutex::<Tally>::default(), context.clock.monotonic());
    let worker = || {
        let mut buf = vec![0; STEP];
        while let Some((key, digest, len)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
            let told = |n: usize| {
                let mut tally = tally.lock().expect("nobody panics while holding the tally");
                tally.bytes += n as u64;
                tell(context, began, &mut tally, total);
            };
            let finding = match hash(context, key, *len, &mut buf, &told) {
                Ok(now) if now == **digest => None,
                Ok(_) => Some(Finding::of(Trouble::Altered, key.as_str(), "its content is not what it was")),
                Err(e) if e.kind() == ErrorKind::Cancelled => return Err(e),
                Err(e) if e.kind() == ErrorKind::Missing => Some(Finding::of(Trouble::Deleted, key.as_str(), "is gone")),
                Err(e) => Some(Finding::new(key.as_str(), e.chain())),
            };
            let sidecar = match beside.sidecars.get(*key) {
                Some(len) => Some((check_sidecar(store, key)?, *len)),
                None => None,
            };
            let mut tally = tally.lock().expect("nobody panics while holding the tally");
            tally.objects += 1;
            tally.findings.extend(finding);
            if let Some((finding, len)) = sidecar {
                tally.objects += 1;
                tally.bytes += len;
                tally.findings.extend(finding);
                tell(context, began, &mut tally, total);
            }
        }
        Ok(())
    };
    sys::share(context.workers.clamp(1, work.len().max(1)), worker)?;
    let tally = tally.into_inner().expect("nobody panicked while holding the tally");
    (report.objects, report.bytes) = (tally.objects, tally.bytes);
    report.findings.extend(tally.findings);
    for pack in beside.sidecars.keys().filter(|pack| !there.contains_key(*pack)) {
        report.findings.extend(check_sidecar(store, pack)?);
    }
    if !report.findings.is_empty() {
        // A prune may have gone on meanwhile.
        Pruned::load(context.vault, report.owner.clone().as_deref(), &mut Vec::new())?.excuse(&mut report.findings);
    }
    Ok(())
}

fn hash(context: &Context, key: &Key, len: u64, buf: &mut [u8], told: &dyn Fn(usize)) -> Result<Digest> {
    let store = &*context.vault.store;
    let mut hash = Digester::default();
    let mut at = 0;
    while at < len {
        context.cancel.check()?;
        let n = buf.len().min(usize::try_from(len - at).unwrap_or(buf.len()));
        if at % AHEAD == 0 && len - at > n as u64 {
            store.expect(key, at + n as u64, AHEAD.min(len - at - n as u64));
        }
        store.get(key, at, &mut buf[..n])?;
        hash.update(&buf[..n]);
        at += n as u64;
        told(n);
    }
    Ok(hash.finish())
}

fn tell(context: &Context, began: Duration, tally: &mut Tally, total: u64) {
    let elapsed_ms = u64::try_from((context.clock.monotonic() - began).as_millis()).unwrap_or(u64::MAX);
    if elapsed_ms < tally.told_ms.saturating_add(TELL_EVERY_MS) && tally.bytes < total {
        return;
    }
    tally.told_ms = elapsed_ms;
    let how_far =
        HowFar { elapsed_ms, entries: tally.objects, bytes: tally.bytes, bytes_total: Some(total), bytes_read: tally.bytes, current: None };
    context.sink.send(Event::Progress(how_far));
}
