//! Epochs: a new pair of data and meta identities for what is sealed from now on.
//!
//! `keys/epoch-NNNN.age` gives all pairs to the ways in that there are, by the identities that lie in their files.
//! `keys/recipients-NNNN.age` tells the sealers what to seal to, by the index identities of their domains. Both are signed
//! inside: what they are sealed to is known to more than the owners.

use std::collections::HashMap;

use crate::{
    error::{Error, Result},
    pack::{self, Recipient},
    store::{self, Store},
    vault::{
        Vault,
        enrol::put_key,
        keys::{OwnerKeys, SealerKeys},
        signed,
        signers::SignerList,
        ways::{either_copy, way_files},
    },
};

fn number_of(file: &str, prefix: &str) -> Option<u32> {
    file.strip_prefix(prefix)?.strip_suffix(".age")?.parse().ok()
}

/// The numbers of the files with `prefix`, newest first.
fn numbers(store: &dyn Store, prefix: &str) -> Result<Vec<u32>> {
    let mut numbers = Vec::new();
    for folder in ["keys", "parity/keys"] {
        numbers.extend(store::list_all(store, folder)?.iter().filter_map(|(key, _)| number_of(key.file_name(), prefix)));
    }
    numbers.sort_unstable_by(|a, b| b.cmp(a));
    numbers.dedup();
    Ok(numbers)
}

pub(super) fn epoch_file(number: u32) -> String {
    format!("epoch-{number:04}.age")
}

fn recipients_file(number: u32) -> String {
    format!("recipients-{number:04}.age")
}

/// Brings keys that a way's file gave up to the newest epoch that is open to that way.
///
/// # Errors
/// Those of the store. An epoch that is not for this way leaves the keys as they are, and them knowing that.
pub(super) fn follow(store: &dyn Store, keys: OwnerKeys) -> Result<OwnerKeys> {
    let newer: Vec<u32> = numbers(store, "epoch-")?.into_iter().filter(|n| *n > keys.epoch()).collect();
    let Some(way) = keys.way().cloned() else { return Ok(keys.with_newer(None, newer.first().copied())) };
    for number in &newer {
        let file = epoch_file(*number);
        let opened = either_copy(store, &file, |sealed| {
            let text = pack::open_whole(&[&way], sealed, &file)?;
            let body = signed::check(&keys.sign.public(), &text, &file)?;
            let newer = OwnerKeys::decode(body, keys.vault())?;
            match newer.epoch() == *number && newer.sign.public() == keys.sign.public() {
                true => Ok(newer),
                false => Err(Error::corrupt(format!("keys/{file} holds other keys than it should"))),
            }
        });
        if let Ok(opened) = opened {
            return Ok(keys.with_newer(Some(opened), newer.first().copied()));
        }
    }
    Ok(keys.with_newer(None, newer.first().copied()))
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
}

impl Vault {
    /// Begins a new epoch: what sealers seal once they have heard of it opens by new identities, which every way in gets.
    ///
    /// # Errors
    /// `Unsupported` if a way in has no card, or is damaged; `Conflict` if another owner rotates at the same moment.
    pub fn rotate(&self, owner: &OwnerKeys) -> Result<Rotation> {
        owner.check_current()?;
        let mut recipients = Vec::new();
        for way in way_files(&*self.store)? {
            let card = self.card(owner, &way).map_err(|e| {
                Error::unsupported(format!("{} cannot be given new keys", way.path()))
                    .because(e.chain())
                    .hint(format!("add that way anew with coffre key add, and remove this one: coffre key remove {}", way.number))
            })?;
            recipients.push(card.recipient);
        }
        let next = owner.next_epoch()?;
        let number = next.epoch();
        let wraps: Vec<pack::Wrap> = recipients.iter().map(|r| r as pack::Wrap).collect();
        let epoch = pack::seal_whole(&wraps, signed::sign(&owner.sign, &next.encode())?.as_bytes())?;
        let signers = SignerList::load(&*self.store, Some(&owner.sign.public()))?.signers;
        let sealers: Vec<SealerKeys> = self.sealers(owner)?.into_iter().filter(|s| signers.revoked(&s.name).is_none()).collect();
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
        Ok(Rotation { epoch: number, ways: recipients.len(), sealers: sealers.into_iter().map(|s| s.name).collect() })
    }

    /// What `keys` should be from now on, if `owner`, the public key that this host trusts, told its domain of a newer epoch.
    ///
    /// A message that does not open, or is not signed, is passed over: what is sealed to the keys of before can be read by every owner.
    pub fn newer_recipients(&self, keys: &SealerKeys, owner: &str) -> Result<Option<SealerKeys>> {
        let index = keys.index_identity();
        for number in numbers(&*self.store, "recipients-")?.into_iter().filter(|n| *n > keys.epoch) {
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
