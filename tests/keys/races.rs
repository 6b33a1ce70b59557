//! Owners who change the ways in at the same moment, and storages that fail in the middle: a way is whole or not there, and one stays.

use std::sync::{Arc, Mutex};

use age::secrecy::ExposeSecret;
use coffre::{
    error::ErrorKind,
    store::{Fault, Faulty, Memory, Store},
    vault::{Domain, OwnerKeys, StateDir, Unlocking, Vault, Way, create, removed_keys},
};

use crate::common::library::{Hooked, identity, keys};

/// A vault in memory, and the keys of its ways in.
struct World {
    store: Arc<dyn Store>,
    vault: Vault,
    keys: Vec<String>,
}

impl World {
    fn new(ways: usize) -> Self {
        let store: Arc<dyn Store> = Arc::new(Memory::default());
        let identities: Vec<_> = (0..ways).map(|_| identity()).collect();
        let made: Vec<Way> = identities.iter().map(|identity| Way::Age(identity.to_public())).collect();
        let vault = create(store.clone(), &made, "host1").unwrap().vault;
        Self { store, vault, keys: identities.iter().map(|identity| identity.to_string().expose_secret().to_owned()).collect() }
    }

    /// The owner's keys by way `number`.
    fn owner(&self, number: usize) -> OwnerKeys {
        let mut unlocking = Unlocking::default();
        unlocking.add_identity_file("key", &self.keys[number - 1]).unwrap();
        unlocking.open(&*self.store, self.vault.config.id).unwrap()
    }

    /// The vault, for an owner in whose work another one comes, after the put of the first key that begins and ends so.
    fn interrupted(&self, prefix: &'static str, suffix: &'static str, other: impl FnMut() + Send + 'static) -> Vault {
        let mut other = other;
        let hook = Mutex::new(Some(Box::new(move |_| other()) as Box<_>));
        Vault { store: Arc::new(Hooked { inner: self.store.clone(), prefix, suffix, hook }), config: self.vault.config.clone() }
    }

    /// The files of ways in, each of which counts.
    fn files(&self, owner: &OwnerKeys) -> Vec<String> {
        let ways = self.vault.ways(owner).unwrap();
        let file = |(way, standing): &(coffre::vault::WayFile, coffre::vault::Standing)| {
            assert!(standing.counts(), "{}: {standing:?}", way.path());
            way.file().to_owned()
        };
        ways.iter().map(file).collect()
    }
}

#[test]
fn of_two_who_remove_the_last_two_ways_at_least_one_fails() {
    // The other one comes when the first has said what it removes, and not signed it yet; or has signed it.
    for suffix in ["0001", ".sig"] {
        let world = World::new(2);
        let (first, second) = (world.owner(1), Arc::new(world.owner(2)));
        let other = Arc::new(Mutex::new(None));
        let (vault, told) = (world.vault.clone(), other.clone());
        let racing = world.interrupted("keys/removed.", suffix, move || {
            let ways = vault.ways(&second).unwrap();
            *told.lock().unwrap() = Some(vault.remove_way(&second, &ways[1].0).map_err(|e| e.kind()));
        });
        let ways = racing.ways(&first).unwrap();
        let done = [racing.remove_way(&first, &ways[0].0).map_err(|e| e.kind()), other.lock().unwrap().take().unwrap()];
        assert_eq!(done.iter().filter(|done| **done == Err(ErrorKind::Conflict)).count(), 1, "{suffix}: {done:?}");
        let left = if done[0].is_ok() { 2 } else { 1 };
        let owner = world.owner(left);
        assert_eq!(world.files(&owner), [format!("owner-000{left}-age.age")], "{suffix}");
        let removed = removed_keys(&*world.store, &owner.sign.public(), world.vault.config.id).unwrap();
        assert_eq!(removed.len(), 2, "{suffix}: {removed:?}");
    }
}

#[test]
fn a_way_that_is_added_while_keys_rotate_has_the_new_ones_or_is_not_there() {
    // After its card, when nobody sees the way yet; and after its file.
    for place in ["keys/way-0002", "keys/owner-0002"] {
        let world = World::new(1);
        let (owner, other) = (world.owner(1), world.owner(1));
        let vault = world.vault.clone();
        let racing = world.interrupted(place, "", move || drop(vault.rotate(&other).unwrap()));
        let added = racing.add_way(&owner, &Way::Age(identity().to_public()), None, "now");
        assert_eq!(added.err().map(|e| e.kind()), Some(ErrorKind::Conflict), "{place}");
        let owner = world.owner(1);
        assert_eq!((owner.epoch(), world.files(&owner)), (2, vec!["owner-0001-age.age".to_owned()]), "{place}");
        // As the hint says: once more, and it has the keys.
        world.vault.add_way(&owner, &Way::Age(identity().to_public()), None, "now").unwrap();
        assert_eq!(world.files(&owner).len(), 2);
    }
}

#[test]
fn a_way_that_is_removed_while_keys_rotate_is_told() {
    let world = World::new(2);
    let (owner, other) = (world.owner(1), world.owner(1));
    let vault = world.vault.clone();
    let racing = world.interrupted("keys/epoch-0002", "", move || {
        let ways = vault.ways(&other).unwrap();
        vault.remove_way(&other, &ways[1].0).unwrap();
    });
    let error = racing.rotate(&owner).unwrap_err();
    assert!(error.chain().contains("owner-0002-age.age was removed at the same moment"), "{}", error.chain());
    assert_eq!(world.vault.rotate(&world.owner(1)).unwrap().ways, 1);
}

#[test]
fn two_who_add_at_once_get_two_numbers() {
    for place in ["parity/keys/way-0002", "keys/way-0002", "parity/keys/owner-0002"] {
        let world = World::new(1);
        let (owner, other) = (world.owner(1), world.owner(1));
        let vault = world.vault.clone();
        let racing = world.interrupted(place, "", move || {
            let added = vault.add_way(&other, &Way::Age(identity().to_public()), Some("b"), "now").unwrap();
            assert_eq!(added.number, 3);
        });
        let added = racing.add_way(&owner, &Way::Age(identity().to_public()), Some("a"), "now").unwrap();
        assert_eq!(added.number, 2, "{place}");
        assert_eq!(world.files(&owner), ["owner-0001-age.age", "owner-0002-a-age.age", "owner-0003-b-age.age"]);
        assert_eq!(world.vault.rotate(&owner).unwrap().ways, 3);
    }
}

#[test]
fn an_add_that_fails_anywhere_leaves_nothing_that_is_in_the_way() {
    let world = World::new(1);
    let count = {
        let calls = Arc::new(Faulty::new(Shared(world.store.clone())));
        let vault = Vault { store: calls.clone(), config: world.vault.config.clone() };
        vault.add_way(&world.owner(1), &Way::Age(identity().to_public()), None, "now").unwrap();
        calls.calls()
    };
    assert!(count > 5, "{count} calls");
    let faults = (0..count).flat_map(|n| [Fault::CrashAt(n), Fault::CrashAfter(n), Fault::FailOnceAt(n)]);
    for fault in faults.chain([100, 700, 1400, 2000, 2600].map(Fault::FullAfter)) {
        let world = World::new(1);
        let owner = world.owner(1);
        let faulty = Arc::new(Faulty::new(Shared(world.store.clone())));
        let vault = Vault { store: faulty.clone(), config: world.vault.config.clone() };
        faulty.set(Some(fault));
        let added = vault.add_way(&owner, &Way::Age(identity().to_public()), None, "now");
        faulty.set(None);
        let files = world.files(&owner);
        assert!(files.len() == 1 || added.is_ok() || matches!(fault, Fault::CrashAt(_) | Fault::CrashAfter(_)), "{fault:?}: {files:?}");
        assert_eq!(world.vault.rotate(&owner).unwrap().ways, files.len(), "{fault:?}");
        let again = world.vault.add_way(&world.owner(1), &Way::Age(identity().to_public()), None, "now");
        assert!(again.is_ok(), "{fault:?}");
        assert!(keys(&*world.store, "keys/owner-").len() <= 3);
    }
}

/// A store that several use.
struct Shared(Arc<dyn Store>);

impl Store for Shared {
    fn put(&self, key: &coffre::store::Key, bytes: &[u8]) -> coffre::error::Result<()> {
        self.0.put(key, bytes)
    }
    fn begin(&self) -> coffre::error::Result<Box<dyn coffre::store::Upload>> {
        self.0.begin()
    }
    fn get(&self, key: &coffre::store::Key, offset: u64, buf: &mut [u8]) -> coffre::error::Result<()> {
        self.0.get(key, offset, buf)
    }
    fn stat(&self, key: &coffre::store::Key) -> coffre::error::Result<Option<u64>> {
        self.0.stat(key)
    }
    fn list(&self, prefix: &str, each: &mut dyn FnMut(coffre::store::Key, u64) -> coffre::error::Result<()>) -> coffre::error::Result<()> {
        self.0.list(prefix, each)
    }
    fn delete(&self, key: &coffre::store::Key) -> coffre::error::Result<()> {
        self.0.delete(key)
    }
    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[test]
fn of_two_who_use_one_token_the_second_is_told_so_whenever_the_first_is_done() {
    // The first one is done before the second has claimed the token, or after that was refused.
    for claimed in [false, true] {
        let world = World::new(1);
        let token = Arc::new(world.vault.add_sealer(&world.owner(1), "web2", &Domain::Own).unwrap().token);
        let dirs = [0, 1].map(|_| tempfile::tempdir().unwrap());
        let [first, second] = dirs.each_ref().map(|dir| StateDir::new(dir.path(), world.vault.config.id));
        if claimed {
            world.vault.redeem(&token, &first).unwrap();
        }
        let (vault, done) = (world.vault.clone(), token.clone());
        let racing = world.interrupted("enrol/", ".claim", move || vault.forget_token(&done).unwrap());
        assert_eq!(racing.redeem(&token, &second).map(drop).map_err(|e| e.kind()), Err(ErrorKind::WrongKey), "{claimed}");
        assert_eq!(keys(&*world.store, "enrol/"), [], "{claimed}");
    }
}
