//! What was written once opens for ever: a vault of format 1, kept as it was made, with every kind of entry.
#![allow(clippy::unwrap_used)] // a test may stop at the first surprise

mod common;
#[path = "format/golden.rs"]
mod golden;

use std::{collections::BTreeMap, fs, path::PathBuf, sync::Arc};

use coffre::{
    error::ErrorKind,
    format::{Config, Content, Entry, Receipt, VaultId, digest, hex},
    store::{Local, Memory, Store},
    vault::{FileReader, Reader, Snapshot, Unlocking, Vault, Way},
};
use zeroize::Zeroizing;

fn data(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/vaults/v1").join(name)
}

fn text(name: &str) -> String {
    fs::read_to_string(data(name)).unwrap()
}

/// Every way in: the age identity, the SSH key, the passphrase.
fn ways() -> Vec<Unlocking> {
    let with = |name: &str| {
        let mut unlocking = Unlocking::asking(None);
        unlocking.add_identity_file(name, &text(name)).unwrap();
        unlocking
    };
    let passphrase = Zeroizing::new(text("passphrase").lines().next().unwrap().to_owned());
    vec![with("identity"), with("ssh_identity"), Unlocking::asking(None).with_passphrase(passphrase)]
}

/// Bytes as text, what is not plain as `%xx`.
fn percent(bytes: &[u8]) -> String {
    bytes.iter().map(|b| if b.is_ascii_graphic() && *b != b'%' { char::from(*b).to_string() } else { format!("%{b:02x}") }).collect()
}

/// One line an entry: path, mode, uid, gid, mtime, size, links, target, device, holes, attributes, BLAKE3 of the content.
struct Listing<'a> {
    reader: &'a Reader,
    snapshot: &'a Snapshot,
    lines: Vec<String>,
    first_names: BTreeMap<u64, String>,
}

impl Listing<'_> {
    fn dir(&mut self, node: &coffre::format::ChunkId, path: &str) {
        let keys = self.reader.keys(self.snapshot);
        for entry in self.reader.dir(&keys, node).unwrap() {
            let path = format!("{path}/{}", percent(&entry.name));
            self.entry(&entry, &path);
            if let Content::Dir { node, .. } = &entry.content {
                self.dir(node, &path);
            }
        }
    }

    fn entry(&mut self, entry: &Entry, path: &str) {
        let dash = |text: String| if text.is_empty() { "-".to_owned() } else { text };
        let link = entry.hard_link.map_or_else(String::new, |link| {
            let first = self.first_names.entry(link.group).or_insert_with(|| path.to_owned());
            format!("{}:{first}", link.nlink)
        });
        let (mut size, mut target, mut device, mut holes, mut hash) = (0, String::new(), String::new(), String::new(), String::new());
        match &entry.content {
            Content::File { size: len, holes: at, .. } => {
                size = *len;
                holes = at.iter().map(|h| format!("{}+{}", h.offset, h.len)).collect::<Vec<_>>().join(",");
                let keys = self.reader.keys(self.snapshot);
                let mut bytes = vec![0; *len as usize];
                let file = FileReader::new(&keys, entry).unwrap();
                assert_eq!(self.reader.read_file(&file, 0, &mut bytes).unwrap() as u64, *len);
                hash = digest(&bytes).to_string();
            }
            Content::Symlink(to) => (size, target) = (to.len() as u64, percent(to)),
            Content::Device { major, minor } => device = format!("{major}:{minor}"),
            Content::Dir { .. } | Content::Fifo => (),
        }
        let xattrs: Vec<String> = entry.xattrs.iter().map(|(name, value)| format!("{}={}", percent(name), hex(value))).collect();
        self.lines.push(format!(
            "{path} {:06o} {} {} {} {size} {} {} {} {} {} {}",
            entry.mode,
            entry.uid,
            entry.gid,
            entry.mtime_ns,
            dash(link),
            dash(target),
            dash(device),
            dash(holes),
            dash(xattrs.join(",")),
            dash(hash)
        ));
    }
}

#[test]
fn a_vault_of_format_1_opens_in_every_way_and_holds_what_it_always_held() {
    let expected: Vec<String> = text("expected.txt").lines().map(str::to_owned).collect();
    assert!(expected.len() > 20);
    for unlocking in ways() {
        let vault = Vault::open(Arc::new(Local::new(data("vault")))).unwrap();
        let owner = Arc::new(unlocking.open(&*vault.store, vault.config.id).unwrap());
        let (snapshots, findings) = vault.snapshots(&owner).unwrap();
        assert_eq!((snapshots.len(), findings), (2, Vec::new()));
        let (reader, findings) = Reader::open(vault, owner, 1 << 20).unwrap();
        assert!(findings.is_empty());
        let snapshot = snapshots.last().unwrap();
        let mut listing = Listing { reader: &reader, snapshot, lines: Vec::new(), first_names: BTreeMap::new() };
        listing.dir(&snapshot.manifest.root, "");
        // What stands above the source is not of the golden tree.
        listing.lines.retain(|line| line.starts_with("/srv/coffre-golden"));
        assert_eq!(listing.lines, expected);
    }
}

#[test]
fn a_newer_vault_is_unsupported_never_corrupt() {
    let newer = Memory::default();
    let text = String::from_utf8(Config::new(VaultId([1; 16])).encode()).unwrap();
    newer.put(&coffre::store::Key::fixed("VAULT"), text.replace("coffre-vault 1", "coffre-vault 2").as_bytes()).unwrap();
    let error = Vault::open(Arc::new(newer)).map(drop).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.chain().contains("format 2"), "{}", error.chain());
}

/// Bytes that any other program must be able to make: checked once against `b3sum` and by hand.
#[test]
fn public_texts_are_byte_for_byte_what_they_always_were() {
    let config = Config::new(VaultId([0xab; 16])).encode();
    let expected = "coffre-vault 1\nid abababababababababababababababab\nchunk 32768 131072 524288\nframe 131072\npack 16777216\n";
    assert_eq!(String::from_utf8(config).unwrap(), expected);
    let mut receipt = Receipt::default();
    receipt.push(digest(b""), "VAULT");
    // b3sum < /dev/null
    assert_eq!(String::from_utf8(receipt.encode()).unwrap(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262  VAULT\n");
}

/// Ways are written as they are read.
#[test]
fn public_keys_are_taken_as_openssh_and_age_print_them() {
    let key = text("ssh_identity.pub");
    assert_eq!(Way::parse(&key).unwrap().label(), "ssh");
    assert_eq!(Way::parse("AGE-SECRET-KEY-1QQQ").map(drop).unwrap_err().kind(), ErrorKind::Usage);
}
