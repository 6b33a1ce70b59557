//! The chain: receipts of every sealer, whose signatures count, how snapshots follow one another, and what somebody remembers of
//! them. Needs no secret; verify and audit say the same of it.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::{
    error::{ErrorKind, Result},
    format::{Receipt, SnapshotId, SnapshotKey},
    store::{self, Key},
    vault::{Chain, Expected, Finding, SignerList, StateDir, Trouble, Vault, expected, key_findings, links, remembered, removed_keys},
};

/// Longest receipt looked at, in bytes.
const RECEIPT_LEN_MAX: usize = 64 << 20;

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
    // Before the vault is read: a seal of this host that ends meanwhile remembers what this does not see.
    let (heads, lost) = (state.heads()?, state.lost()?);
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
    let (damage, forks) = remembered(&chain, &heads, own.as_deref(), |c| state.manifest(&c.key, &c.id).is_some());
    judged.damage.extend(damage);
    judged.forks.extend(forks);
    judged.damage.extend(expected(&chain, expect));
    for (key, id) in lost {
        if !chain.counts(&key, &id) && !chain.revoked.iter().any(|c| c.id == id) {
            let text = "this host remembered this snapshot when it last sealed, and it was gone by then: the vault was rolled back";
            judged.lost.push(Finding::of(Trouble::RolledBack, key.receipt(), format!("{text} (its id: {})", id.short())));
        }
    }
    for (key, id) in state.foreign()? {
        let receipt = key.receipt();
        if chain.counts(&key, &id) && judged.forks.iter().all(|f| f.object != receipt) {
            let text =
                "is signed with this host's key, and was not made here, as this host noted when it sealed: another machine has the key";
            judged.forks.push(Finding::of(Trouble::Fork, receipt, text));
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
    for finding in about_lists(signers, state)? {
        match finding.kind {
            Trouble::Unsigned => judged.notices.push(finding),
            _ => judged.damage.push(finding),
        }
    }
    Ok(())
}

/// What makes the list that counts look older than it should be: somebody's right to seal may be back.
fn about_lists(signers: &SignerList, state: &StateDir) -> Result<Vec<Finding>> {
    let seen = state.signers_seen()?;
    let mut findings = signers.passed_over.clone();
    if signers.number < seen {
        let text = format!("this host has seen list number {seen} of signers, and it is gone or was changed: what it revoked counts again");
        findings.push(Finding::of(Trouble::RolledBack, signers.key.as_str(), text));
    }
    Ok(findings)
}

/// The same for who only warns: without lists that were never finished.
pub fn doubts(signers: &SignerList, state: &StateDir) -> Result<Vec<Finding>> {
    Ok(about_lists(signers, state)?.into_iter().filter(|f| f.kind != Trouble::Unsigned).collect())
}

/// Snapshots that were committed once, by what is left of them, and have no signature in its place any more. A seal that never finished
/// leaves neither: nothing goes on from it, and the second copy of a signature is made after the commit.
///
/// What is `known` already is not told again. Cost: a listing, and the receipts without a signature, of which there are as many as seals
/// that died late.
pub fn taken_away(vault: &Vault, chain: &Chain, known: &[Finding], is_forgotten: impl Fn(&SnapshotId) -> bool) -> Result<Vec<Finding>> {
    let store = &*vault.store;
    let unsigned: Vec<&SnapshotKey> =
        chain.there.iter().filter(|(_, there)| there.receipt && !there.signature).map(|(key, _)| key).collect();
    let mut ids: BTreeMap<&SnapshotKey, SnapshotId> = BTreeMap::new();
    let mut named: HashSet<SnapshotId> = HashSet::new();
    for key in unsigned {
        let Ok(bytes) = store::get_all(store, &Key::receipt(key), RECEIPT_LEN_MAX) else { continue };
        ids.insert(key, Receipt::id(&bytes));
        named.extend(Receipt::decode(&bytes).iter().flat_map(|receipt| receipt.previous_all().map(|(_, id)| id).collect::<Vec<_>>()));
    }
    let text = "its signature is gone: another snapshot, which has none either, goes on from it";
    let mut findings: Vec<Finding> = ids
        .iter()
        .filter(|(_, id)| named.contains(id))
        .map(|(key, _)| Finding::of(Trouble::SnapshotDeleted, key.receipt(), text))
        .collect();
    let copies: BTreeSet<SnapshotKey> = store::list_all(store, "parity/snaps")?
        .iter()
        .filter_map(|(key, _)| SnapshotKey::parse(key.as_str().strip_prefix("parity/")?))
        .filter(|(key, suffix)| *suffix == "b3.sig" && !chain.there.get(key).is_some_and(|there| there.signature))
        .map(|(key, _)| key)
        .collect();
    for key in copies {
        // The copy comes after the signature: a seal has ended since the list was made.
        if store.stat(&Key::signature(&key))?.is_some() {
            continue;
        }
        let receipt = [Key::receipt(&key).second(), Key::receipt(&key)];
        let id = receipt.iter().find_map(|place| store::get_all(store, place, RECEIPT_LEN_MAX).ok()).map(|bytes| Receipt::id(&bytes));
        if !id.is_some_and(|id| is_forgotten(&id)) {
            let text = "its signature is gone, and a second copy of it is still there: coffre verify --repair brings the snapshot back";
            findings.push(Finding::of(Trouble::SnapshotDeleted, key.receipt(), text));
        }
    }
    findings.retain(|finding| known.iter().all(|known| known.object != finding.object));
    Ok(findings)
}
