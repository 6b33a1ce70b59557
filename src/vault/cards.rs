//! What the owners know of each way in, and whether it is worth anything.
//!
//! A way has an identity of its own that lies in its file and nowhere else; the card, sealed to the owners and signed by one, has the public
//! half. So whoever changes the vault's keys can give the new ones to every way without having any (`epochs`). A file without a card
//! that fits may be anything: whoever can write to the storage can put one there.

use std::collections::{BTreeSet, HashMap};

use crate::{
    error::{Error, Result},
    format::{Digest, digest, unhex},
    pack::{self, Recipient},
    vault::{
        Vault, epochs,
        keys::OwnerKeys,
        removed, signed,
        ways::{WayFile, either_copy, way_files},
    },
};

/// What the owners know of a way in.
#[derive(Clone, Debug)]
pub struct Card {
    /// Its file, and what that holds.
    pub(super) file: String,
    digest: Digest,
    /// The public half of the identity in it.
    pub recipient: Recipient,
    /// The public key, or `a passphrase`.
    pub what: String,
    /// When it was added, for people.
    pub added: String,
    /// The epoch whose keys its file holds; `None` in cards of before.
    epoch: Option<u32>,
}

impl Card {
    /// Whether the file itself holds the keys of `epoch`: no other one is needed.
    pub(super) fn holds_epoch(&self, epoch: u32) -> bool {
        epoch == 1 || self.epoch.is_some_and(|has| has >= epoch)
    }
}

/// What a way in is worth to the vault.
#[derive(Debug)]
pub enum Standing {
    /// Opens all that is sealed now.
    Counts(Card),
    /// Has not got the keys of the current epoch.
    Behind(Card),
    /// Without a card that fits: an older coffre made it, or it is damaged, or no owner made it at all. It is the one that was used if `used`.
    Unproven {
        /// What is wrong with its card.
        why: Error,
        /// Whether it just opened the vault.
        used: bool,
    },
    /// An owner removed it, and its file is there again.
    Removed,
}

impl Standing {
    /// Whether somebody who has its key can read all that is sealed now.
    pub fn counts(&self) -> bool {
        matches!(self, Self::Counts(_) | Self::Unproven { used: true, .. })
    }

    /// Its card, if it has one that fits.
    pub fn card(&self) -> Option<&Card> {
        match self {
            Self::Counts(card) | Self::Behind(card) => Some(card),
            _ => None,
        }
    }
}

impl Vault {
    /// Every file of a way in, by number, with what it is worth.
    pub fn ways(&self, owner: &OwnerKeys) -> Result<Vec<(WayFile, Standing)>> {
        let removed = removed::list(&*self.store, &owner.sign.public(), self.config.id)?;
        let told = match owner.epoch() {
            1 => None,
            epoch => epochs::ways_told(&*self.store, &owner.sign.public(), self.config.id, epoch)?,
        };
        let standing = |way: &WayFile| match removed.contains(&way.path()) {
            true => Standing::Removed,
            false => match self.card(owner, way) {
                Ok(card) if is_current(&card, way, owner.epoch(), told.as_ref()) => Standing::Counts(card),
                Ok(card) => Standing::Behind(card),
                Err(why) => Standing::Unproven { why, used: owner.came_by() == Some(way.file()) && owner.closed_epoch().is_none() },
            },
        };
        Ok(way_files(&*self.store)?.into_iter().map(|way| (way.clone(), standing(&way))).collect())
    }

    /// The card of a way.
    ///
    /// # Errors
    /// `Missing` if it has none: it was made by an older coffre. `Corrupt` if no owner made it, or for another file.
    pub(super) fn card(&self, owner: &OwnerKeys, way: &WayFile) -> Result<Card> {
        let identities: Vec<pack::Unwrap> = owner.meta_identities().iter().map(|i| i as pack::Unwrap).collect();
        let name = way.card();
        let broken = || Error::corrupt(format!("keys/{name} cannot be understood"));
        let card = either_copy(&*self.store, &name, |sealed| {
            let text = pack::open_whole(&identities, sealed, &name)?;
            let body = signed::check(&owner.sign.public(), &text, &name)?;
            let mut lines = body.lines();
            if lines.next() != Some("coffre-way 1") {
                return Err(broken());
            }
            let facts: HashMap<&str, &str> = lines.filter_map(|l| l.split_once(' ')).collect();
            let fact = |fact: &str| facts.get(fact).copied().ok_or_else(broken);
            if fact("vault")? != self.config.id.to_string() {
                return Err(broken());
            }
            Ok(Card {
                file: fact("file")?.to_owned(),
                digest: unhex(fact("digest")?).map(Digest::from_bytes).ok_or_else(broken)?,
                recipient: fact("recipient")?.parse().map_err(|_| broken())?,
                what: fact("what")?.to_owned(),
                added: fact("added")?.to_owned(),
                epoch: facts.get("epoch").map(|n| n.parse().map_err(|_| broken())).transpose()?,
            })
        })?;
        // Whoever can write to the storage could put another file under the name that an owner signed for.
        let is_its = either_copy(&*self.store, way.file(), |sealed| match digest(sealed) == card.digest && card.file == way.file() {
            true => Ok(()),
            false => Err(Error::corrupt(format!("{} is not what an owner made it", way.path()))),
        });
        is_its.map(|()| card)
    }
}

/// Whether a way has the keys of `epoch`: its file does, or it was there when they were made. `told` names those that were; an older
/// coffre told nobody, and gave them to all.
fn is_current(card: &Card, way: &WayFile, epoch: u32, told: Option<&BTreeSet<u32>>) -> bool {
    card.holds_epoch(epoch) || told.is_none_or(|ways| ways.contains(&way.number))
}
