//! Forget: which snapshots are no longer wanted, by a policy or by name. Nothing is deleted here: that is `prune`'s.

mod clock;
mod policy;
mod report;
mod rules;
mod times;

use std::collections::{BTreeMap, BTreeSet};

pub use clock::wrong as wrong_clock;
pub use policy::{Candidate, Group, GroupBy, Judged, Policy, Reason, judge};
pub use report::{Report, Row};
pub use times::Doubt;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Decision, SnapshotId, SnapshotKey},
    ops::pins::{self, Pinned},
    store::Key,
    sys::Calendar,
    vault::{Committed, Journal, OwnerKeys, Selector, SignerList, Snapshot, Vault, select},
};

/// What to forget.
#[derive(Clone, Debug)]
pub struct Options {
    /// The rules; empty if snapshots are named.
    pub policy: Policy,
    /// What is counted together.
    pub by: GroupBy,
    /// Snapshots that are named one by one.
    pub named: Vec<Selector>,
    /// Only those of these hosts, if there are any.
    pub hosts: Vec<String>,
    /// Time zone of hours, days, weeks, months and years.
    pub calendar: Calendar,
    /// Decide and tell only.
    pub dry_run: bool,
    /// Whatever the clock says, and even the last snapshot of a host.
    pub force: bool,
}

/// Decides, and unless it is a dry run writes the decision down: one record, signed by the owner.
///
/// # Errors
/// `Conflict` if the clock looks wrong, a host would lose its last snapshot, or a named snapshot is pinned. Nothing is changed then.
pub fn run(vault: &Vault, owner: &OwnerKeys, now_ns: i128, options: &Options) -> Result<Report> {
    let journal = Journal::load(vault, Some(&owner.sign.public()))?;
    // What strangers put there is verify's to tell, or they could stop every forget.
    if let Some(finding) = journal.findings.iter().find(|finding| finding.kind.is_damage()) {
        return Err(Error::corrupt(format!("{}: {}", finding.object, finding.text)).hint(
            "a decision of the owner's cannot be read, so nothing is decided anew; coffre verify, and bring the object back from a copy",
        ));
    }
    let (snapshots, findings) = vault.snapshots_but(owner, |id| journal.is_forgotten(id))?;
    let mut pinned = pins::of(&journal, &snapshots);
    let unread = unread(vault, owner, &journal, &snapshots, !findings.is_empty())?;
    for id in unread.iter().flat_map(|c| c.receipt.previous_all()).map(|(_, id)| id) {
        // What cannot be read may have looked suspicious when it was sealed.
        if snapshots.iter().any(|s| s.id == id) && journal.pins.get(&id) != Some(&false) {
            pinned.entry(id).or_insert(Pinned::BeforeUnreadable);
        }
    }
    let candidates = snapshots.iter().map(|s| candidate(vault, s, pinned.get(&s.id).copied())).collect::<Result<_>>()?;
    let mut groups = judge(&options.policy, options.by, &options.calendar, candidates, now_ns);
    let all = || groups.iter().flat_map(|group| &group.rows);
    if !options.force {
        clock::check(all(), now_ns)?;
    }
    let going: Going = match options.named.is_empty() {
        true => {
            groups.retain_mut(|group| {
                group.rows.retain(|row| of_hosts(row, &options.hosts));
                !group.rows.is_empty()
            });
            let unkept = groups.iter().flat_map(|group| &group.rows).filter(|row| row.reasons.is_empty());
            unkept.map(|row| (row.candidate.id, None)).collect()
        }
        false => named(vault, owner, &journal, &snapshots, &pinned, &options.named)?,
    };
    check_hosts(&snapshots, &options.hosts)?;
    let lost: Vec<(SnapshotKey, SnapshotId)> = going.iter().filter_map(|(id, lost)| Some((lost.clone()?, *id))).collect();
    let mut going: BTreeSet<SnapshotId> = going.into_keys().collect();
    check_last(&snapshots, &going, options.force)?;
    let mut decisions = decisions(&snapshots, &going, &journal);
    // The one before stays pinned, by hand from now on.
    let of_lost = unread.iter().filter(|c| lost.iter().any(|(_, id)| *id == c.id)).flat_map(|c| c.receipt.previous_all());
    let newly = of_lost.filter(|(_, id)| pinned.get(id) == Some(&Pinned::BeforeUnreadable) && !going.contains(id));
    decisions.extend(newly.map(|(key, id)| Decision::Pin(key, id)));
    decisions.extend(lost.into_iter().map(|(key, id)| Decision::Forget(key, id)));
    let record = match options.dry_run || going.is_empty() {
        true => None,
        false => {
            let record = Journal::append(vault, owner, now_ns, decisions)?;
            for back in look_again(vault, owner, now_ns, &snapshots, &going, options.force)? {
                going.remove(&back);
            }
            Some(record)
        }
    };
    Ok(report::of(&groups, &going, options, record, findings))
}

fn candidate(vault: &Vault, s: &Snapshot, pinned: Option<Pinned>) -> Result<Candidate> {
    let m = &s.manifest;
    Ok(Candidate {
        id: s.id,
        key: s.key.clone(),
        host: m.host.clone(),
        paths: m.sources.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect(),
        tags: m.tags.iter().cloned().collect(),
        time_ns: m.time_ns,
        duration_ns: i128::from(m.stats.duration_ns),
        stored_ns: vault.store.stored_ns(&Key::signature(&s.key))?,
        pinned,
    })
}

fn of_hosts(row: &Judged, hosts: &[String]) -> bool {
    hosts.is_empty() || hosts.iter().any(|host| *host == row.candidate.host || *host == row.candidate.key.sealer)
}

/// Snapshots that count and are wanted, and of which the manifest cannot be read.
fn unread(vault: &Vault, owner: &OwnerKeys, journal: &Journal, snapshots: &[Snapshot], any: bool) -> Result<Vec<Committed>> {
    if !any {
        return Ok(Vec::new());
    }
    let chain = vault.chain(&SignerList::load(&*vault.store, Some(&owner.sign.public()))?, |_| 0)?;
    let is_lost = |c: &Committed| !journal.is_forgotten(&c.id) && !snapshots.iter().any(|s| s.id == c.id);
    Ok(chain.committed.into_iter().filter(is_lost).collect())
}

/// Ids of what goes; with their places, those of which the manifest is lost.
type Going = BTreeMap<SnapshotId, Option<SnapshotKey>>;

fn named(
    vault: &Vault,
    owner: &OwnerKeys,
    journal: &Journal,
    snapshots: &[Snapshot],
    pinned: &BTreeMap<SnapshotId, Pinned>,
    named: &[Selector],
) -> Result<Going> {
    let mut going = Going::new();
    for selector in named {
        match select(snapshots, selector) {
            Ok(snapshot) => drop(going.insert(snapshot.id, None)),
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let (key, id) = unreadable(vault, owner, journal, snapshots, selector)?.ok_or(e)?;
                going.insert(id, Some(key));
            }
            Err(e) => return Err(e),
        }
    }
    match going.keys().find(|id| pinned.contains_key(id)) {
        Some(id) => {
            let id = id.short();
            Err(Error::conflict(format!("snapshot {id} is pinned")).hint(format!("coffre unpin {id} first, if it is really to go")))
        }
        None => Ok(going),
    }
}

/// The one snapshot that `selector` names among those that count, are wanted, and cannot be read: forgetting it is the way out.
fn unreadable(
    vault: &Vault,
    owner: &OwnerKeys,
    journal: &Journal,
    snapshots: &[Snapshot],
    selector: &Selector,
) -> Result<Option<(SnapshotKey, SnapshotId)>> {
    let chain = vault.chain(&SignerList::load(&*vault.store, Some(&owner.sign.public()))?, |_| 0)?;
    let is_lost = |c: &&Committed| selector.names(&c.key, &c.id) && !journal.is_forgotten(&c.id) && !snapshots.iter().any(|s| s.id == c.id);
    let mut lost = chain.committed.iter().filter(is_lost);
    Ok(lost.next().filter(|_| lost.next().is_none()).map(|c| (c.key.clone(), c.id)))
}

/// A host that is mistyped would be one of which nothing is forgotten, for ever.
fn check_hosts(snapshots: &[Snapshot], hosts: &[String]) -> Result<()> {
    let known: BTreeSet<&str> = snapshots.iter().flat_map(|s| [s.manifest.host.as_str(), s.key.sealer.as_str()]).collect();
    match hosts.iter().find(|host| !known.contains(host.as_str())) {
        Some(host) => Err(Error::not_found(format!("no snapshot is of host `{host}`"))
            .hint(format!("hosts and sealers are {}", known.into_iter().collect::<Vec<_>>().join(", ")))),
        None => Ok(()),
    }
}

/// A host is who seals, and what it calls itself.
fn check_last(snapshots: &[Snapshot], going: &BTreeSet<SnapshotId>, force: bool) -> Result<()> {
    let host = |s: &Snapshot| (s.key.sealer.clone(), s.manifest.host.clone());
    let staying: BTreeSet<_> = snapshots.iter().filter(|s| !going.contains(&s.id)).map(host).collect();
    match snapshots.iter().find(|s| going.contains(&s.id) && !staying.contains(&host(s))) {
        Some(s) if !force => Err(Error::conflict(format!("nothing is forgotten: {} would lose its last snapshot", s.manifest.host))
            .hint("keep one at least (--keep-last 1), or add --force if the host is to vanish from the vault")),
        _ => Ok(()),
    }
}

/// Takes back what another owner's decision at the same moment makes wrong: that a pinned snapshot goes, or a host's last one. Each looks after
/// it has decided, so at least one of two sees the other; both keep rather than lose. Returns what came back.
fn look_again(
    vault: &Vault,
    owner: &OwnerKeys,
    now_ns: i128,
    snapshots: &[Snapshot],
    going: &BTreeSet<SnapshotId>,
    force: bool,
) -> Result<Vec<SnapshotId>> {
    let journal = Journal::load(vault, Some(&owner.sign.public()))?;
    let host = |s: &Snapshot| (s.key.sealer.clone(), s.manifest.host.clone());
    let staying: BTreeSet<_> = snapshots.iter().filter(|s| !journal.is_forgotten(&s.id)).map(host).collect();
    // Oldest first: of a host of which nothing stays, the newest one of all that went comes back.
    let last: BTreeMap<_, SnapshotId> = snapshots.iter().filter(|s| !staying.contains(&host(s))).map(|s| (host(s), s.id)).collect();
    let is_wanted = |s: &&Snapshot| {
        let is_last = !force && last.values().any(|id| *id == s.id);
        journal.is_forgotten(&s.id) && (going.contains(&s.id) && journal.pins.get(&s.id) == Some(&true) || is_last)
    };
    let back: Vec<&Snapshot> = snapshots.iter().filter(is_wanted).collect();
    if !back.is_empty() {
        Journal::append(vault, owner, now_ns, back.iter().map(|s| Decision::Undelete(s.key.clone(), s.id)).collect())?;
    }
    Ok(back.into_iter().map(|s| s.id).collect())
}

/// Forgets `going`. What their manifests pin stays pinned, by hand from now on: nobody will read them any more.
fn decisions(snapshots: &[Snapshot], going: &BTreeSet<SnapshotId>, journal: &Journal) -> Vec<Decision> {
    let gone = || snapshots.iter().filter(|s| going.contains(&s.id));
    let pins: BTreeSet<SnapshotId> = gone().flat_map(|s| &s.manifest.pins).filter(|id| !journal.pins.contains_key(id)).copied().collect();
    let pinned = snapshots.iter().filter(|s| pins.contains(&s.id) && !going.contains(&s.id));
    let same_sealer = |s: &&Snapshot| gone().any(|gone| gone.key.sealer == s.key.sealer && gone.manifest.pins.contains(&s.id));
    let pins = pinned.filter(same_sealer).map(|s| Decision::Pin(s.key.clone(), s.id));
    gone().map(|s| Decision::Forget(s.key.clone(), s.id)).chain(pins).collect()
}
