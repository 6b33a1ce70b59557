//! The chain: receipts of every sealer, whose signatures count, how snapshots follow one another, and what somebody remembers of
//! them. Needs no secret; verify and audit say the same of it.

use crate::{
    error::{ErrorKind, Result},
    vault::{Chain, Expected, Finding, SignerList, StateDir, Trouble, Vault, expected, key_findings, links, remembered, removed_keys},
};

/// What is known of a vault's chains.
#[derive(Default)]
pub struct Judged {
    /// The snapshots.
    pub chain: Chain,
    /// The list of signers that counts; `None` if none does, and then no snapshot does.
    pub signers: Option<SignerList>,
    /// Damage and tampering.
    pub damage: Vec<Finding>,
    /// Two machines under one name.
    pub forks: Vec<Finding>,
    /// Snapshots that were gone when this host last sealed.
    pub lost: Vec<Finding>,
    /// Worth a word.
    pub notices: Vec<Finding>,
}

/// Reads all receipts, and judges them. Trusts the list of signers that `owner` signed, or, without one, the newest.
pub fn judge(vault: &Vault, owner: Option<&str>, state: &StateDir, expect: &[Expected]) -> Result<Judged> {
    let mut judged = Judged::default();
    let signers = match SignerList::load(&*vault.store, owner) {
        Ok(signers) => signers,
        Err(e) if matches!(e.kind(), ErrorKind::Corrupt | ErrorKind::Missing) => {
            let kind = if e.kind() == ErrorKind::Missing { Trouble::Deleted } else { Trouble::Altered };
            judged.damage.push(Finding::of(kind, "signers/allowed_signers", e.chain()));
            return Ok(judged);
        }
        Err(e) => return Err(e),
    };
    let mut chain = vault.chain(&signers, |_| 0)?;
    if let Some(owner) = owner.or(signers.signers.owner()) {
        chain.removed = removed_keys(&*vault.store, owner, vault.config.id)?;
        let (damage, notices) = key_findings(&*vault.store, owner, vault.config.id)?;
        judged.damage.extend(damage);
        judged.notices.extend(notices);
    }
    judged.damage.extend(chain.findings.iter().cloned());
    let links = links(&chain, &signers);
    judged.damage.extend(links.damage);
    judged.forks.extend(links.forks);
    judged.notices.extend(links.notices);
    lists(&signers, state, &mut judged)?;

    let own = state.sealer().ok().flatten().map(|keys| keys.name.clone());
    let (damage, forks) = remembered(&chain, &state.heads()?, own.as_deref(), |c| state.manifest(&c.key, &c.id).is_some());
    judged.damage.extend(damage);
    judged.forks.extend(forks);
    judged.damage.extend(expected(&chain, expect));
    for (key, id) in state.lost()? {
        if !chain.counts(&key, &id) && !chain.revoked.iter().any(|c| c.id == id) {
            let text = "this host remembered this snapshot when it last sealed, and it was gone by then: the vault was rolled back";
            judged.lost.push(Finding::of(Trouble::RolledBack, key.receipt(), format!("{text} (its id: {})", id.short())));
        }
    }
    // What stands in place of a snapshot that is remembered is told once.
    judged.notices.retain(|notice| judged.damage.iter().all(|f| f.object != notice.object));
    judged.chain = chain;
    judged.signers = Some(signers);
    Ok(judged)
}

/// Looks at the lists of signers: newer ones that do not count, and ones that this host has seen and are gone.
fn lists(signers: &SignerList, state: &StateDir, judged: &mut Judged) -> Result<()> {
    for finding in &signers.passed_over {
        match finding.kind {
            Trouble::Unsigned => judged.notices.push(finding.clone()),
            _ => judged.damage.push(finding.clone()),
        }
    }
    judged.damage.extend(went_back(signers, state)?);
    Ok(())
}

/// Whether this host has seen a newer list of signers than the one that counts: then somebody's right to seal may be back.
pub fn went_back(signers: &SignerList, state: &StateDir) -> Result<Option<Finding>> {
    let seen = state.signers_seen()?;
    let text = format!("this host has seen list number {seen} of signers, and it is gone or was changed: what it revoked counts again");
    Ok((signers.number < seen).then(|| Finding::of(Trouble::RolledBack, signers.key.as_str(), text)))
}
