//! A store on a server, seen through what was seen of it before: objects never change, so what was read once need not be read again.
//!
//! For seals, which look at much and read little. One list shows all that is there, with the server's marks; small objects that bear
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
    store::{Glimpse, Key, Store, Upload, short},
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
    known: Mutex<Known>,
}

/// What lies below a folder; `None` if one request does not tell.
type Look = Option<BTreeMap<Key, Glimpse>>;

#[derive(Default)]
struct Known {
    looks: BTreeMap<String, Look>,
    kept: BTreeMap<Key, (String, Arc<[u8]>)>,
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
        Self { inner, file, known: Mutex::new(Known { kept, ..Known::default() }) }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics while holding what was seen")
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
        let glimpse = Glimpse { len: bytes.len() as u64, tag: tag.clone().unwrap_or_default() };
        for (folder, look) in &mut known.looks {
            if let Some(look) = look.as_mut().filter(|_| is_below(key.as_str(), folder)) {
                look.insert(key.clone(), glimpse.clone());
            }
        }
        if let Some(tag) = tag {
            known.keep(key, tag, bytes);
        }
    }
}

/// Whether `path` is the folder `folder`, or below it.
fn is_below(path: &str, folder: &str) -> bool {
    folder.is_empty() || path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// Whether objects like this are worth keeping: those that every seal reads.
fn is_wanted(key: &Key, len: usize) -> bool {
    let path = key.as_str();
    let bulk = ["packs/", "index/", "parity/", "damaged/"];
    // Whoever seals cannot read manifests.
    let manifest = path.starts_with("snaps/") && path.ends_with(".age");
    len <= KEPT_LEN_MAX && !manifest && !bulk.iter().any(|folder| path.starts_with(folder))
}

impl Known {
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
        self.inner.begin()
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
        self.known().looks.clear();
    }

    fn replace(&self, key: &Key, bytes: &[u8], aside: &Key) -> Result<()> {
        self.refresh();
        self.inner.replace(key, bytes, aside)
    }

    fn delete(&self, key: &Key) -> Result<()> {
        self.refresh();
        self.inner.delete(key)
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

impl Drop for Seen {
    fn drop(&mut self) {
        let mut known = std::mem::take(&mut *self.known());
        if let Some(Some(all)) = known.looks.get("") {
            known.kept.retain(|key, (tag, _)| all.get(key).is_some_and(|seen| seen.tag == *tag));
        }
        if known.changed {
            // Whoever cannot keep anything asks again.
            let dir = self.file.parent().unwrap_or(Path::new("."));
            let _ = sys::create_private_dir(dir).and_then(|()| sys::replace(&self.file, &encode(&known.kept)));
        }
    }
}

/// One line an object and its bytes, the shortest objects first; a hash of it all at the end.
fn encode(kept: &BTreeMap<Key, (String, Arc<[u8]>)>) -> Vec<u8> {
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

fn decode(file: &[u8]) -> Option<BTreeMap<Key, (String, Arc<[u8]>)>> {
    let (all, hash) = file.split_at_checked(file.len().checked_sub(32)?)?;
    if digest(all).as_bytes()[..] != *hash {
        return None;
    }
    let mut rest = all.strip_prefix(MAGIC.as_bytes())?.strip_prefix(b"\n")?;
    let mut kept = BTreeMap::new();
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
