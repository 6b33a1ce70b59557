//! Object lock and versions: whether the store does what the vault says that it does, and what it does besides.

use std::collections::BTreeMap;

use crate::{
    error::Result,
    ops::verify::{Context, Report},
    store::Key,
    vault::{Chain, Committed, Finding, Trouble},
};

/// A day, in ns.
const DAY_NS: i128 = 86_400_000_000_000;
/// What the clocks of host and server may differ by, in ns.
const SKEW_NS: i128 = 3_600_000_000_000;

/// Looks whether the newest snapshot of each sealer is held, and says what the store can be asked for where something is gone.
///
/// Two requests of a store at the end of a line; where the vault promises a lock, two more a sealer.
pub fn check(context: &Context, chain: &Chain, report: &mut Report) -> Result<()> {
    let (store, days) = (&*context.vault.store, context.vault.config.lock_days);
    if !store.is_far() || (days == 0 && report.is_clean()) {
        return Ok(());
    }
    let holds = store.holds()?;
    let notice = |text: String| Finding::of(Trouble::Unlocked, "VAULT", text);
    if holds.versions && !report.is_clean() {
        let text = "the bucket keeps versions: what was deleted or overwritten may still be there (list-object-versions)";
        report.notices.push(notice(text.to_owned()));
    }
    if days == 0 {
        return Ok(());
    }
    if !holds.locks {
        // A copy elsewhere, most likely.
        report.notices.push(notice(format!("says that objects are held for {days} days, and this place holds none")));
        return Ok(());
    }
    let newest: BTreeMap<&str, &Committed> = chain.committed.iter().map(|c| (c.key.sealer.as_str(), c)).collect();
    for committed in newest.into_values() {
        let key = Key::signature(&committed.key);
        let now = context.clock.now_ns();
        let ends = store.stored_ns(&key)?.map(|at| at + i128::from(days) * DAY_NS);
        let held = store.held_until_ns(&key)?;
        if ends.is_some_and(|ends| ends > now + SKEW_NS && held.is_none_or(|held| held < ends - SKEW_NS)) {
            let text = format!("is not held for {days} days, as the vault says: whoever may delete can delete it");
            report.damage.push(Finding::of(Trouble::Unlocked, key.as_str(), text));
        }
    }
    Ok(())
}
