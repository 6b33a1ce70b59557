//! Ways in come and go. Whatever happens in between, and whoever does the same at the same moment: a way is whole or not there, and one stays.

use crate::{
    error::{Error, ErrorKind, Result},
    format::{digest, is_name},
    pack::{self, Identity},
    store::{Key, Store},
    vault::{
        Vault,
        cards::Standing,
        epochs,
        keys::OwnerKeys,
        recipients::Way,
        removed, signed,
        ways::{WayFile, card_file, key_names, number_of_card},
    },
};

/// Longest name of a way.
const NAME_LEN_MAX: usize = 32;
/// How often the next number is tried when another owner took the one before.
const ATTEMPTS: u32 = 16;

/// A way in that is sealed and not stored yet. All that can fail for its own sake has not failed.
pub(super) struct Prepared {
    identity: Identity,
    sealed: Vec<u8>,
    kind: &'static str,
    what: String,
}

impl Prepared {
    /// Seals the owner's keys to `way`.
    pub fn new(owner: &OwnerKeys, way: &Way) -> Result<Self> {
        let identity = Identity::generate();
        let sealed = way.seal(owner.encode_for(&identity).as_bytes())?;
        Ok(Self { identity, sealed, kind: way.label(), what: way.describe().replace('\n', " ") })
    }

    /// Stores it under `number` or the first one after that which is free: its card, which takes the number, then its file. Leaves nothing if it fails.
    pub fn put(&self, store: &dyn Store, owner: &OwnerKeys, number: u32, name: Option<&str>, added: &str) -> Result<WayFile> {
        for number in number..number.saturating_add(ATTEMPTS) {
            let file = WayFile::new(number, name, self.kind);
            let body = format!(
                "coffre-way 1\nvault {}\nfile {}\ndigest {}\nrecipient {}\nepoch {}\nadded {added}\nwhat {}\n",
                owner.vault(),
                file.file(),
                digest(&self.sealed),
                self.identity.to_public(),
                owner.epoch(),
                self.what,
            );
            let card = pack::seal_whole(&[&owner.meta_recipient()], signed::sign(&owner.sign, &body)?.as_bytes())?;
            match put_both(store, &card_file(number), &card) {
                Err(e) if e.kind() == ErrorKind::Conflict => continue,
                other => other?,
            }
            return match put_both(store, file.file(), &self.sealed) {
                Ok(()) => Ok(file),
                Err(e) => {
                    // A card without a file is nothing: that it stays, if it must, harms nobody.
                    let _ = take_both(store, &card_file(number));
                    Err(e)
                }
            };
        }
        Err(Error::conflict("other owners add ways in at the same moment, again and again").hint("try again"))
    }
}

/// Stores a key file and its second copy: both, or, as far as the storage lets us, none.
fn put_both(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<()> {
    let second = Key::fixed(format!("parity/keys/{name}"));
    store.put(&second, bytes)?;
    store.put(&Key::fixed(format!("keys/{name}")), bytes).inspect_err(|_| drop(store.delete(&second)))
}

fn take_both(store: &dyn Store, name: &str) -> Result<()> {
    // The second copy first: what is left over after a failure is seen where people look.
    ["parity/keys", "keys"].iter().try_for_each(|folder| {
        store.delete(&Key::fixed(format!("{folder}/{name}"))).map_err(|e| {
            e.while_doing(format!("cannot take {folder}/{name} out of the vault: it still opens it"))
                .hint("where the storage lets nothing be deleted, somebody who may must delete it there")
        })
    })
}

impl Vault {
    /// Adds ways in: all of them, or none.
    ///
    /// # Errors
    /// `Usage` if `name` cannot be a part of a file's name; `Unsupported` if a plugin is missing; `Conflict` if the keys were rotated meanwhile.
    pub fn add_ways(&self, owner: &OwnerKeys, ways: &[Way], name: Option<&str>, added: &str) -> Result<Vec<WayFile>> {
        self.check_may_add(owner)?;
        if let Some(name) = name.filter(|name| !is_name(name) || name.len() > NAME_LEN_MAX) {
            return Err(Error::usage(format!("`{name}` cannot name a way in")).hint(format!(
                "use 1 to {NAME_LEN_MAX} letters, digits, dots, dashes and underscores; the name can be read by everybody"
            )));
        }
        let prepared = ways.iter().map(|way| Prepared::new(owner, way)).collect::<Result<Vec<_>>>()?;
        let (mut done, mut next) = (Vec::new(), self.last_way_number(owner)?.saturating_add(1));
        let store_all = || {
            for way in &prepared {
                let file = way.put(&*self.store, owner, next, name, added)?;
                next = file.number.saturating_add(1);
                done.push(file);
            }
            // Whoever rotates lists the ways after the new epoch is stored, and these were stored before this: one of both sees the other.
            match epochs::began_since(&*self.store, owner)? {
                None => Ok(()),
                Some(epoch) => Err(Error::conflict(format!("epoch {epoch} of the vault's keys began meanwhile, and nothing was added"))
                    .hint("run the same command again: it adds the way in with the new keys")),
            }
        };
        let mut store_all = store_all;
        let stored = store_all();
        match stored {
            Ok(()) => Ok(done),
            Err(e) => {
                let left: Vec<String> =
                    done.iter().filter(|way| self.take_away(owner, way).is_err()).map(|way| way.number.to_string()).collect();
                Err(match left.is_empty() {
                    true => e,
                    false => e.hint(format!("some of it is in the vault, and cannot be taken back: coffre key remove {}", left.join(", "))),
                })
            }
        }
    }

    /// The same for one.
    pub fn add_way(&self, owner: &OwnerKeys, way: &Way, name: Option<&str>, added: &str) -> Result<WayFile> {
        let mut done = self.add_ways(owner, std::slice::from_ref(way), name, added)?;
        done.pop().ok_or_else(|| Error::bug("a way in was added, and is not there"))
    }

    /// Who came by a way that was removed adds none, unless nobody else is left who could.
    fn check_may_add(&self, owner: &OwnerKeys) -> Result<()> {
        match owner.is_removed() && owner.closed_epoch().is_none() && !self.ways(owner)?.iter().any(|(_, standing)| standing.counts()) {
            true => Ok(()),
            false => owner.check_current(),
        }
    }

    /// The highest number that a way or a card has or had.
    fn last_way_number(&self, owner: &OwnerKeys) -> Result<u32> {
        let removed = removed::list(&*self.store, &owner.sign.public(), self.config.id)?;
        let removed = removed.iter().filter_map(|path| path.strip_prefix("keys/"));
        let names = key_names(&*self.store)?;
        let number = |name: &str| WayFile::parse(name).map(|way| way.number).or_else(|| number_of_card(name));
        Ok(names.iter().map(String::as_str).chain(removed).filter_map(number).max().unwrap_or(0))
    }

    /// Removes a way in. Objects that receipts name go, so an owner signs that they do.
    ///
    /// # Errors
    /// `Conflict` if it is the last one, or would be, since another owner removes one at the same moment.
    pub fn remove_way(&self, owner: &OwnerKeys, way: &WayFile) -> Result<()> {
        owner.check_current()?;
        let ways = self.ways(owner)?;
        let others = |ways: &[(WayFile, Standing)]| ways.iter().any(|(w, standing)| w != way && standing.counts());
        if ways.iter().any(|(w, standing)| w == way && matches!(standing, Standing::Removed)) {
            return self.take_away(owner, way);
        }
        if !others(&ways) {
            return Err(Error::conflict(format!("{} is the last way into this vault that is sure to open it", way.path()))
                .hint("add another one first: coffre key add; without a way in nobody could read the vault"));
        }
        let statement = removed::put(&*self.store, owner, &[way.path(), format!("keys/{}", way.card())])?;
        // Of two who remove at once, at least one sees here what the other signed. Until now nothing is gone.
        if !others(&self.ways(owner)?) {
            removed::take_back(&*self.store, &statement)?;
            return Err(Error::conflict(format!(
                "another owner removes a way in at the same moment; {} is the last one then, and stays",
                way.path()
            ))
            .hint("look which ways there are, and try again: coffre key list"));
        }
        self.take_away(owner, way)
    }

    fn take_away(&self, owner: &OwnerKeys, way: &WayFile) -> Result<()> {
        // Two files of one number were possible once: the card is that of one of them.
        let is_its = self.card(owner, way).is_ok()
            || !key_names(&*self.store)?.iter().any(|name| WayFile::parse(name).is_some_and(|w| w != *way && w.number == way.number));
        take_both(&*self.store, way.file())?;
        if is_its { take_both(&*self.store, &way.card()) } else { Ok(()) }
    }
}
