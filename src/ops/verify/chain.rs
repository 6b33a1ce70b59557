//! The chain: receipts of every sealer, whose signatures count, how snapshots follow one another, and what this host remembers of
//! them. Needs no secret.

use crate::{
    error::{ErrorKind, Result},
    event::Event,
    ops::verify::{Context, Report},
    vault::{Chain, Finding, SignerList, Trouble, expected, links, remembered},
};

/// Reads all receipts, and judges them. The number is that of the list of signers that counts, 0 if none does.
pub fn walk(context: &Context, report: &mut Report) -> Result<(Chain, u32)> {
    let vault = context.vault;
    let pinned = match context.reader {
        Some(reader) => Some(reader.owner.sign.public()),
        None => context.state.pinned_owner()?,
    };
    let signers = match SignerList::load(&*vault.store, pinned.as_deref()) {
        Ok(signers) => signers,
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => {
            let kind = if e.kind() == ErrorKind::Missing { Trouble::Deleted } else { Trouble::Altered };
            report.damage.push(Finding::of(kind, "signers/allowed_signers", e.chain()));
            return Ok((Chain::default(), 0));
        }
        Err(e) => return Err(e),
    };
    let chain = vault.chain(&signers, |_| 0)?;
    report.snapshots = chain.committed.len() as u64;
    report.damage.extend(chain.findings.iter().cloned());
    let links = links(&chain, &signers);
    report.damage.extend(links.damage);
    report.forks.extend(links.forks);
    report.notices.extend(links.notices);
    lists(context, &signers, report)?;

    let own = context.state.sealer().ok().flatten().map(|keys| keys.name.clone());
    let (damage, forks) = remembered(&chain, &context.state.heads()?, own.as_deref());
    report.damage.extend(damage);
    report.forks.extend(forks);
    report.damage.extend(expected(&chain, context.expect));
    for (key, id) in context.state.lost()? {
        if !chain.counts(&key, &id) && !chain.revoked.iter().any(|c| c.id == id) {
            let text = "this host remembered this snapshot when it last sealed, and it was gone by then: the vault was rolled back";
            report.lost.push(Finding::of(Trouble::RolledBack, key.receipt(), format!("{text} (its id: {})", id.short())));
        }
    }
    Ok((chain, signers.number))
}

/// Looks at the lists of signers: newer ones that do not count, and ones that this host has seen and are gone.
fn lists(context: &Context, signers: &SignerList, report: &mut Report) -> Result<()> {
    for finding in &signers.passed_over {
        match finding.kind {
            Trouble::Unsigned => report.notices.push(finding.clone()),
            _ => report.damage.push(finding.clone()),
        }
    }
    let seen = context.state.signers_seen()?;
    if signers.number < seen {
        let text = format!("this host has seen list number {seen} of signers, and it is gone or was changed: what it revoked counts again");
        report.damage.push(Finding::of(Trouble::RolledBack, signers.key.as_str(), text));
    }
    Ok(())
}

/// Notes what was seen, for the next time, if this host has a state directory. That it could not is worth a word, no more.
pub fn remember(context: &Context, chain: &Chain, signers: u32) {
    if !context.state.path().is_dir() {
        return;
    }
    let note = || {
        let mut heads = context.state.heads()?;
        heads.extend(chain.heads());
        context.state.keep_heads(&heads)?;
        context.state.keep_signers_seen(signers)
    };
    if let Err(e) = note() {
        context.sink.send(Event::Note(format!("this host cannot remember the heads that it saw: {}", e.chain())));
    }
}
