//! Holds both sides against each other, byte by byte.

use std::sync::Mutex;

use crate::{
    error::{ErrorKind, Result},
    format::Digest,
    ops::copy::{
        Context, Which,
        carry::each_step,
        look,
        plan::{self, Item},
    },
    store::Store,
    vault::{Finding, Trouble},
};

/// Reads every object that the copy should have, on both sides. Returns how many are equal, and what is wrong with the others.
pub fn compare(context: &Context, which: &[Which]) -> Result<(u64, Vec<Finding>)> {
    let began = context.clock.monotonic();
    let sides = look::look_at_all(context, which)?;
    let lacking = plan::plan(&sides);
    let mut findings: Vec<Finding> = lacking.findings.clone();
    findings.extend(lacking.waves.iter().flatten().map(|item| Finding::of(Trouble::Deleted, item.key.as_str(), "is not in the copy")));
    // What both sides have is what would be carried to an empty place, less what lacks.
    let all = plan::plan(&look::Sides { to: look::Listing::new(), forked: Vec::new(), gone: Default::default(), ..sides.clone() });
    let both: Vec<&Item> = all.waves.iter().flatten().filter(|item| sides.to.get(&item.key) == Some(&item.len)).collect();
    let total: u64 = both.iter().map(|item| item.len).sum();
    let found: Mutex<(u64, u64, Vec<Finding>)> = Mutex::new((0, 0, findings));
    context.in_parallel(&both, |item| {
        let here = read(context, &**context.from, item)?;
        let there = read(context, &**context.to, item)?;
        let wrong = |side: &Option<Digest>| side.is_none() || item.digest.is_some_and(|named| *side != Some(named));
        let text = match (wrong(&here), wrong(&there)) {
            (false, false) if here == there => None,
            (false, false) => Some("is not the same on both sides"),
            (true, false) => Some("is damaged in the vault, and whole in the copy"),
            (false, true) => Some("is damaged in the copy, and whole in the vault"),
            (true, true) => Some("is damaged on both sides"),
        };
        let mut found = found.lock().expect("nobody panics while comparing");
        found.0 += u64::from(text.is_none());
        found.1 += item.len;
        found.2.extend(text.map(|text| Finding::of(Trouble::Altered, item.key.as_str(), text)));
        context.told(began, found.0, found.1, total, item.key.as_str());
        Ok(())
    })?;
    let (equal, _, findings) = found.into_inner().expect("nobody panicked while comparing");
    Ok((equal, findings))
}

/// The hash of the object; `None` if it cannot be read whole.
fn read(context: &Context, store: &dyn Store, item: &Item) -> Result<Option<Digest>> {
    match each_step(context, store, item, |_| Ok(())) {
        Ok(digest) => Ok(Some(digest)),
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => Ok(None),
        Err(e) => Err(e),
    }
}
