//! The recovery kit: one page that a person keeps on paper, with a way in on it that needs nothing of `keys/`.

use crate::{
    error::{Error, ErrorKind, Result},
    format::{VaultId, armor, dearmor, unhex},
    store::{self, Key, Store},
    vault::{
        OwnerKeys, Unlocking, Vault,
        enrol::put_key,
        epochs::epoch_file,
        owners::KEY_FILE_LEN_MAX,
        ways::{WayFile, either_copy, way_files},
    },
};

/// Longest kit read, in bytes.
pub const KIT_LEN_MAX: u64 = 1 << 20;

impl Vault {
    /// Returns the recovery kit as text: what to keep, where, one way in, and the exact stock commands.
    ///
    /// `which` is the way that is printed; the others are named. The page opens nothing without that way's key.
    pub fn recovery_kit(&self, owner: &OwnerKeys, which: Option<&WayFile>) -> Result<String> {
        let ways = way_files(&*self.store)?;
        let which = which.or_else(|| ways.iter().find(|way| Some(way.file()) == owner.came_by())).or(ways.first());
        let which = which.ok_or_else(|| Error::missing("the vault has no way in"))?;
        let place = self.store.describe();
        let mut text = format!(
            "COFFRE RECOVERY KIT\n\n\
             vault   {}\n\
             place   {place}\n\
             owner   {}\n\n\
             This vault opens with any one of:\n",
            self.config.id,
            owner.sign.public()
        );
        for way in &ways {
            let what = self.card(owner, way).map_or_else(|_| way.kind.clone(), |card| card.what);
            text.push_str(&format!("  {}. {what}   ({})\n", way.number, way.path()));
        }
        text.push_str(
            "\nKeep, apart from this machine and apart from the vault:\n  \
             - the passphrase, or the private key file, of at least one way above;\n  \
             - this page;\n  \
             - a second copy of the vault itself (any plain copy of the directory is complete).\n\
             Without a way in, nobody can read the vault, and nobody can help.\n\n\
             To restore with coffre:\n  \
             coffre --vault PLACE mount DIR      then copy out of DIR/latest\n\
             If keys/ is gone from the vault, put this page into a file KIT first:\n  \
             coffre --vault PLACE key restore KIT\n\n\
             To restore without coffre (Debian: apt-get install age zstd python3):\n  cd PLACE\n",
        );
        let unlock = match which.kind == "passphrase" {
            true => format!("age -d {} > /dev/shm/id      # asks for the passphrase", which.path()),
            false => format!("age -d -i YOUR-KEY-FILE {} > /dev/shm/id", which.path()),
        };
        text.push_str(&format!("  {unlock}\n  python3 RESTORE.py /dev/shm/id DEST\n  rm /dev/shm/id\n"));
        text.push_str(&format!("If keys/ is gone, the file is this (from BEGIN to END); it needs the key of way {}:\n\n", which.number));
        let mut block = |file: &str| -> Result<()> {
            let bytes = either_copy(&*self.store, file, |bytes| Ok(bytes.to_vec()))?;
            text.push_str(&format!("keys/{file}\n{}", armor(&bytes)));
            Ok(())
        };
        block(which.file())?;
        // A way that is older than the newest epoch gets the keys from there: age -d -i id.
        if owner.epoch() > 1 {
            match block(&epoch_file(owner.epoch())) {
                Err(e) if e.kind() == ErrorKind::Missing => (),
                other => other?,
            }
        }
        Ok(text)
    }

    /// Puts the key files of a kit back into the vault, once something opens them, and returns their names.
    ///
    /// # Errors
    /// `Conflict` if the kit is of another vault; `WrongKey` if nothing that was brought opens its way in.
    pub fn restore_kit(&self, kit: &str, unlocking: &Unlocking) -> Result<Vec<String>> {
        let files = self.files_of(kit)?;
        let ways: Vec<(String, Vec<u8>)> = files.iter().filter(|(name, _)| WayFile::parse(name).is_some()).cloned().collect();
        // Only what opens is worth keeping: a typing error would stay for ever.
        unlocking.open_files(&ways, self.config.id, &self.store.describe())?;
        let mut restored = Vec::new();
        for (name, bytes) in &files {
            if put_back(&*self.store, name, bytes)? {
                restored.push(format!("keys/{name}"));
            }
        }
        Ok(restored)
    }

    fn files_of(&self, kit: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let id = kit.lines().find_map(|l| unhex::<16>(l.trim().strip_prefix("vault ")?.trim())).map(VaultId);
        match id {
            Some(id) if id != self.config.id => {
                return Err(Error::conflict(format!("the kit is of vault {id}, and this is vault {}", self.config.id))
                    .hint("check --vault, and which kit this is"));
            }
            _ => (),
        }
        let is_ours = |name: &str| WayFile::parse(name).is_some() || name.strip_prefix("epoch-").is_some_and(|n| n.ends_with(".age"));
        let files: Vec<(String, Vec<u8>)> = dearmor(kit)?
            .into_iter()
            .filter_map(|(before, bytes)| Some((before.strip_prefix("keys/").filter(|name| is_ours(name))?.to_owned(), bytes)))
            .filter(|(name, _)| Key::parse(&format!("keys/{name}")).is_some())
            .collect();
        match files.iter().any(|(name, _)| WayFile::parse(name).is_some()) {
            true => Ok(files),
            false => Err(Error::usage("there is no way in in this text")
                .hint("a kit has a line such as keys/owner-0001-age.age, and -----BEGIN AGE ENCRYPTED FILE----- below it")),
        }
    }
}

/// Stores a key file and its second copy where they are missing. Returns whether anything was.
fn put_back(store: &dyn Store, name: &str, bytes: &[u8]) -> Result<bool> {
    let there =
        |folder: &str| store::get_all(store, &Key::fixed(format!("{folder}/{name}")), KEY_FILE_LEN_MAX).is_ok_and(|have| have == bytes);
    if there("keys") && there("parity/keys") {
        return Ok(false);
    }
    put_key(store, name, bytes).map(|()| true).map_err(|e| match e.kind() {
        ErrorKind::Conflict => e.hint("the vault has another file of that name; if that one is damaged, move it away first"),
        _ => e,
    })
}
