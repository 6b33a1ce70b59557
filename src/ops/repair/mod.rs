//! Repair: damaged and missing objects put right, byte for byte, from what the vault holds besides, or from another copy of it.
//!
//! Needs no key: an object is right when its hash is the one in its name, or in a signed receipt; a receipt, when its sealer signed it. What is replaced
//! is kept below `damaged/`. Nothing that is sound is touched, so this runs beside everything else.

mod foundations;
mod objects;
mod redundancy;
mod source;
mod survey;

pub use source::{FromSource, from_source};

use std::{collections::BTreeSet, sync::Arc};

use serde::Serialize;

use crate::{
    error::{Error, Result},
    event::{Event, Sink},
    format::Config,
    ops::verify::{self, Pruned},
    store::{self, Key, Store},
    sys::{Cancel, Clock},
    vault::{Finding, SignerList, Vault, read_either, removed_keys},
};

/// Times that receipts may lead to others that are missing.
const ROUNDS_MAX: usize = 64;
/// Times that an object is put in place while other repairs take the place where the damaged one is to be kept.
const ATTEMPTS_MAX: u32 = 10;
/// Longest `VAULT` looked at, in bytes.
const CONFIG_LEN_MAX: usize = 64 << 10;

/// What a repair works with.
pub struct Context<'a> {
    /// Where the vault is.
    pub store: Arc<dyn Store>,
    /// Other copies of the same vault, to be asked for what this one cannot mend by itself.
    pub from: &'a [Arc<dyn Store>],
    /// The owner's public key, if this host knows it.
    pub owner: Option<String>,
    /// Time.
    pub clock: &'a dyn Clock,
    /// Where events go.
    pub sink: &'a dyn Sink,
    /// Stops the work.
    pub cancel: &'a Cancel,
    /// Threads that look for damage; with one, everything is done in the same order each time.
    pub workers: usize,
}

/// What is looked at.
#[derive(Clone, Debug)]
pub enum Scope {
    /// Every object, and its sidecar or second copy.
    Everything,
    /// Receipts, signers, and these.
    Only(BTreeSet<Key>),
}

impl Scope {
    fn holds(&self, key: &Key) -> bool {
        match self {
            Self::Everything => true,
            Self::Only(keys) => keys.contains(key),
        }
    }
}

/// With what an object was put right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// Its sidecar.
    Parity,
    /// Its second copy.
    Copy,
    /// Another copy of the vault.
    Other,
    /// The sound object that it belongs to: it is a sidecar or a second copy itself.
    Again,
}

/// An object that was put right.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Repaired {
    /// The object.
    pub object: String,
    /// With what.
    pub how: How,
    /// Where the damaged one is kept; nothing if it was gone.
    pub aside: Option<String>,
}

/// What was done.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// Objects that are right again.
    pub repaired: Vec<Repaired>,
    /// Objects that are not, and why.
    pub lost: Vec<Finding>,
    /// Objects looked at.
    pub objects: u64,
}

/// Repairs. What cannot be repaired is in the report, not an error.
///
/// # Errors
/// `NoVault` if neither `VAULT` nor its second copy can be read; `Usage` if a copy is of another vault; what the store says when writing fails.
///
/// Cost: `Scope::Everything` reads everything, sidecars too, on all threads, of which each holds 1 MiB and a sidecar; a damaged pack takes its
/// size in memory, and 5 MiB.
pub fn run(context: &Context, scope: &Scope) -> Result<Report> {
    let vault = open(context)?;
    let mut report = Report::default();
    let mut work = Work { context, vault: &vault, report: &mut report };
    let signers = foundations::signers(&mut work)?;
    // What the owner gave up is not brought back.
    let owner = context.owner.as_deref().or(signers.signers.owner());
    if let Some(owner) = owner {
        foundations::records(&mut work, owner)?;
    }
    let pruned = Pruned::load(&vault, owner, &mut Vec::new())?;
    let mut chain = vault.chain(&signers, |_| 0)?;
    for _ in 0..ROUNDS_MAX {
        if !foundations::receipts(&mut work, &signers, &chain, &pruned)? {
            break;
        }
        chain = vault.chain(&signers, |_| 0)?;
    }
    if let Some(owner) = owner {
        chain.removed = removed_keys(&*vault.store, owner, vault.config.id)?;
    }
    let mut listed = verify::listed(&chain);
    let waiting = pruned.apply(&mut listed);
    if !waiting.is_empty() {
        // What is left of them is needed by an undelete; what is not there may never have been.
        let sizes = survey::sizes(&*vault.store)?;
        listed.extend(waiting.into_iter().filter(|(key, _)| sizes.contains_key(key)));
    }
    objects::restore(&mut work, &listed, scope)?;
    redundancy::renew(&mut work, &listed, scope)?;
    report.repaired.sort();
    report.lost.sort();
    Ok(report)
}

/// The vault by its `VAULT`, or by the second copy of that; which of the two is right is found out later.
fn open(context: &Context) -> Result<Vault> {
    let key = Key::fixed("VAULT");
    let read = |store: &dyn Store| read_either(store, &key, CONFIG_LEN_MAX, |bytes| Config::decode(&bytes));
    let config = read(&*context.store).or_else(|e| context.from.iter().find_map(|other| read(&**other).ok()).ok_or(e));
    let config = config.map_err(|e| Error::no_vault(format!("no vault can be made out at {}", context.store.describe())).because(e))?;
    for other in context.from {
        let theirs = read(&**other).map_err(|e| e.while_doing(format!("cannot use {} as another copy", other.describe())))?;
        // The first to be read may be the damaged one.
        if theirs.id != config.id {
            return Err(Error::usage(format!("{} is a copy of another vault: {}, not {}", other.describe(), theirs.id, config.id)));
        }
    }
    Ok(Vault { store: context.store.clone(), config })
}

/// The parts of a repair have this in common.
struct Work<'a> {
    context: &'a Context<'a>,
    vault: &'a Vault,
    report: &'a mut Report,
}

impl Work<'_> {
    /// Puts `bytes` at `key`, if something else is there; says so.
    fn put(&mut self, key: &Key, bytes: &[u8], how: How) -> Result<()> {
        let store = &*self.context.store;
        let there = store.stat(key)?.is_some();
        let mut place = aside(store, key)?;
        for attempt in 1.. {
            let Err(e) = store.replace(key, bytes, &place) else { break };
            if store::get_all(store, key, bytes.len()).is_ok_and(|now| now == bytes) {
                // Another repair was quicker.
                return Ok(());
            }
            if attempt == ATTEMPTS_MAX || store.stat(&place)?.is_none() {
                return Err(e);
            }
            place = aside(store, key)?;
        }
        let aside = place;
        let with = match how {
            How::Parity => "by its sidecar",
            How::Copy => "by its second copy",
            How::Other => "from another copy of the vault",
            How::Again => "made again",
        };
        let kept = if there { format!("; what stood there is at {aside}") } else { String::new() };
        self.context.sink.send(Event::Note(format!("repaired {key} {with}{kept}")));
        let aside = there.then(|| aside.to_string());
        self.report.repaired.push(Repaired { object: key.to_string(), how, aside });
        Ok(())
    }

    /// Where an object may be had from, the best first: from its own place, its second copy, other copies of the vault.
    fn sources(&self, key: &Key) -> Vec<(Arc<dyn Store>, Key, Option<How>)> {
        let here = &self.context.store;
        let mut sources = vec![(here.clone(), key.clone(), None), (here.clone(), key.second(), Some(How::Copy))];
        for other in self.context.from {
            sources.push((other.clone(), key.clone(), Some(How::Other)));
            sources.push((other.clone(), key.second(), Some(How::Other)));
        }
        sources
    }
}

/// The places where damaged objects of `key` are kept, the first one first.
fn asides(key: &Key) -> impl Iterator<Item = Option<Key>> {
    (0..1000).map(move |n| if n == 0 { Key::parse(&format!("damaged/{key}")) } else { Key::parse(&format!("damaged/{key}.{n}")) })
}

/// A free place for the damaged object of `key`.
fn aside(store: &dyn Store, key: &Key) -> Result<Key> {
    for place in asides(key) {
        let place = place.ok_or_else(|| Error::bug(format!("no place for the damaged {key}")))?;
        if store.stat(&place)?.is_none() {
            return Ok(place);
        }
    }
    Err(Error::conflict(format!("a thousand damaged {key} are kept already")).hint("look at the disk; then empty damaged/ in the vault"))
}

/// The newest list of signers that counts, after repair.
fn load_signers(work: &Work) -> Result<SignerList> {
    SignerList::load(&*work.context.store, work.context.owner.as_deref())
}
