//! Epochs: a new pair of data and meta identities for what is sealed from now on.
//!
//! `keys/epoch-NNNN.age` gives all pairs to the ways in that there are, by the identities that lie in their files.
//! `keys/recipients-NNNN.age` tells the sealers what to seal to, by the index identities of their domains. Both are signed
//! inside: what they are sealed to is known to more than the owners. `keys/epoch.NNNN`, signed, tells everybody that the epoch began.

use std::collections::{BTreeSet, HashMap};

use crate::{
    error::{Error, ErrorKind, Result},
    format::VaultId,
    pack::{self, Identity, Recipient},
    store::{Key, Store},
    vault::{
        PUBLIC_LEN_MAX, Vault,
        cards::Standing,
        enrol::put_key,
        keys::{OwnerKeys, SealerKeys},
        removed,
        second::read_either,
        sign, signed,
        signers::SignerList,
        ways::{WayFile, either_copy, key_names},
    },
};

/// What the places begin with where owners tell of epochs.
const TOLD: &str = "keys/epoch.";
/// Most files of epochs that are tried: a vault has as many as it was given new keys, and only the newest that opens matters.
const EPOCHS_TRIED_MAX: usize = 1024;
/// Most numbers that a rotation passes over.
const SKIPPED_MAX: u32 = 16;

fn number_of(file: &str, prefix: &str) -> Option<u32> {
    file.strip_prefix(prefix)?.strip_suffix(".age")?.parse().ok()
}

/// The numbers of the files with `prefix` among `names`, newest first.
fn numbers(names: &[String], prefix: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| number_of(name, prefix)).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers
}

/// Where an owner tells everybody that an epoch began.
fn told(number: u32) -> Key {
    Key::fixed(format!("{TOLD}{number:04}"))
}

fn signature_of(place: &Key) -> Key {
    Key::fixed(format!("{place}.sig"))
}

/// The ways that have the keys of epoch `number`, if `owner`, a public key, signed that it began. A file alone says nothing: anybody can put
/// one there.
pub(super) fn ways_told(store: &dyn Store, owner: &str, vault: VaultId, number: u32) -> Result<Option<BTreeSet<u32>>> {
    let place = told(number);
    let read = |key: &Key| read_either(store, key, PUBLIC_LEN_MAX, Ok);
    let (text, signature) = match (read(&place), read(&signature_of(&place))) {
        (Ok(text), Ok(signature)) => (text, signature),
        (Err(e), _) | (_, Err(e)) if e.kind() == ErrorKind::Unavailable => return Err(e),
        _ => return Ok(None),
    };
    let head = format!("coffre-epoch 1\nvault {vault}\nepoch {number}\nways ");
    let ways = match sign::is_signed(owner, sign::REMOVED, &text, &signature) {
        true => std::str::from_utf8(&text).ok().and_then(|text| text.strip_prefix(&head)?.lines().next()),
        false => None,
    };
    Ok(ways.map(|ways| ways.split(' ').filter_map(|n| n.parse().ok()).collect()))
}

/// The files of epochs of which no owner says that they began, and whether any has said so of any.
pub(super) fn untold(store: &dyn Store, names: &[String], owner: &str, vault: VaultId) -> Result<(Vec<String>, bool)> {
    let mut highest = None;
    let numbers = numbers(names, "epoch-");
    for number in &numbers {
        if ways_told(store, owner, vault, *number)?.is_some() {
            highest = Some(*number);
            break;
        }
    }
    // What is older than one that an owner told of may be of an older coffre, and misleads nobody.
    let above = numbers.into_iter().filter(|n| highest.is_none_or(|highest| *n > highest));
    Ok((above.map(|n| format!("keys/{}", epoch_file(n))).collect(), highest.is_some()))
}

/// The epoch that began since `owner`'s keys were had, if one did.
pub(super) fn began_since(store: &dyn Store, owner: &OwnerKeys) -> Result<Option<u32>> {
    let now = numbers(&key_names(store)?, "epoch-");
    Ok(now.into_iter().find(|n| *n > owner.epoch() && !owner.epochs_seen().contains(n)))
}

pub(super) fn epoch_file(number: u32) -> String {
    format!("epoch-{number:04}.age")
}

fn recipients_file(number: u32) -> String {
    format!("recipients-{number:04}.age")
}

/// Brings keys that a way's file gave up to the newest epoch that is open to that way; `names` are those of all key files.
///
/// # Errors
/// Those of the store. An epoch that is not for this way leaves the keys as they are; if an owner told that it began, they know.
pub(super) fn follow(store: &dyn Store, names: &[String], keys: OwnerKeys) -> Result<OwnerKeys> {
    let seen = numbers(names, "epoch-");
    let mut newer = None;
    if let Some(way) = keys.way() {
        let tried = seen.iter().filter(|n| **n > keys.epoch()).take(EPOCHS_TRIED_MAX);
        newer = tried.filter_map(|n| open_epoch(store, &keys, way, *n).ok()).next();
    }
    let keys = keys.with_newer(newer, seen);
    for number in numbers_told(names).into_iter().filter(|n| *n > keys.epoch()).take(EPOCHS_TRIED_MAX) {
        if ways_told(store, &keys.sign.public(), keys.vault(), number)?.is_some() {
            return Ok(keys.that_lack(Some(number)));
        }
    }
    Ok(keys)
}

/// The keys in the file of epoch `number`, if it is for `way`, and one of `keys`' owners made it.
fn open_epoch(store: &dyn Store, keys: &OwnerKeys, way: &Identity, number: u32) -> Result<OwnerKeys> {
    either_copy(store, &epoch_file(number), |sealed| epoch_in(sealed, keys, way, number))
}

/// The same for the bytes of that file.
pub(super) fn epoch_in(sealed: &[u8], keys: &OwnerKeys, way: &Identity, number: u32) -> Result<OwnerKeys> {
    let file = epoch_file(number);
    let text = pack::open_whole(&[way], sealed, &file)?;
    let body = signed::check(&keys.sign.public(), &text, &file)?;
    let newer = OwnerKeys::decode(body, keys.vault())?;
    match newer.epoch() == number && newer.sign.public() == keys.sign.public() {
        true => Ok(newer),
        false => Err(Error::corrupt(format!("keys/{file} holds other keys than it should"))),
    }
}

/// The number in the name of an epoch's file.
pub(super) fn number_of_epoch(file: &str) -> Option<u32> {
    number_of(file, "epoch-")
}

/// The numbers of the epochs of which somebody tells, newest first.
fn numbers_told(names: &[String]) -> Vec<u32> {
    let mut numbers: Vec<u32> = names.iter().filter_map(|name| name.strip_prefix("epoch.")?.parse().ok()).collect();
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers
}

/// What a rotation did.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Rotation {
    /// The new epoch.
    pub epoch: u32,
    /// How many ways in have its keys.
    pub ways: usize,
    /// The sealers that will be told.
    pub sealers: Vec<String>,
    /// Sealers that cannot be told, as the vault has lost what it kept for them: they seal to the keys of before.
    pub untold: Vec<String>,
}

impl Vault {
    /// Begins a new epoch: what sealers seal once they have heard of it opens by new identities, which every way in gets.
    ///
    /// # Errors
    /// `Unsupported` if a way in has no card, or is damaged; `Conflict` if another owner rotates at the same moment.
    pub fn rotate(&self, owner: &OwnerKeys) -> Result<Rotation> {
        owner.check_current()?;
        let (mut recipients, mut ways) = (Vec::new(), Vec::new());
        for (way, standing) in self.ways(owner)? {
            match standing {
                Standing::Counts(card) | Standing::Behind(card) => {
                    recipients.push(card.recipient);
                    ways.push(way);
                }
                Standing::Removed => (),
                Standing::Unproven { why, .. } => {
                    return Err(Error::unsupported(format!("{} cannot be given new keys", way.path())).because(why.chain()).hint(format!(
                        "add that way anew with coffre key add, if you know it, and remove this one: coffre key remove {}",
                        way.number
                    )));
                }
            }
        }
        let number = next_number(owner)?;
        let next = owner.of_epoch(number)?;
        let wraps: Vec<pack::Wrap> = recipients.iter().map(|r| r as pack::Wrap).collect();
        let epoch = pack::seal_whole(&wraps, signed::sign(&owner.sign, &next.encode())?.as_bytes())?;
        let signers = SignerList::load(&*self.store, Some(&owner.sign.public()))?.signers;
        let sealers: Vec<SealerKeys> = self.sealers(owner)?.into_iter().filter(|s| signers.revoked(&s.name).is_none()).collect();
        let lost = signers.0.iter().filter(|s| !s.owner && s.revoked.is_none() && sealers.iter().all(|there| there.name != s.name));
        let untold = lost.map(|s| s.name.clone()).collect();
        let mut indexes: Vec<Recipient> = Vec::new();
        for sealer in &sealers {
            let index = sealer.index_identity().to_public();
            // One line a domain, however many share it.
            if !indexes.iter().any(|known| known.to_string() == index.to_string()) {
                indexes.push(index);
            }
        }
        // The owners first: nobody may seal to keys that no owner has.
        put_key(&*self.store, &epoch_file(number), &epoch)?;
        self.tell(owner, number, &ways)?;
        if !indexes.is_empty() {
            let body = format!(
                "coffre-recipients 1\nvault {}\nepoch {number}\ndata {}\nmeta {}\n",
                self.config.id,
                next.data_recipient(),
                next.meta_recipient()
            );
            let wraps: Vec<pack::Wrap> = indexes.iter().map(|r| r as pack::Wrap).collect();
            put_key(&*self.store, &recipients_file(number), &pack::seal_whole(&wraps, signed::sign(&owner.sign, &body)?.as_bytes())?)?;
        }
        let removed = removed::list(&*self.store, &owner.sign.public(), self.config.id)?;
        if let Some(way) = ways.iter().find(|way| removed.contains(&way.path())) {
            return Err(Error::conflict(format!(
                "epoch {number} began, but {} was removed at the same moment and has its keys",
                way.path()
            ))
            .hint("rotate once more: coffre key rotate"));
        }
        Ok(Rotation { epoch: number, ways: recipients.len(), sealers: sealers.into_iter().map(|s| s.name).collect(), untold })
    }

    /// Tells everybody that epoch `number` began, and who has its keys.
    fn tell(&self, owner: &OwnerKeys, number: u32, ways: &[WayFile]) -> Result<()> {
        let ways: Vec<String> = ways.iter().map(|way| way.number.to_string()).collect();
        let text = format!("coffre-epoch 1\nvault {}\nepoch {number}\nways {}\n", self.config.id, ways.join(" "));
        self.put_twice(&told(number), text.as_bytes())?;
        self.put_twice(&signature_of(&told(number)), &owner.sign.sign(sign::REMOVED, text.as_bytes())?)
    }

    /// What `keys` should be from now on, if `owner`, the public key that this host trusts, told its domain of a newer epoch.
    ///
    /// A message that does not open, or is not signed, is passed over: what is sealed to the keys of before can be read by every owner.
    pub fn newer_recipients(&self, keys: &SealerKeys, owner: &str) -> Result<Option<SealerKeys>> {
        let index = keys.index_identity();
        for number in numbers(&key_names(&*self.store)?, "recipients-").into_iter().filter(|n| *n > keys.epoch) {
            let file = recipients_file(number);
            let read = either_copy(&*self.store, &file, |sealed| {
                let text = pack::open_whole(&[&index], sealed, &file)?;
                let body = signed::check(owner, &text, &file)?;
                let facts: HashMap<&str, &str> = body.lines().filter_map(|l| l.split_once(' ')).collect();
                let recipient = |name: &str| facts.get(name).and_then(|text| text.parse::<Recipient>().ok());
                let fits = facts.get("coffre-recipients") == Some(&"1")
                    && facts.get("vault") == Some(&self.config.id.to_string().as_str())
                    && facts.get("epoch") == Some(&number.to_string().as_str());
                match (fits, recipient("data"), recipient("meta")) {
                    (true, Some(data), Some(meta)) => Ok((data, meta)),
                    _ => Err(Error::corrupt(format!("keys/{file} cannot be understood"))),
                }
            });
            if let Ok((data, meta)) = read {
                return Ok(Some(keys.with_recipients(number, data, meta)));
            }
        }
        Ok(None)
    }
}

/// The number of the next epoch. Those are passed over that a file has which is none: anybody can put one there.
fn next_number(owner: &OwnerKeys) -> Result<u32> {
    let first = owner.epoch() + 1;
    (first..first + SKIPPED_MAX).find(|n| !owner.epochs_seen().contains(n)).ok_or_else(|| {
        Error::conflict(format!("keys/{} and those after it are there already, and no owner made them", epoch_file(first)))
            .hint("move them out of the vault, and out of parity/keys; ask who can write to it")
    })
}
