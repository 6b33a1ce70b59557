//! Packs and their sidecars: making one from the other, and a damaged pack whole again, in memory. Needs no key.

use std::ops::Range;

use crate::{
    error::{Error, ErrorKind, Result},
    format::{Config, Digest, Digester, SHARD_LEN, Sidecar, digest},
    pack::{self, ParityEncoder},
    store::{self, Key, Store},
};

/// Bytes read at once.
const STEP: usize = 1 << 20;
/// Longest sidecar accepted, in bytes: that of a pack of 1 GiB, the longest there is, at 50 %.
pub const SIDECAR_LEN_MAX: usize = (512 << 20) + (4 << 20);

/// A pack as it was when it was stored.
pub struct Mended {
    /// All of it.
    pub bytes: Vec<u8>,
    /// Numbers of the shards that were not what they were.
    pub shards: Vec<u32>,
}

impl Mended {
    /// The bytes of shard `n`.
    pub fn range(&self, n: u32) -> Range<usize> {
        let start = n as usize * SHARD_LEN;
        start..(start + SHARD_LEN).min(self.bytes.len())
    }
}

/// Returns the sidecar of the pack at `key` as its seal made it; `None` if what stands there is not `wanted`, or cannot have one.
pub fn make_sidecar(store: &dyn Store, config: &Config, key: &Key, wanted: &Digest) -> Result<Option<Vec<u8>>> {
    let Some(len) = store.stat(key)? else { return Ok(None) };
    let (mut hash, mut encoder) = (Digester::default(), ParityEncoder::new(config.parity, len.max(config.pack_len_max.into())));
    let mut buf = vec![0; STEP];
    let mut at = 0;
    while at < len {
        let piece = &mut buf[..STEP.min(usize::try_from(len - at).unwrap_or(STEP))];
        store.get(key, at, piece)?;
        hash.update(piece);
        encoder.update(piece);
        at += piece.len() as u64;
    }
    Ok(encoder.finish().filter(|_| hash.finish() == *wanted))
}

/// Returns the pack at `key` as it was, with the help of its sidecar, wherever else it may be damaged.
///
/// # Errors
/// `Missing` if it has no sidecar, `Corrupt` if there is more damage than can be mended: never wrong bytes.
///
/// Cost: the pack and its sidecar are read whole and held in memory, 5 MiB beside; 80 ms for a pack of 16 MiB.
pub fn mend(store: &dyn Store, key: &Key, wanted: &Digest) -> Result<Mended> {
    mend_from(store, key, key, wanted)
}

/// The same, where what is left of the pack lies at `left`.
pub fn mend_from(store: &dyn Store, key: &Key, left: &Key, wanted: &Digest) -> Result<Mended> {
    let beside = key.sidecar().ok_or_else(|| Error::missing(format!("{key} is not of the kind that has a sidecar")))?;
    let bytes = store::get_all(store, &beside, SIDECAR_LEN_MAX)?;
    let sidecar = Sidecar::decode(&bytes).map_err(|e| e.while_doing(format!("cannot use {beside}")))?;
    let (mut object, lost) = read_what_is_left(store, left, sidecar.shape.object_len)?;
    let shards = pack::mend(&sidecar, &mut object, &lost).map_err(|e| e.while_doing(format!("cannot mend {key}")))?;
    match digest(&object) == *wanted {
        true => Ok(Mended { bytes: object, shards }),
        false => Err(Error::corrupt(format!("cannot mend {key}: {beside} belongs to other bytes"))),
    }
}

/// Returns the pack at `key` put together from what is left of it in several copies of the vault: each shard from the first one in which it is what
/// a sidecar says, and the rest mended by that.
///
/// # Errors
/// `Corrupt` if that is not enough, or no copy has a sidecar of use.
///
/// Cost: the pack is read from every copy, and held in memory twice.
pub fn mend_together(stores: &[&dyn Store], key: &Key, wanted: &Digest) -> Result<Mended> {
    let beside = key.sidecar().ok_or_else(|| Error::missing(format!("{key} is not of the kind that has a sidecar")))?;
    for store in stores {
        let Ok(bytes) = store::get_all(*store, &beside, SIDECAR_LEN_MAX) else { continue };
        let Ok(sidecar) = Sidecar::decode(&bytes) else { continue };
        let (mut object, mut lost) = read_what_is_left(*store, key, sidecar.shape.object_len)?;
        let is_sound = |n: usize, object: &[u8]| {
            let mut shard = [0; SHARD_LEN];
            let there = &object[n * SHARD_LEN..object.len().min((n + 1) * SHARD_LEN)];
            shard[..there.len()].copy_from_slice(there);
            u32::try_from(n).is_ok_and(|n| sidecar.is_shard(n, &shard))
        };
        for (n, lost) in lost.iter_mut().enumerate() {
            *lost |= !is_sound(n, &object);
        }
        for other in stores {
            let (left, gone) = read_what_is_left(*other, key, sidecar.shape.object_len)?;
            for n in 0..lost.len() {
                if lost[n] && !gone[n] && is_sound(n, &left) {
                    let shard = n * SHARD_LEN..left.len().min((n + 1) * SHARD_LEN);
                    object[shard.clone()].copy_from_slice(&left[shard]);
                    lost[n] = false;
                }
            }
        }
        if let Ok(shards) = pack::mend(&sidecar, &mut object, &lost)
            && digest(&object) == *wanted
        {
            return Ok(Mended { bytes: object, shards });
        }
    }
    Err(Error::corrupt(format!("what all copies have of {key} together is not enough")))
}

/// Whether the sidecar of the pack at `key` is whole and this pack's: swapped with another's it would be no use. Of a pack that is damaged
/// itself in the places looked at, a whole one is believed.
///
/// Cost: the sidecar, held in memory, and 16 KiB of the pack.
pub fn is_whole_sidecar(store: &dyn Store, key: &Key) -> Result<bool> {
    let Some(beside) = key.sidecar() else { return Ok(false) };
    let bytes = store::get_all(store, &beside, SIDECAR_LEN_MAX)?;
    let Some(sidecar) = Sidecar::decode(&bytes).ok().filter(|sidecar| sidecar.is_whole) else { return Ok(false) };
    let shards = sidecar.shape.data();
    for n in [0, shards / 2, shards - 1] {
        let at = u64::from(n) * SHARD_LEN as u64;
        let mut shard = vec![0; SHARD_LEN];
        let len = usize::try_from(sidecar.shape.object_len - at).unwrap_or(SHARD_LEN).min(SHARD_LEN);
        if store.get(key, at, &mut shard[..len]).is_ok() && sidecar.is_shard(n, &shard) {
            return Ok(true);
        }
    }
    let is_sound = hash_of(store, key).is_ok_and(|now| Some(now) == key.digest());
    Ok(!is_sound)
}

/// The hash of an object, read piece by piece.
///
/// # Errors
/// `Missing` if there is none; those of the store.
pub fn hash_of(store: &dyn Store, key: &Key) -> Result<Digest> {
    let len = store.stat(key)?.ok_or_else(|| Error::missing(format!("{key} is not in the vault")))?;
    let (mut hash, mut buf, mut at) = (Digester::default(), vec![0; STEP], 0);
    while at < len {
        let piece = &mut buf[..STEP.min(usize::try_from(len - at).unwrap_or(STEP))];
        store.get(key, at, piece)?;
        hash.update(piece);
        at += piece.len() as u64;
    }
    Ok(hash.finish())
}

/// Reads as much of `len` bytes as can be read; the rest is zeros. Says which shards are not worth a look.
fn read_what_is_left(store: &dyn Store, key: &Key, len: u64) -> Result<(Vec<u8>, Vec<bool>)> {
    let len = usize::try_from(len).map_err(|_| Error::corrupt(format!("{key} is impossibly long")))?;
    let there = store.stat(key)?.unwrap_or(0).min(len as u64) as usize;
    let mut object = vec![0; len];
    let mut lost = vec![false; len.div_ceil(SHARD_LEN)];
    for at in (0..len).step_by(STEP) {
        let end = (at + STEP).min(there);
        let whole = at < end && store.get(key, at as u64, &mut object[at..end]).is_ok();
        let shards = at / SHARD_LEN..(at + STEP).min(len).div_ceil(SHARD_LEN);
        for (shard, lost) in shards.clone().zip(&mut lost[shards]) {
            let from = shard * SHARD_LEN;
            let to = (from + SHARD_LEN).min(there);
            // A disk that cannot read one place may read the next.
            let read = from < to && (whole || store.get(key, from as u64, &mut object[from..to]).is_ok());
            *lost = !read;
        }
    }
    Ok((object, lost))
}

/// Whether an error is one that mending may help with. A flipped bit in a header looks like another key, or another version.
pub fn is_damage(e: &Error) -> bool {
    use ErrorKind::{Corrupt, Missing, Unavailable, Unsupported, WrongKey};
    matches!(e.kind(), Corrupt | Missing | Unavailable | Unsupported | WrongKey)
}
