//! A new vault, and a host's way into one.

use std::sync::Arc;

use crate::{
    error::{Error, Result},
    format::{Config, DomainId, VaultId, is_name},
    pack,
    store::{self, Key, Store},
    sys,
    vault::{
        Vault,
        keys::{OwnerKeys, SealerKeys},
        owners::{KEY_FILE_LEN_MAX, Way},
        recipe,
        signers::SignerList,
    },
};

/// What `create` made.
pub struct Created {
    /// The vault.
    pub vault: Vault,
    /// Its owner's keys.
    pub owner: OwnerKeys,
    /// The keys of its first sealer.
    pub sealer: SealerKeys,
}

/// Creates a vault that opens in each of `ways`, with one sealer `name`.
///
/// `VAULT` goes last: until it stands, there is no vault, and what was written is removed if anything fails.
///
/// # Errors
/// `Conflict` if `store` holds anything already.
pub fn create(store: Arc<dyn Store>, ways: &[Way], name: &str) -> Result<Created> {
    if !is_name(name) {
        return Err(
            Error::usage(format!("`{name}` cannot name a sealer")).hint("use 1 to 64 letters, digits, dots, dashes and underscores")
        );
    }
    if ways.is_empty() {
        return Err(Error::usage("a vault needs a way in").hint("give --recipient age1… or a passphrase"));
    }
    if store.stat(&Key::fixed("VAULT"))?.is_some() {
        return Err(Error::conflict(format!("a vault is already at {}", store.describe()))
            .hint("use it as it is, or choose another place; init never overwrites"));
    }
    if !store.is_empty()? {
        return Err(Error::conflict(format!("{} is not empty", store.describe()))
            .hint("give init an empty or a new directory; if an init was killed here before it was done, remove what it left first"));
    }
    let id = VaultId(sys::random()?);
    let owner = OwnerKeys::generate(id)?;
    let sealer = owner.new_sealer(name)?;
    let config = Config::new(id);
    match write_all(&*store, &config, &owner, &sealer, ways) {
        Ok(()) => Ok(Created { vault: Vault { store, config }, owner, sealer }),
        Err(e) => {
            // Nothing half-made stays; a failure here changes nothing about the first one.
            for (key, _) in store::list_all(&*store, "").unwrap_or_default() {
                let _ = store.delete(&key);
            }
            Err(e)
        }
    }
}

fn write_all(store: &dyn Store, config: &Config, owner: &OwnerKeys, sealer: &SealerKeys, ways: &[Way]) -> Result<()> {
    store.put(&Key::fixed("README.txt"), recipe::README.as_bytes())?;
    store.put(&Key::fixed("RESTORE.py"), recipe::RESTORE.as_bytes())?;
    for (n, way) in ways.iter().enumerate() {
        put_key(store, &format!("owner-{:04}-{}.age", n + 1, way.label()), &way.seal(owner.encode().as_bytes())?)?;
    }
    put_sealer(store, owner, sealer)?;
    SignerList::create(store, owner, sealer)?;
    store.put(&Key::fixed("VAULT"), &config.encode())
}

/// Stores a key file and its second copy.
fn put_key(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<()> {
    store.put(&Key::fixed(format!("parity/keys/{name}")), bytes)?;
    store.put(&Key::fixed(format!("keys/{name}")), bytes)
}

fn put_sealer(store: &dyn Store, owner: &OwnerKeys, sealer: &SealerKeys) -> Result<()> {
    let file = pack::seal_whole(&[&owner.meta_recipient()], sealer.encode().as_bytes())?;
    put_key(store, &format!("sealer-{}.age", sealer.name), &file)
}

impl Vault {
    /// The dedup domains of the sealers whose key files open.
    pub fn sealer_domains(&self, owner: &OwnerKeys) -> Result<Vec<DomainId>> {
        let files = store::list_all(&*self.store, "keys")?;
        let sealers = files.iter().filter(|(key, _)| key.file_name().starts_with("sealer-"));
        Ok(sealers.filter_map(|(key, _)| self.sealer_file(owner, key).ok()).map(|sealer| sealer.domain).collect())
    }

    fn sealer_file(&self, owner: &OwnerKeys, key: &Key) -> Result<SealerKeys> {
        let read = |key: &Key| {
            let file = store::get_all(&*self.store, key, KEY_FILE_LEN_MAX)?;
            let identities: Vec<pack::Unwrap> = owner.meta_identities().iter().map(|i| i as pack::Unwrap).collect();
            let text = pack::open_whole(&identities, &file, key.as_str())?;
            SealerKeys::decode(std::str::from_utf8(&text).map_err(|_| Error::corrupt(format!("{key} is not text")))?)
        };
        read(key).or_else(|e| read(&Key::fixed(format!("parity/{key}"))).map_err(|_| e))
    }

    /// Returns the keys with which this host seals as `name`: those that the vault keeps for it, or new ones.
    ///
    /// For a host that lost its state directory, or never had one, and an owner who is present.
    pub fn enrol(&self, owner: &OwnerKeys, name: &str) -> Result<SealerKeys> {
        let list = SignerList::load(&*self.store, Some(&owner.sign.public()))?;
        if let Some(revoked) = list.signers.revoked(name) {
            return Err(Error::wrong_key(format!("sealer {name} is revoked since {}: a name is never used again", revoked.since_text()))
                .hint("give this machine another host name, or make a sealer of another name: coffre key add --sealer NAME"));
        }
        if list.signers.sealer(name).is_some() {
            let key = Key::fixed(format!("keys/sealer-{name}.age"));
            let keys = self.sealer_file(owner, &key)?;
            return match keys.vault == self.config.id && keys.name == name {
                true => Ok(keys),
                false => Err(Error::corrupt(format!("{key} holds the keys of another sealer"))),
            };
        }
        let sealer = owner.new_sealer(name)?;
        put_sealer(&*self.store, owner, &sealer)?;
        list.add(&*self.store, owner, &sealer)?;
        Ok(sealer)
    }
}
