//! A new vault.

use std::sync::Arc;

use crate::{
    error::{Error, Result},
    format::{Config, VaultId},
    store::{self, Key, Store},
    sys,
    vault::{
        PUBLIC_LEN_MAX, Vault,
        admit::Prepared,
        enrol::{check_name, put_sealer},
        keys::{OwnerKeys, SealerKeys},
        recipe,
        recipients::Way,
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

/// Creates a vault without parity that opens in each of `ways`, with one sealer `name`.
///
/// `VAULT` goes last: until it stands, there is no vault, and what was written is removed if anything fails.
///
/// # Errors
/// `Conflict` if `store` holds anything already.
pub fn create(store: Arc<dyn Store>, ways: &[Way], name: &str) -> Result<Created> {
    create_with(store, ways, name, Promise::default())
}

/// What a vault promises about its objects, for its life.
#[derive(Clone, Copy, Debug, Default)]
pub struct Promise {
    /// So much of a hundred of each object may be lost and can be mended.
    pub parity: u8,
    /// For so many days the store holds each object against everybody; 0: it is not asked to.
    pub lock_days: u32,
}

/// The same, with promises.
///
/// # Errors
/// `Unsupported` if the store cannot hold objects, and is to.
pub fn create_with(store: Arc<dyn Store>, ways: &[Way], name: &str, promise: Promise) -> Result<Created> {
    check_name(name)?;
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
    if promise.lock_days > 0 && !store.holds()?.locks {
        return Err(Error::unsupported(format!("{} cannot hold objects against everybody", store.describe()))
            .hint("object lock is switched on when a bucket is made; or leave --object-lock out"));
    }
    store.hold(promise.lock_days);
    let id = VaultId(sys::random()?);
    let owner = OwnerKeys::generate(id)?;
    let sealer = owner.new_sealer(name)?;
    let config = Config { parity: promise.parity, lock_days: promise.lock_days, ..Config::new(id) };
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
    let mut number = 0;
    for way in ways {
        number = Prepared::new(owner, way)?.put(store, owner, number + 1, None, "with the vault")?.number;
    }
    put_sealer(store, owner, sealer)?;
    SignerList::create(store, owner, sealer)?;
    if config.parity > 0 {
        store.put(&Key::fixed("VAULT").second(), &config.encode())?;
        for key in ["README.txt", "RESTORE.py", "signers/allowed_signers", "signers/allowed_signers.sig"].map(Key::fixed) {
            store.put(&key.second(), &store::get_all(store, &key, PUBLIC_LEN_MAX)?)?;
        }
    }
    store.put(&Key::fixed("VAULT"), &config.encode())
}
