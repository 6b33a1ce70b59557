//! The chain, as verify tells it; the next time is held against what was seen this time.

use std::collections::BTreeSet;

use crate::{
    error::Result,
    event::Event,
    ops::{
        chain::judge,
        verify::{Context, Report},
    },
    vault::Chain,
};

/// Reads all receipts, and judges them. The number is that of the list of signers that counts, 0 if none does.
pub fn walk(context: &Context, report: &mut Report) -> Result<(Chain, u32)> {
    let owner = context.owner()?;
    let judged = judge(context.vault, owner.as_deref(), context.state, context.expect)?;
    report.snapshots = judged.chain.committed.len() as u64;
    report.damage.extend(judged.damage);
    report.forks.extend(judged.forks);
    report.lost.extend(judged.lost);
    report.notices.extend(judged.notices);
    Ok((judged.chain, judged.signers.map_or(0, |signers| signers.number)))
}

/// Notes what was seen, for the next time, if this host has a state directory. That it could not is worth a word, no more.
pub fn remember(context: &Context, chain: &Chain, signers: u32, decisions: &BTreeSet<String>) {
    if !context.state.path().is_dir() {
        return;
    }
    let note = || {
        let mut heads = context.state.heads()?;
        for (sealer, (seq, id)) in chain.heads() {
            // A seal of this host may have remembered more while this ran.
            if heads.get(&sealer).is_none_or(|(known, _)| *known < seq) {
                heads.insert(sealer, (seq, id));
            }
        }
        context.state.keep_heads(&heads)?;
        context.state.saw_decisions(&context.vault.store.describe(), decisions)?;
        context.state.keep_signers_seen(signers.max(context.state.signers_seen()?))
    };
    if let Err(e) = note() {
        context.sink.send(Event::Note(format!("this host cannot remember the heads that it saw: {}", e.chain())));
    }
}
