//! The vault that is attacked, and those who look at it afterwards.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
};

use coffre::{
    event::Silent,
    format::{PackKind, Receipt, SnapshotKey, digest},
    ops::{audit, revoke, verify},
    pack,
    store::{Key, Memory, Store},
    sys::{Cancel, Clock, SystemClock},
    vault::{Expected, Finding, SealerKeys, StateDir, Vault},
};

use crate::{
    Start,
    common::library::{Hooked, Host, Tree, copy_of, noise, objects, read_snapshot, temp, write_files},
};

/// Another vault.
pub struct Other {
    pub store: Memory,
    pub pack: Key,
}

pub struct World {
    _guard: tempfile::TempDir,
    pub host1: Host,
    pub host2: Host,
    /// Somebody whom no list names.
    nobody: SealerKeys,
    plain: Memory,
    revoked: Memory,
    raced: Memory,
    /// What host1 remembers after it was revoked, and after it raced.
    states: BTreeMap<&'static str, Host>,
    /// The vault two snapshots ago.
    pub old: Memory,
    pub other: Other,
    /// The data packs of the first and of the second snapshot.
    pub pack: Key,
    pub pack2: Key,
}

/// A part of a snapshot.
pub fn place(sealer: &str, seq: u64, suffix: &str) -> Key {
    Key::fixed(format!("snaps/{sealer}/{seq:010}.{suffix}"))
}

fn data_pack(host: &Host, seq: usize) -> Key {
    let reader = host.reader();
    let snapshots: Vec<_> = host.snapshots().into_iter().filter(|s| s.key.sealer == "host1").collect();
    let packs = &snapshots[seq - 1].manifest.new_packs;
    Key::pack(packs.iter().find(|p| reader.pack_index(p).unwrap().0 == PackKind::Data).unwrap())
}

impl World {
    pub fn new() -> Self {
        let (guard, dir) = temp();
        let store = Memory::default();
        let host1 = Host::create(Arc::new(store.clone()));
        let keys = host1.vault.enrol(&host1.owner, "host2").unwrap();
        let host2 = Host::with(host1.vault.clone(), host1.owner.clone(), keys);
        let seal = |host: &Host, n: u64| {
            write_files(&dir, &[(&format!("{n}"), &noise(40_000, n))]);
            host.seal(&[&dir]).unwrap();
        };
        seal(&host1, 1);
        seal(&host2, 2);
        seal(&host1, 3);
        let old = copy_of(&store);
        seal(&host1, 4);
        seal(&host2, 5);
        // host1 sees what host2 sealed, and remembers it.
        assert!(host1.verify(verify::Depth::Snapshots).unwrap().is_clean());
        let (pack, pack2) = (data_pack(&host1, 1), data_pack(&host1, 2));

        let plain = copy_of(&store);
        let revoked = copy_of(&store);
        let after = host1.fork(Arc::new(revoked.clone()));
        revoke::run(
            &after.vault,
            &after.state,
            &after.owner,
            "host1",
            revoke::From::Moment(SystemClock.now_ns() + 3_600_000_000_000),
            false,
        )
        .unwrap();
        seal(&host2.fork(Arc::new(revoked.clone())), 6);
        assert!(after.verify(verify::Depth::Snapshots).unwrap().is_clean());

        let raced = copy_of(&store);
        let clone = host1.fork(Arc::new(raced.clone()));
        let hooked = Arc::new(Hooked { inner: Arc::new(raced.clone()), prefix: "snaps/", suffix: ".age", hook: Mutex::default() });
        let racing = host1.fork(hooked.clone());
        let sources = dir.clone();
        *hooked.hook.lock().unwrap() = Some(Box::new(move |_| drop(clone.seal(&[&sources]).unwrap())));
        racing.seal(&[&dir]).unwrap();

        let elsewhere = Memory::default();
        let other = Host::create(Arc::new(elsewhere.clone()));
        (1..=3).for_each(|n| seal(&other, n));
        let other = Other { pack: data_pack(&other, 1), store: elsewhere };
        let nobody = host1.owner.new_sealer("nobody").unwrap();
        let states = BTreeMap::from([("plain", host1.fork(Arc::new(plain.clone()))), ("revoked", after), ("raced", racing)]);
        // Only its memory of heads is asked for, not its catalog.
        states.values().for_each(|host: &Host| drop(std::fs::remove_dir_all(host.state.catalog())));
        Self { _guard: guard, host1, host2, nobody, plain, revoked, raced, states, old, other, pack, pack2 }
    }

    fn state(&self, from: Start) -> &Host {
        &self.states[match from {
            Start::Plain => "plain",
            Start::Revoked => "revoked",
            Start::Raced => "raced",
        }]
    }

    /// A copy of the vault as it is before an attack.
    pub fn start(&self, from: Start) -> Memory {
        copy_of(match from {
            Start::Plain => &self.plain,
            Start::Revoked => &self.revoked,
            Start::Raced => &self.raced,
        })
    }

    /// Bytes that open with a known recipient and make no sense.
    pub fn forged(&self) -> Vec<u8> {
        pack::seal_whole(&[&self.host1.sealer.meta], b"forged").unwrap()
    }

    /// Writes a snapshot that goes on from `previous`, signed by `signer`; its manifest is made for a known recipient.
    pub fn forge(&self, store: &Memory, sealer: &str, seq: u64, previous: Option<(&str, u64)>, signer: Option<&str>) {
        let key = SnapshotKey { sealer: sealer.to_owned(), seq };
        let all = objects(store);
        let manifest = self.forged();
        store.put(&Key::manifest(&key), &manifest).unwrap();
        let mut receipt = Receipt::default();
        receipt.push(digest(&all[&Key::fixed("VAULT")]), "VAULT");
        if let Some((sealer, seq)) = previous {
            let before = place(sealer, seq, "b3");
            receipt.push(digest(&all[&before]), before.as_str());
        }
        receipt.push(digest(&manifest), key.manifest());
        store.put(&Key::receipt(&key), &receipt.encode()).unwrap();
        let keys = match signer {
            None => return,
            Some("host1") => &self.host1.sealer,
            Some("host2") => &self.host2.sealer,
            Some(_) => &self.nobody,
        };
        store.put(&Key::signature(&key), &keys.sign.sign("coffre-receipt-v1", &receipt.encode()).unwrap()).unwrap();
    }

    /// The object in few letters.
    fn short(&self, path: &str) -> String {
        let seq = |(sealer, file): (&str, &str)| {
            let (digits, suffix) = file.split_once('.')?;
            Some(format!("{sealer}/{}.{suffix}", digits.parse::<u64>().ok()?))
        };
        match path {
            _ if path == self.pack.as_str() => "pack".to_owned(),
            _ if path == self.pack2.as_str() => "pack2".to_owned(),
            _ if path == self.other.pack.as_str() => "other pack".to_owned(),
            _ => path
                .strip_prefix("snaps/")
                .and_then(|rest| seq(rest.split_once('/')?))
                .or_else(|| Some(format!("list{}", path.strip_prefix("signers/allowed_signers.000")?)))
                .unwrap_or_else(|| path.to_owned()),
        }
    }

    fn found<'a>(&self, findings: impl Iterator<Item = &'a Finding>, notices: &[Finding]) -> BTreeSet<String> {
        let line = |f: &Finding| format!("{} {}", f.kind.word(), self.short(&f.object));
        findings.map(line).chain(notices.iter().map(|f| format!("note: {}", line(f)))).collect()
    }

    /// What the host says that was attacked, with its memory and without an owner's key; and whether it is content.
    pub fn verify(&self, from: Start, store: &Memory) -> (bool, BTreeSet<String>) {
        let report = self.state(from).fork(Arc::new(store.clone())).verify_with(verify::Depth::Packs, None).unwrap();
        (report.is_clean(), self.found(report.damage.iter().chain(&report.forks).chain(&report.lost), &report.notices))
    }

    /// Whether the same host is content when it has an owner's key.
    pub fn deep_is_clean(&self, from: Start, store: &Memory) -> bool {
        self.state(from).fork(Arc::new(store.clone())).verify(verify::Depth::Chunks).unwrap().is_clean()
    }

    /// What the storage side says; `told` if somebody gave it the owner's key and the heads of before the attack.
    pub fn audit(&self, store: &Memory, told: bool) -> BTreeSet<String> {
        let vault = Vault { store: Arc::new(store.clone()), config: self.host1.vault.config.clone() };
        let owner = self.host1.owner.sign.public();
        let expect: Vec<Expected> =
            self.host1.state.heads().unwrap().iter().map(|(sealer, (_, id))| expected(sealer, &id.to_string())).collect();
        let context = audit::Context {
            vault: &vault,
            owner: told.then_some(&owner),
            state: &StateDir::new(Path::new("/nonexistent/coffre-test"), vault.config.id),
            expect: if told { &expect } else { &[] },
            clock: &SystemClock,
            sink: &Silent,
            cancel: &Cancel::default(),
            workers: 2,
        };
        let report = audit::run(&context).unwrap();
        self.found(report.findings.iter(), &report.notices)
    }

    /// Everything that the vault offers: each snapshot with its tree.
    pub fn contents(&self, store: &Memory) -> BTreeMap<String, Option<Tree>> {
        let host = self.host1.fork(Arc::new(store.clone()));
        let reader = host.reader();
        let (snapshots, _) = host.vault.snapshots(&host.owner).unwrap_or_default();
        snapshots.iter().map(|s| (s.id.to_string(), read_snapshot(&reader, s).ok())).collect()
    }
}

/// A head as somebody wrote it down.
pub fn expected(sealer: &str, head: &str) -> Expected {
    Expected::parse(&format!("{sealer}:{head}")).unwrap()
}
