//! The recovery kit: one page that a person keeps on paper, with a way in on it that needs nothing of `keys/`.

use crate::{
    error::{Error, ErrorKind, Result},
    format::{VaultId, armor, dearmor, unhex},
    store::{self, Key, Store},
    vault::{
        OwnerKeys, Unlocking, Vault,
        enrol::put_key,
        epochs::{epoch_file, epoch_in, number_of_epoch},
        owners::KEY_FILE_LEN_MAX,
        recipients::shortened,
        removed,
        ways::{WayFile, either_copy, way_files},
    },
};

/// Longest kit read, in bytes.
pub const KIT_LEN_MAX: u64 = 1 << 20;

/// Most lines about ways in.
const LISTED_MAX: usize = 4;

/// What stands between the ways and the blocks: with a block for an RSA key of 4096 bits, a page of 60 lines of 80 characters.
const PAGE: &str = "
Keep, apart from this machine and from the vault: the passphrase or private key
file of one of these; this page; a second copy of the vault (any plain copy is
complete). Without a way in, nobody can read the vault, and nobody can help.

To restore with coffre (keys/ gone? this page as file KIT, second line first):
  coffre --vault PLACE mount DIR          then copy out of DIR/latest
  coffre --vault PLACE key restore KIT

To restore without coffre (Debian: apt-get install age zstd python3):
  cd PLACE
  UNLOCK > /dev/shm/id
  python3 RESTORE.py /dev/shm/id DEST
  rm /dev/shm/id
If keys/ is gone, put what is below, from BEGIN to END, into the file that is
named above it. It opens by the key of way NUMBER.
";

impl Vault {
    /// Returns the recovery kit as text: what to keep, where, one way in, and the exact stock commands.
    ///
    /// `which` is the way that is printed; the others are named. The page opens nothing without that way's key.
    ///
    /// # Errors
    /// `Missing` if there is no way in; `Conflict` if `which` opens not all that is sealed now.
    pub fn recovery_kit(&self, owner: &OwnerKeys, which: Option<&WayFile>) -> Result<String> {
        let mut ways = self.ways(owner)?;
        ways.retain(|(way, standing)| standing.counts() || which == Some(way));
        let used = || ways.iter().find(|(way, _)| Some(way.file()) == owner.came_by()).or(ways.first());
        let (which, standing) = match which {
            Some(which) => ways.iter().find(|(way, _)| way == which),
            None => used(),
        }
        .ok_or_else(|| Error::missing("the vault has no way in"))?;
        if !standing.counts() {
            return Err(Error::conflict(format!("{} does not open all that is sealed now", which.path()))
                .hint("coffre key list says why; add it anew, or print another one"));
        }
        let mut text = format!(
            "COFFRE RECOVERY KIT\nvault   {}\nplace   {}\nowner   {}\nThis vault opens with any one of:\n",
            self.config.id,
            self.store.describe(),
            owner.sign.public()
        );
        let listed = if ways.len() > LISTED_MAX { LISTED_MAX - 1 } else { ways.len() };
        for (way, standing) in &ways[..listed] {
            let what = standing.card().map_or_else(|| way.kind.clone(), |card| shortened(&card.what));
            text.push_str(&format!("  {}. {what}\n", way.number));
        }
        if ways.len() > listed {
            text.push_str(&format!("  and {} more: coffre key list\n", ways.len() - listed));
        }
        let unlock = match which.kind == "passphrase" {
            true => format!("age -d {}", which.path()),
            false => format!("age -d -i YOUR-KEY-FILE {}", which.path()),
        };
        text.push_str(&PAGE.replace("UNLOCK", &unlock).replace("NUMBER", &which.number.to_string()));
        let mut block = |file: &str| -> Result<()> {
            let bytes = either_copy(&*self.store, file, |bytes| Ok(bytes.to_vec()))?;
            text.push_str(&format!("\nkeys/{file}\n{}", armor(&bytes)));
            Ok(())
        };
        block(which.file())?;
        // A way that is older than the newest epoch gets the keys from there.
        if !standing.card().is_some_and(|card| card.holds_epoch(owner.epoch())) {
            match block(&epoch_file(owner.epoch())) {
                Err(e) if e.kind() == ErrorKind::Missing => (),
                other => other?,
            }
        }
        Ok(text)
    }

    /// Puts the key files of a kit back into the vault, once something opens all of them, and returns their names.
    ///
    /// # Errors
    /// `Conflict` if the kit is of another vault, or of a way that was removed; `WrongKey` if nothing that was brought opens its way in;
    /// `Corrupt` if a block holds a typing error.
    pub fn restore_kit(&self, kit: &str, unlocking: &Unlocking) -> Result<Vec<String>> {
        let mut files = self.files_of(kit)?;
        let ways: Vec<(String, Vec<u8>)> = files.iter().filter(|(name, _)| WayFile::parse(name).is_some()).cloned().collect();
        // Only what opens is worth keeping: a typing error would stay for ever.
        let keys = unlocking.open_files(&ways, self.config.id, &self.store.describe(), &|keys, _| Ok((keys, true)))?;
        self.check_not_removed(&keys)?;
        // A way that is as new as an epoch has its keys, and nobody here can tell whether the block is right.
        files.retain(|(name, _)| number_of_epoch(name).is_none_or(|number| number > keys.epoch()));
        for (name, bytes) in &files {
            if let (Some(number), Some(way)) = (number_of_epoch(name), keys.way()) {
                epoch_in(bytes, &keys, way, number).map_err(|e| {
                    Error::corrupt(format!("the block keys/{name} of the kit does not open by the way in that is above it"))
                        .because(e.chain())
                        .hint("look for a typing error in it; nothing was written")
                })?;
            }
        }
        let mut restored = Vec::new();
        for (name, bytes) in &files {
            if put_back(&*self.store, name, bytes)? {
                restored.push(format!("keys/{name}"));
            }
        }
        Ok(restored)
    }

    /// Fails if an owner removed the way by which `keys` were had, unless it is the only one left.
    fn check_not_removed(&self, keys: &OwnerKeys) -> Result<()> {
        let removed = removed::list(&*self.store, &keys.sign.public(), self.config.id)?;
        let others = || way_files(&*self.store).map(|ways| ways.iter().any(|way| !removed.contains(&way.path())));
        match keys.came_by().filter(|file| removed.contains(&format!("keys/{file}"))) {
            Some(file) if others()? => {
                Err(Error::conflict(format!("keys/{file} was removed from this vault by an owner, and other ways in are there"))
                    .hint("use one of them: coffre key list; coffre key kit prints a new kit"))
            }
            _ => Ok(()),
        }
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
        let is_ours = |name: &str| WayFile::parse(name).is_some() || number_of_epoch(name).is_some();
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
