//! What everything else is judged by: lists of signers, the owner's decisions, receipts, and their signatures. Each pair is right when the signature is.

use std::collections::BTreeSet;

use crate::{
    error::Result,
    format::{Receipt, SnapshotId, SnapshotKey},
    ops::{
        repair::{How, Work, load_signers},
        verify::Pruned,
    },
    store::{self, Key},
    vault::{Chain, Finding, SignerList, check_receipt, is_as_made, is_record},
};

/// Longest list, receipt or signature looked at, in bytes.
const LEN_MAX: usize = 64 << 20;

/// Puts lists of signers right, and returns the newest.
pub fn signers(work: &mut Work) -> Result<SignerList> {
    let mut lists = BTreeSet::new();
    for folder in ["signers", "parity/signers"] {
        for (key, _) in store::list_all(&*work.context.store, folder)? {
            let name = key.file_name();
            let list = Key::parse(&format!("signers/{}", name.strip_suffix(".sig").unwrap_or(name)));
            lists.extend(list.filter(|key| key.file_name().starts_with("allowed_signers")));
        }
    }
    let owner = work.context.owner.clone();
    for list in lists {
        let signature = Key::fixed(format!("{list}.sig"));
        pair(work, &list, &signature, |bytes, signed| SignerList::check_bytes(&list, bytes, signed, owner.as_deref()).is_ok())?;
    }
    load_signers(work)
}

/// Puts the decisions of `owner` right.
pub fn records(work: &mut Work, owner: &str) -> Result<()> {
    let mut names = BTreeSet::new();
    for folder in ["gc", "parity/gc"] {
        for (key, _) in store::list_all(&*work.context.store, folder)? {
            let name = key.file_name();
            names.extend(name.strip_suffix(".txt").or(name.strip_suffix(".txt.sig")).map(str::to_owned));
        }
    }
    for name in names {
        work.context.cancel.check()?;
        let (record, signature) = (Key::fixed(format!("gc/{name}.txt")), Key::fixed(format!("gc/{name}.txt.sig")));
        pair(work, &record, &signature, |bytes, signed| is_record(owner, &name, bytes, signed))?;
    }
    Ok(())
}

/// Puts receipts right that cannot be read or that a later one misses; true if any was.
pub fn receipts(work: &mut Work, signers: &SignerList, chain: &Chain, pruned: &Pruned) -> Result<bool> {
    // A snapshot of which nothing is left in its place is only brought back if it was not forgotten.
    let mut places: BTreeSet<SnapshotKey> =
        chain.findings.iter().filter_map(|f| SnapshotKey::parse(&f.object)).map(|(place, _)| place).collect();
    for (key, _) in store::list_all(&*work.context.store, "snaps")? {
        if let Some((place, "b3" | "b3.sig")) = SnapshotKey::parse(key.as_str()) {
            places.insert(place);
        }
    }
    for (key, _) in store::list_all(&*work.context.store, "parity/snaps")? {
        // The second copy of a signature is made after the commit.
        let place = key.as_str().strip_prefix("parity/").and_then(SnapshotKey::parse);
        let Some((place, _)) = place.filter(|(_, suffix)| *suffix == "b3.sig") else { continue };
        let id = store::get_all(&*work.context.store, &Key::receipt(&place).second(), LEN_MAX).ok().map(|bytes| Receipt::id(&bytes));
        if id.is_some_and(|id| !pruned.is_forgotten(&id)) {
            places.insert(place);
        }
    }
    let there: BTreeSet<(&SnapshotKey, SnapshotId)> = chain.committed.iter().map(|c| (&c.key, c.id)).collect();
    let missed = chain.committed.iter().filter_map(|c| c.receipt.previous()).filter(|(key, id)| !there.contains(&(key, *id)));
    places.extend(missed.filter(|(_, id)| !pruned.is_forgotten(id)).map(|(key, _)| key));
    places.retain(|place| !pruned.is_condemned(&place.receipt()));
    let before = work.report.repaired.len();
    for place in places {
        work.context.cancel.check()?;
        let (receipt, signature) = (Key::receipt(&place), Key::signature(&place));
        pair(work, &receipt, &signature, |bytes, signed| check_receipt(signers, &place, bytes, signed).is_ok())?;
    }
    Ok(work.report.repaired.len() > before)
}

/// Finds two objects that belong together among all their copies, and puts them in place. Where there are none, nothing is done: a seal
/// that never finished leaves a receipt without a signature.
fn pair(work: &mut Work, first: &Key, second: &Key, belong: impl Fn(&[u8], &[u8]) -> bool) -> Result<()> {
    let read = |key: &Key| -> Vec<(Vec<u8>, Option<How>)> {
        let sources = work.sources(key).into_iter();
        sources.filter_map(|(store, key, how)| Some((store::get_all(&*store, &key, LEN_MAX).ok()?, how))).collect()
    };
    let (firsts, mut seconds) = (read(first), read(second));
    // One that lost its last line break still counts, and is not what it was.
    seconds.sort_by_key(|(signed, _)| !is_as_made(signed));
    for (bytes, how) in &firsts {
        for (signed, signed_how) in &seconds {
            if belong(bytes, signed) {
                if let Some(how) = how {
                    work.put(first, bytes, *how)?;
                }
                if let Some(how) = signed_how {
                    work.put(second, signed, *how)?;
                }
                return Ok(());
            }
        }
    }
    if !seconds.is_empty() {
        let text = "no copy of it and of its signature belong together";
        let known = |f: &Finding| f.object == first.as_str();
        if !work.report.lost.iter().any(known) {
            work.report.lost.push(Finding::new(first.as_str(), text));
        }
    }
    Ok(())
}
