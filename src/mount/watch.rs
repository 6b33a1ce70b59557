//! Notices new and forgotten snapshots while a mount is up.

use std::{collections::HashSet, ffi::OsStr, sync::Arc, time::Duration};

use fuser::{INodeNo, Notifier};

use crate::{
    error::Result,
    event::{Event, Sink},
    mount::{
        inode::{ROOT, SNAPSHOTS},
        view::Views,
    },
    sys::{Cancel, Clock},
    vault::{Journal, Reader, SignerList, Snapshot, load_snapshot, not_offered, signed_records, sort},
};

/// How often the vault is looked at: listings of `snaps/` and `gc/`, so that a new snapshot shows within two seconds.
const EVERY: Duration = Duration::from_millis(1000);

/// The same where each listing is a request that somebody pays for.
const EVERY_FAR: Duration = Duration::from_secs(10);

/// What the watcher knows.
pub struct Watch {
    pub reader: Arc<Reader>,
    pub views: Arc<Views>,
    pub sink: Arc<dyn Sink>,
    pub snapshots: Vec<Snapshot>,
    seen: Vec<String>,
    /// Whether the mount answers no extended attributes; snapshots that have some are then worth a word.
    pub without_xattrs: bool,
}

impl Watch {
    /// Reads all snapshots for the first time.
    pub fn start(reader: Arc<Reader>, views: Arc<Views>, sink: Arc<dyn Sink>) -> Result<Self> {
        let mut watch = Self { reader, views, sink, snapshots: Vec::new(), seen: Vec::new(), without_xattrs: false };
        watch.look()?;
        Ok(watch)
    }

    /// Takes up what changed; true if anything did.
    fn look(&mut self) -> Result<bool> {
        let vault = &self.reader.vault;
        vault.store.refresh();
        let mut signed: Vec<String> = Vec::new();
        vault.store.list("snaps", &mut |key, _| {
            if key.as_str().ends_with(".b3.sig") {
                signed.push(key.as_str().to_owned());
            }
            Ok(())
        })?;
        // What was forgotten goes as quickly as what is new comes.
        signed.extend(signed_records(vault)?);
        // A new list of signers may take some of them away.
        vault.store.list("signers", &mut |key, _| {
            signed.push(key.as_str().to_owned());
            Ok(())
        })?;
        signed.sort_unstable();
        if signed == self.seen {
            return Ok(false);
        }
        let signers = SignerList::load(&*vault.store, Some(&self.reader.owner.sign.public()))?;
        let journal = Journal::load(vault, Some(&self.reader.owner.sign.public()))?;
        let chain = vault.chain(&signers, |_| 0)?;
        let mut snapshots = Vec::with_capacity(chain.committed.len());
        let known: std::collections::HashMap<_, _> = self.snapshots.drain(..).map(|s| (s.id, s)).collect();
        for committed in chain.committed.iter().filter(|committed| !journal.is_forgotten(&committed.id)) {
            match known.get(&committed.id).cloned().map_or_else(|| load_snapshot(vault, &self.reader.owner, committed), Ok) {
                Ok(snapshot) => snapshots.push(snapshot),
                Err(e) => self.sink.send(Event::Warning(format!("snapshot {} is not shown: {}", committed.key, e.chain()))),
            }
        }
        for finding in chain.findings.iter().cloned().chain(not_offered(&chain, &signers)).chain(journal.findings) {
            self.sink.send(Event::Warning(format!("{} is not shown: {}", finding.object, finding.text)));
        }
        sort(&mut snapshots);
        for problem in self.views.update(&signers, snapshots.clone()) {
            self.sink.send(Event::Warning(problem));
        }
        self.snapshots = snapshots;
        self.seen = signed;
        Ok(true)
    }

    /// Looks again and again, and tells the kernel what changed, until the mount ends.
    pub fn run(mut self, notifier: &Notifier, clock: &dyn Clock, ended: &Cancel) {
        let mut failing = false;
        let every = if self.reader.vault.store.is_far() { EVERY_FAR } else { EVERY };
        let mut next = clock.monotonic() + every;
        while !ended.is_cancelled() {
            clock.sleep(EVERY);
            if clock.monotonic() < next {
                continue;
            }
            next = clock.monotonic() + every;
            let (before, dirs) = (self.views.shown(), self.views.moving_dirs());
            match self.look() {
                Ok(false) => failing = false,
                Ok(true) => {
                    failing = false;
                    let now: HashSet<String> = self.views.shown().into_iter().collect();
                    let before: HashSet<String> = before.into_iter().collect();
                    // The kernel may no longer know these names; then there is nothing to forget. What it keeps of `history/`,
                    // which nobody has a list of, it asks for again after a moment, and finds its time moved.
                    for name in before.symmetric_difference(&now) {
                        let _ = notifier.inval_entry(INodeNo(SNAPSHOTS), OsStr::new(name));
                    }
                    let _ = notifier.inval_entry(INodeNo(ROOT), OsStr::new("latest"));
                    for dir in self.views.moving_dirs().into_iter().chain(dirs).collect::<HashSet<u64>>() {
                        let _ = notifier.inval_inode(INodeNo(dir), 0, 0);
                    }
                    if self.without_xattrs && self.views.has_xattrs() {
                        self.without_xattrs = false;
                        self.sink.send(Event::Note(
                            "a new snapshot has extended attributes, which this mount does not show; mount again to see them".to_owned(),
                        ));
                    }
                }
                // A vault that cannot be looked at now may be there again later; said once.
                Err(e) if !failing => {
                    failing = true;
                    self.sink.send(Event::Warning(format!("cannot look for new snapshots: {}", e.chain())));
                }
                Err(_) => (),
            }
        }
    }
}
