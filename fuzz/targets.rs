//! What is fuzzed: every decoder, and the way from a pack file to bytes. A target panics if something is wrong.
#![allow(clippy::unwrap_used)] // a target may stop at the first surprise

use std::{collections::BTreeMap, sync::LazyLock};

use coffre::{
    format::{
        ChunkId, ChunkList, Config, Decision, Digest, DomainId, GcRecord, HEADER_LEN, HeadText, Manifest, Node, PackIndex, PackKind,
        Receipt, SHARD_LEN, Segment, Sidecar, Signers, SnapshotId, SnapshotKey, Stats, TRAILER_LEN, Trailer, VaultId, check_header, digest,
        encode_header, encode_tail, parse_index,
    },
    pack::{self, PackReader, ParityEncoder, Unwrap, identity_from_bytes},
    store::{Key, Memory, Store},
    vault::{OwnerKeys, SealerKeys, Selector, SignerList, Unlocking},
};

/// Name, what it does with bytes, and bytes to begin with.
pub type Target = (&'static str, fn(&[u8]), fn() -> Vec<Vec<u8>>);

/// Those first whose bytes anybody can write who can write to a store.
pub const TARGETS: &[Target] = &[
    ("pack_file", pack_file, || golden("packs/")),
    ("sidecar", sidecar, sidecars),
    ("mending", mending, || vec![vec![], vec![0, 1, 2, 3, 4, 5, 6, 7, 8, 9], vec![255; 40]]),
    ("receipt", receipt, receipts),
    ("signers", signers, || golden("signers/")),
    ("signature", signature, || [golden("snaps/"), golden("signers/")].concat()),
    ("gc_record", gc_record, gc_records),
    ("config", config, || vec![Config::new(VaultId([7; 16])).encode()]),
    ("age_file", age_file, || golden("")),
    ("pack_content", pack_content, || vec![pack_plain()]),
    ("index", index, || vec![index_body(), pack_plain()]),
    ("trailer", trailer, || vec![pack_plain()]),
    ("segment", segment, || vec![segment_plain()]),
    ("node", node, nodes),
    ("manifest", manifest, || vec![a_manifest().encode()]),
    ("chunk_list", chunk_list, || vec![vec![3; 36 * 3]]),
    ("frame", frame, || vec![pack::compress(&[b'a'; 5000]).unwrap(), pack::compress(b"").unwrap()]),
    ("keys", keys, key_texts),
    ("names", names, || {
        ["snaps/web-1/0000000001.b3.sig", "packs/ab/x.age", "latest~2", "2025-11-08T03:00", "3 days ago"].map(|s| s.into()).to_vec()
    }),
    ("typed", typed, typed_texts),
];

/// A value that was read is written and read as the same.
fn again<T: PartialEq + std::fmt::Debug, E>(value: T, encode: impl Fn(&T) -> Vec<u8>, decode: impl Fn(&[u8]) -> Result<T, E>) {
    let bytes = encode(&value);
    assert_eq!(decode(&bytes).ok().as_ref(), Some(&value), "what was read, written and read");
}

fn config(bytes: &[u8]) {
    if let Ok(config) = Config::decode(bytes) {
        assert!(Config::decode(&config.encode()).is_ok(), "what was read, written and read");
    }
}

fn receipt(bytes: &[u8]) {
    if let Ok(receipt) = Receipt::decode(bytes) {
        let _ = receipt.previous();
        assert_eq!(receipt.encode(), bytes, "a receipt is what it says, byte for byte");
    }
}

fn signers(bytes: &[u8]) {
    if let Ok(signers) = Signers::decode(bytes) {
        let _ = (signers.owner(), signers.sealer("host1"));
    }
}

fn manifest(bytes: &[u8]) {
    if let Ok(manifest) = Manifest::decode(bytes) {
        again(manifest, Manifest::encode, Manifest::decode);
    }
}

fn node(bytes: &[u8]) {
    if let Ok(Node::Entries(entries)) = Node::decode(bytes) {
        let encoded: Vec<Vec<u8>> = entries.iter().map(|entry| entry.encode()).collect();
        let bytes = Node::encode_entries(encoded.iter().map(Vec::as_slice));
        assert!(matches!(Node::decode(&bytes), Ok(Node::Entries(again)) if again == entries), "entries that were read, written and read");
    }
}

fn chunk_list(bytes: &[u8]) {
    if let Ok(list) = ChunkList::from_bytes(bytes) {
        assert_eq!(list.iter().map(|c| u64::from(c.len)).sum::<u64>(), list.content_len());
    }
}

fn index(bytes: &[u8]) {
    if let Ok(index) = PackIndex::from_body(bytes) {
        assert_eq!(index.frames.iter().map(|f| u64::from(f.chunks)).sum::<u64>(), index.chunks.len() as u64);
    }
    let _ = parse_index(bytes);
}

fn trailer(bytes: &[u8]) {
    let _ = check_header(bytes, VaultId([7; 16]));
    let _ = Trailer::decode(bytes, bytes.len() as u64);
    if let Some(at) = bytes.len().checked_sub(TRAILER_LEN) {
        let _ = Trailer::decode(&bytes[at..], bytes.len() as u64);
    }
}

fn segment(bytes: &[u8]) {
    let _ = Segment::decode(bytes);
}

fn keys(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = (OwnerKeys::decode(text, VaultId([7; 16])).is_ok(), SealerKeys::decode(text).is_ok(), HeadText::parse(text).is_some());
    let _ = Unlocking::default().add_identity_file("fuzz", text);
}

fn names(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Some(key) = Key::parse(text) {
        assert!(!key.as_str().starts_with('/') && !key.as_str().split('/').any(|part| part == ".." || part.is_empty()));
    }
    if let Some((place, suffix)) = SnapshotKey::parse(text) {
        let stem = place.manifest();
        let stem = stem.strip_suffix(".age").unwrap();
        assert!(suffix.is_empty() || text == format!("{stem}.{suffix}"), "{text} is {place} and {suffix}");
    }
    let now = 1_764_000_000_000_000_000;
    let _ = (coffre::sys::parse_moment(text, now), coffre::sys::parse_start(text, now), Selector::parse(text, now).is_ok());
}

fn age_file(bytes: &[u8]) {
    let identity = identity_from_bytes(&[42; 32]);
    let _ = pack::open_whole(&[&identity as Unwrap], bytes, "fuzz").is_ok();
}

fn frame(bytes: &[u8]) {
    let mut out = Vec::new();
    if pack::decompress(bytes, 1 << 20, &mut out, "fuzz").is_ok() {
        assert!(out.len() <= 1 << 20);
    }
}

/// Reads whatever `bytes` is as a pack, as far as it goes.
fn read_pack(bytes: &[u8]) {
    let store = Memory::default();
    let name = digest(bytes);
    store.put(&Key::pack(&name), bytes).unwrap();
    let reader = PackReader::new(VaultId([7; 16]), vec![identity_from_bytes(&[42; 32])], Default::default());
    if let Ok((_, index)) = reader.index(&store, &name) {
        for at in &index.frames {
            if let Ok(raw) = reader.frame(&store, &name, at) {
                assert_eq!(raw.len(), at.raw_len as usize, "a frame is as long as its index says");
            }
        }
    }
}

/// The pack that is mended, three shards and a bit, and its sidecar.
static MENDED: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let pack: Vec<u8> = (0..50_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let sidecar = sidecar_of(&pack);
    (pack, sidecar)
});

fn sidecar_of(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = ParityEncoder::new(5, bytes.len() as u64);
    encoder.update(bytes);
    encoder.finish().unwrap()
}

/// Mends a damaged pack with whatever `bytes` is as its sidecar.
fn mended_by(bytes: &[u8], hurt: impl Fn(&mut Vec<u8>)) -> bool {
    let (whole, store) = (&MENDED.0, Memory::default());
    let key = Key::pack(&digest(whole));
    let mut left = whole.clone();
    hurt(&mut left);
    store.put(&key, &left).unwrap();
    store.put(&key.sidecar().unwrap(), bytes).unwrap();
    let _ = coffre::vault::is_whole_sidecar(&store, &key);
    match coffre::vault::mend(&store, &key, &digest(whole)) {
        Ok(mended) => {
            assert!(mended.bytes == *whole, "mended is what it was, byte for byte");
            true
        }
        Err(_) => false,
    }
}

fn sidecar(bytes: &[u8]) {
    if let Ok(sidecar) = Sidecar::decode(bytes) {
        // Shards of nonsense, as many as it says: bounded by what there is of the sidecar.
        assert!(sidecar.shape.object_len <= 1 << 30, "an object is never longer than its shards can be");
        assert!((0..sidecar.shape.recovery).all(|n| sidecar.recovery(n).is_none_or(|shard| shard.len() == SHARD_LEN)));
    }
    mended_by(bytes, |pack| pack[20_000] ^= 1);
}

/// Damage to a pack and its own sidecar, as the bytes say: pairs of a place and a value. Two damaged shards of the four can be mended.
fn mending(bytes: &[u8]) {
    let at = |pair: &[u8], len: usize| usize::from(u16::from_le_bytes([pair[0], pair[1]])) * 7 % len;
    let (of_pack, of_sidecar) = bytes.split_at(bytes.len() / 2);
    let mut sidecar = MENDED.1.clone();
    for hurt in of_sidecar.chunks_exact(3) {
        let at = at(hurt, sidecar.len());
        sidecar[at] ^= hurt[2];
    }
    let damage = |pack: &mut Vec<u8>| {
        for hurt in of_pack.chunks_exact(3) {
            let at = at(hurt, pack.len());
            pack[at] ^= hurt[2];
        }
    };
    let is_mended = mended_by(&sidecar, damage);
    let shards: std::collections::BTreeSet<usize> = of_pack.chunks_exact(3).map(|hurt| at(hurt, 50_000) / SHARD_LEN).collect();
    assert!(is_mended || shards.len() > 2 || sidecar != MENDED.1, "damage within the budget is mended");
}

fn signature(bytes: &[u8]) {
    let _ = coffre::vault::is_as_made(bytes);
    let (signers, place, receipt, signature) = &*SIGNED;
    if coffre::vault::check_receipt(signers, place, receipt, bytes).is_ok() {
        // Readers are more lenient than writers, so the text may be another; what it says is not.
        assert!(bytes.len() >= signature.len() - 10, "the signature that was made, or another one by the same key");
    }
    if let Ok(text) = std::str::from_utf8(bytes) {
        if let Some(key) = coffre::vault::public_key(text) {
            assert_eq!(coffre::vault::public_key(&key).as_ref(), Some(&key), "a key that was read and written");
        }
        let _ = coffre::format::dearmor(text).is_ok();
    }
}

fn gc_record(bytes: &[u8]) {
    if let Ok(record) = GcRecord::decode(bytes, VaultId([7; 16])) {
        again(record, |record| record.encode(VaultId([7; 16])), |bytes| GcRecord::decode(bytes, VaultId([7; 16])));
    }
}

/// What people type or paste.
fn typed(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _ = (coffre::vault::Token::decode(text).is_ok(), coffre::vault::Way::parse(text).is_ok());
    let _ = (coffre::vault::Expected::parse(text).is_some(), HeadText::parse(text).is_some());
    if let Ok(blocks) = coffre::format::dearmor(text) {
        assert!(blocks.iter().all(|(_, block)| block.len() <= text.len()));
    }
}

fn pack_file(bytes: &[u8]) {
    read_pack(bytes);
}

fn pack_content(bytes: &[u8]) {
    let identity = identity_from_bytes(&[42; 32]);
    read_pack(&pack::seal_whole(&[&identity.to_public()], bytes).unwrap());
}

/// Objects of the golden vault, the smaller ones.
fn golden(folder: &str) -> Vec<Vec<u8>> {
    let store = coffre::store::Local::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/vaults/v1/vault"));
    let keys = coffre::store::list_all(&store, "").unwrap();
    let small = keys
        .into_iter()
        .filter(|(key, len)| key.as_str().starts_with(folder) && *len < 2000 || key.as_str().starts_with("packs/") && folder == "packs/");
    small.map(|(key, len)| coffre::store::get_all(&store, &key, len as usize).unwrap()).collect()
}

fn receipts() -> Vec<Vec<u8>> {
    let mut receipt = Receipt::default();
    receipt.push(digest(b""), "VAULT");
    receipt.push(digest(b"1"), "snaps/host1/0000000001.b3");
    receipt.push(digest(b"2"), "snaps/host1/0000000002.age");
    vec![receipt.encode()]
}

fn a_manifest() -> Manifest {
    Manifest {
        vault: VaultId([7; 16]),
        sealer: "host1".to_owned(),
        seq: 2,
        previous: None,
        time_ns: 1_764_000_000_000_000_000,
        sources: vec![b"/srv".to_vec(), b"/etc".to_vec()],
        root: ChunkId::from_bytes([1; 32]),
        domain: DomainId([9; 16]),
        new_packs: vec![Digest::from_bytes([2; 32])],
        condemned_seen: 0,
        stats: Stats { files: 3, logical_bytes: 1 << 40, ..Stats::default() },
        labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        tool: "fuzz".to_owned(),
        problems: Vec::new(),
        host: "host1".to_owned(),
        tags: vec!["daily".to_owned()],
        suspicions: Vec::new(),
        pins: Vec::new(),
    }
}

/// A directory with every kind of entry, read from the golden vault.
fn nodes() -> Vec<Vec<u8>> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/vaults/v1");
    let store = std::sync::Arc::new(coffre::store::Local::new(format!("{dir}/vault")));
    let vault = coffre::vault::Vault::open(store.clone()).unwrap();
    let mut unlocking = Unlocking::default();
    unlocking.add_identity_file("identity", &std::fs::read_to_string(format!("{dir}/identity")).unwrap()).unwrap();
    let owner = std::sync::Arc::new(unlocking.open(&*store, vault.config.id).unwrap());
    let snapshot = vault.snapshots(&owner).unwrap().0.pop().unwrap();
    let reader = coffre::vault::Reader::open(vault, owner, 1 << 20).unwrap().0;
    let keys = reader.keys(&snapshot);
    let mut found = Vec::new();
    let mut wanted = vec![snapshot.manifest.root];
    while let Some(id) = wanted.pop() {
        found.push(reader.with_chunk(&id, &keys.tree, <[u8]>::to_vec).unwrap());
        if let Ok(Node::Entries(entries)) = reader.node(&keys, &id) {
            wanted.extend(
                entries.iter().filter_map(|e| if let coffre::format::Content::Dir { node, .. } = &e.content { Some(*node) } else { None }),
            );
        }
    }
    found
}

/// Bytes of a data pack with two frames, before encryption.
fn pack_plain() -> Vec<u8> {
    let (mut plain, mut index) = (encode_header(PackKind::Data, VaultId([7; 16])).to_vec(), PackIndex::default());
    for n in 0..2u8 {
        let raw = vec![b'a' + n; 3000];
        let frame = pack::compress(&raw).unwrap();
        let at = coffre::format::FrameEntry {
            offset: u32::try_from(plain.len()).unwrap(),
            compressed_len: u32::try_from(frame.len()).unwrap(),
            raw_len: 3000,
            chunks: 1,
        };
        index.frames.push(at);
        index.chunks.push((ChunkId::from_bytes([n; 32]), 3000));
        plain.extend_from_slice(&frame);
    }
    assert!(plain.len() > HEADER_LEN);
    let tail = encode_tail(PackKind::Data, &index, plain.len());
    plain.extend_from_slice(&tail);
    plain
}

fn index_body() -> Vec<u8> {
    let mut body = Vec::new();
    let index = PackIndex { frames: Vec::new(), chunks: Vec::new() };
    index.encode_body(&mut body);
    body
}

fn segment_plain() -> Vec<u8> {
    Segment { packs: Vec::new() }.encode()
}

fn key_texts() -> Vec<Vec<u8>> {
    let owner = OwnerKeys::generate(VaultId([7; 16])).unwrap();
    let sealer = owner.new_sealer("host1").unwrap();
    vec![owner.encode().as_bytes().to_vec(), sealer.encode().as_bytes().to_vec()]
}

/// Sidecars: of the pack that is mended, whole and cut, and of another one.
fn sidecars() -> Vec<Vec<u8>> {
    let whole = MENDED.1.clone();
    vec![whole[..300].to_vec(), whole[whole.len() - 300..].to_vec(), sidecar_of(&[1; 100]), whole]
}

/// The signers of the golden vault, and a receipt with its signature.
static SIGNED: LazyLock<(SignerList, SnapshotKey, Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let store = coffre::store::Local::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/vaults/v1/vault"));
    let place = SnapshotKey { sealer: "host1".to_owned(), seq: 1 };
    let get = |key: &Key| coffre::store::get_all(&store, key, 1 << 20).unwrap();
    let receipt = Key::receipt(&place);
    let signature = Key::parse(&format!("{receipt}.sig")).unwrap();
    (SignerList::load(&store, None).unwrap(), place.clone(), get(&receipt), get(&signature))
});

fn gc_records() -> Vec<Vec<u8>> {
    let (key, id) = (SnapshotKey { sealer: "host1".to_owned(), seq: 7 }, SnapshotId::from_bytes([5; 32]));
    let (list, name) = (Digest::from_bytes([6; 32]), GcRecord::name(3, b"3"));
    let decisions = vec![
        Decision::After(name.clone()),
        Decision::Forget(key.clone(), id),
        Decision::Undelete(key.clone(), id),
        Decision::Pin(key.clone(), id),
        Decision::Unpin(key.clone(), id),
        Decision::Gone(key, id),
        Decision::Condemn { list, fresh: None, grace_secs: 14 * 86_400 },
        Decision::Condemn { list, fresh: Some(list), grace_secs: 0 },
        Decision::Settled(name),
        Decision::Spare("packs/ab/x.age".to_owned()),
        Decision::Loose("index/x.age".to_owned()),
        Decision::Delete(list),
    ];
    vec![GcRecord { time_ns: 1_764_000_000_000_000_000, decisions }.encode(VaultId([7; 16]))]
}

fn typed_texts() -> Vec<Vec<u8>> {
    let token = format!("coffre-enroll-1:{}:web2:{}:{}", "07".repeat(16), "2a".repeat(32), "A".repeat(68));
    let key = identity_from_bytes(&[42; 32]).to_public().to_string();
    let armored = coffre::format::armor(&golden("keys/").pop().unwrap_or_default());
    [&token, &key, &armored, "s3://bucket/path?endpoint=http://x:1&region=y", "sftp://me@host:22/~/vault", "webdav+http://h/x"]
        .map(|text| text.as_bytes().to_vec())
        .to_vec()
}
