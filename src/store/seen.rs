//! A store on a server, seen through what was seen of it before: objects never change, so what was read once need not be read again.
//!
//! For seals and mounts, which look at much and read little. One list shows all that is there, with the server's marks; small objects that bear
//! the mark they bore when they were read, or written, are those; what the list does not show is put without another look.
//! Nothing here outlives `refresh` but bytes by their mark, and a server without marks is asked everything.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{
    error::Result,
    format::digest,
    store::{Glimpse, Holds, Key, Store, Upload, short},
    sys,
};

/// Longest object kept, in bytes: receipts, signatures, lists and keys are shorter; the receipts of large first seals are not.
const KEPT_LEN_MAX: usize = 256 << 10;
/// Bytes kept in all.
const KEPT_BYTES_MAX: usize = 16 << 20;
/// Folders of which many vaults have few objects and a seal looks at all.
const FOLDERS: [&str; 4] = ["gc", "keys", "signers", "parity/keys"];
/// First line of the file.
const MAGIC: &str = "coffre-seen 1";

/// Wraps a store. What it keeps goes to the disk when it is dropped.
pub struct Seen {
    inner: Arc<dyn Store>,
    file: PathBuf,
    known: Arc<Mutex<Known>>,
}

/// Small objects with the server's marks of them.
type Kept = BTreeMap<Key, (String, Arc<[u8]>)>;

/// What lies below a folder; `None` if one request does not tell.
type Look = Option<BTreeMap<Key, Glimpse>>;

#[derive(Default)]
struct Known {
    looks: BTreeMap<String, Look>,
    kept: Kept,
    /// The vault is too large for one list.
    large: bool,
    changed: bool,
}

impl Seen {
    /// Takes up what was kept of the store in `dir`, if anything; a file that is damaged is as good as none.
    pub fn new(inner: Arc<dyn Store>, dir: &Path) -> Self {
        let name: String = digest(inner.describe().as_bytes()).to_string().chars().take(16).collect();
        let file = dir.join(name);
        let kept = std::fs::read(&file).ok().and_then(|bytes| decode(&bytes)).unwrap_or_default();
        Self { inner, file, known: Arc::new(Mutex::new(Known { kept, ..Known::default() })) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        lock(&self.known)
    }

    /// Looks below the folder that `path` is in, or is, if that was not done and may be worth it.
    fn look(&self, path: &str) -> Result<()> {
        if self.known().covering(path).is_some() {
            return Ok(());
        }
        let folder = match FOLDERS.iter().find(|folder| is_below(path, folder)) {
            _ if !self.known().large => "",
            Some(folder) => folder,
            None => return Ok(()),
        };
        if self.known().looks.contains_key(folder) {
            return Ok(());
        }
        let look: Look = self.inner.glance(folder)?.map(|found| found.into_iter().collect());
        let mut known = self.known();
        known.large |= folder.is_empty() && look.is_none();
        known.looks.insert(folder.to_owned(), look);
        drop(known);
        // A large vault is looked at folder by folder.
        if folder.is_empty() { self.look(path) } else { Ok(()) }
    }

    /// What the newest look says of `key`: nothing, or that it is there like this, or that it is not.
    fn glimpse(&self, key: &Key) -> Result<Option<Option<Glimpse>>> {
        self.look(key.as_str())?;
        Ok(self.known().covering(key.as_str()).map(|look| look.get(key).cloned()))
    }

    /// Notes what was put.
    fn note(&self, key: &Key, bytes: &[u8], tag: Option<String>) {
        let mut known = self.known();
        known.note(key, Glimpse { len: bytes.len() as u64, tag: tag.clone().unwrap_or_default() });
        if let Some(tag) = tag.filter(|_| !is_manifest(key)) {
            known.keep(key, tag, bytes);
        }
    }
}

/// Whether `path` is the folder `folder`, or below it.
fn is_below(path: &str, folder: &str) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether objects like this are worth keeping: those that are read again and again.
fn is_wanted(key: &Key, len: usize) -> bool {
    let bulk = ["packs/", "index/", "parity/", "damaged/"];
    len <= KEPT_LEN_MAX && !bulk.iter().any(|folder| key.as_str().starts_with(folder))
}

/// Manifests, which whoever seals cannot read.
fn is_manifest(key: &Key) -> bool {
    key.as_str().starts_with("snaps/") && key.as_str().ends_with(".age")
}

fn lock(known: &Mutex<Known>) -> MutexGuard<'_, Known> {
    known.lock().expect("nobody panics while holding what was seen")
}

impl Known {
    /// Adds an object to what looks showed.
    fn note(&mut self, key: &Key, glimpse: Glimpse) {
        for (folder, look) in &mut self.looks {
            if let Some(look) = look.as_mut().filter(|_| is_below(key.as_str(), folder)) {
                look.insert(key.clone(), glimpse.clone());
            }
        }
    }

    fn covering(&self, path: &str) -> Option<&BTreeMap<Key, Glimpse>> {
        self.looks.iter().find_map(|(folder, look)| look.as_ref().filter(|_| is_below(path, folder)))
    }

    fn keep(&mut self, key: &Key, tag: String, bytes: &[u8]) {
        if !tag.is_empty() && is_wanted(key, bytes.len()) {
            self.kept.insert(key.clone(), (tag, bytes.into()));
            self.changed = true;
        }
    }
}

impl Known {
    /// Keeps on the disk what is new, without what a look over all of the vault does not show any more.
    fn save(&mut self, file: &Path) {
        if !std::mem::take(&mut self.changed) {
            return;
        }
        if let Some(Some(all)) = self.looks.get("") {
            self.kept.retain(|key, (tag, _)| all.get(key).is_some_and(|seen| seen.tag == *tag));
        }
        // Whoever cannot keep anything asks again.
        let dir = file.parent().unwrap_or(Path::new("."));
        let _ = sys::create_private_dir(dir).and_then(|()| sys::replace(file, &encode(&self.kept)));
    }
}

impl Store for Seen {
    fn put(&self, key: &Key, bytes: &[u8]) -> Result<()> {
        match self.glimpse(key)? {
            Some(None) => {
                let tag = self.inner.put_new(key, bytes)?;
                self.note(key, bytes, tag);
                Ok(())
            }
            _ => self.inner.put(key, bytes),
        }
    }

    fn put_new(&self, key: &Key, bytes: &[u8]) -> Result<Option<String>> {
        self.inner.put_new(key, bytes)
    }

    fn begin(&self) -> Result<Box<dyn Upload>> {
        Ok(Box::new(SeenUpload { inner: self.inner.begin()?, known: self.known.clone(), len: 0 }))
    }

    fn get(&self, key: &Key, offset: u64, buf: &mut [u8]) -> Result<()> {
        let Some(Some(seen)) = self.glimpse(key)? else { return self.inner.get(key, offset, buf) };
        let kept =
            self.known().kept.get(key).filter(|(tag, bytes)| *tag == seen.tag && bytes.len() as u64 == seen.len).map(|(_, b)| b.clone());
        if let Some(kept) = kept {
            let from = usize::try_from(offset).unwrap_or(usize::MAX);
            let wanted = from.checked_add(buf.len()).and_then(|to| kept.get(from..to)).ok_or_else(|| short(key))?;
            buf.copy_from_slice(wanted);
            return Ok(());
        }
        self.inner.get(key, offset, buf)?;
        if offset == 0 && buf.len() as u64 == seen.len {
            self.known().keep(key, seen.tag, buf);
        }
        Ok(())
    }

    fn expect(&self, key: &Key, offset: u64, len: u64) {
        self.inner.expect(key, offset, len);
    }

    fn stat(&self, key: &Key) -> Result<Option<u64>> {
        match self.glimpse(key)? {
            Some(seen) => Ok(seen.map(|seen| seen.len)),
            None => self.inner.stat(key),
        }
    }

    fn stored_ns(&self, key: &Key) -> Result<Option<i128>> {
        self.inner.stored_ns(key)
    }

    fn list(&self, prefix: &str, each: &mut dyn FnMut(Key, u64) -> Result<()>) -> Result<()> {
        self.look(prefix)?;
        let found: Option<Vec<(Key, u64)>> = self
            .known()
            .covering(prefix)
            .map(|look| look.iter().filter(|(key, _)| is_below(key.as_str(), prefix)).map(|(key, seen)| (key.clone(), seen.len)).collect());
        match found {
            Some(found) => found.into_iter().try_for_each(|(key, len)| each(key, len)),
            None => self.inner.list(prefix, each),
        }
    }

    fn others(&self) -> &[Arc<dyn Store>] {
        self.inner.others()
    }

    fn refresh(&self) {
        let mut known = self.known();
        known.save(&self.file);
        known.looks.clear();
    }

    fn doubt(&self, key: &Key) {
        self.inner.doubt(key);
    }

    fn replace(&self, key: &Key, bytes: &[u8], aside: &Key) -> Result<()> {
        self.refresh();
        self.inner.replace(key, bytes, aside)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.refresh();
        self.inner.delete(key)
    }

    fn holds(&self) -> Result<Holds> {
        self.inner.holds()
    }

    fn hold(&self, days: u32) {
        self.inner.hold(days);
    }

    fn held_until_ns(&self, key: &Key) -> Result<Option<i128>> {
        self.inner.held_until_ns(key)
    }

    fn is_far(&self) -> bool {
        self.inner.is_far()
    }

    fn is_empty(&self) -> Result<bool> {
        self.inner.is_empty()
    }

    fn tidy(&self, _: i128) -> Result<()> {
        // A list of everything: prune does that.
        Ok(())
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }
}

/// An upload that is in all looks once it is done.
struct SeenUpload {
    inner: Box<dyn Upload>,
    known: Arc<Mutex<Known>>,
    len: u64,
}

impl Upload for SeenUpload {
    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.len += bytes.len() as u64;
        self.inner.write(bytes)
    }

    fn commit(self: Box<Self>, key: &Key) -> Result<()> {
        let Self { inner, known, len } = *self;
        inner.commit(key)?;
        lock(&known).note(key, Glimpse { len, tag: String::new() });
        Ok(())
    }
}

impl Drop for Seen {
    fn drop(&mut self) {
        self.known().save(&self.file);
    }
}

/// One line an object and its bytes, the shortest objects first; a hash of it all at the end.
fn encode(kept: &Kept) -> Vec<u8> {
    let mut objects: Vec<_> = kept.iter().filter(|(_, (tag, _))| !tag.contains(['\n', ' '])).collect();
    objects.sort_by_key(|(key, (_, bytes))| (bytes.len(), (*key).clone()));
    let mut all = format!("{MAGIC}\n").into_bytes();
    for (key, (tag, bytes)) in objects {
        if all.len() + bytes.len() > KEPT_BYTES_MAX {
            break;
        }
        all.extend_from_slice(format!("{key} {} {tag}\n", bytes.len()).as_bytes());
        all.extend_from_slice(bytes);
    }
    let hash = *digest(&all).as_bytes();
    all.extend_from_slice(&hash);
    all
}

fn decode(file: &[u8]) -> Option<Kept> {
    let (all, hash) = file.split_at_checked(file.len().checked_sub(32)?)?;
    if digest(all).as_bytes()[..] != *hash {
        return None;
    }
    let mut rest = all.strip_prefix(MAGIC.as_bytes())?.strip_prefix(b"\n")?;
    let mut kept = Kept::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n')?;
        let mut words = std::str::from_utf8(&rest[..end]).ok()?.split(' ');
        let (key, len, tag) = (Key::parse(words.next()?)?, words.next()?.parse().ok()?, words.next()?.to_owned());
        let (bytes, after) = rest[end + 1..].split_at_checked(len)?;
        kept.insert(key, (tag, bytes.into()));
        rest = after;
    }
    Some(kept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_reads_back_and_a_damaged_file_is_none() {
        let kept: BTreeMap<_, _> = [("VAULT", "a", &b"one\ntwo"[..]), ("signers/x", "b-2", b"")]
            .map(|(key, tag, bytes)| (Key::fixed(key), (tag.to_owned(), Arc::from(bytes))))
            .into();
        let file = encode(&kept);
        assert_eq!(decode(&file), Some(kept));
        for n in 0..file.len() {
            let mut hurt = file.clone();
            hurt[n] ^= 1;
            assert_eq!(decode(&hurt), None, "{n}");
            assert_eq!(decode(&file[..n]), None, "{n}");
        }
    }
}
