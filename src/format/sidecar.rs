//! Sidecars: what a pack can be mended with (docs/FORMAT.md section 8). Made of stored bytes, so of no secret.

use crate::{
    error::{Error, Result},
    format::{digest, wire::Wire},
};

/// Bytes of a shard.
pub const SHARD_LEN: usize = 16 << 10;
/// Most shards of an object, data and recovery, in the field of two bytes over which they are computed.
const SHARDS_MAX: u32 = 1 << 16;
/// Bytes of the part of a head whose length is always the same.
const FIXED_LEN: usize = 32;
/// Bytes of a hash in the table.
const MARK_LEN: usize = 16;

/// How an object was cut, and how many shards mend it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Bytes of the object.
    pub object_len: u64,
    /// Recovery shards that are kept.
    pub recovery: u32,
    /// Recovery shards of the code of which those are the first: a power of two.
    pub code: u32,
}

impl Shape {
    /// Shards of the object; the last one counts as filled up with zeros.
    pub fn data(&self) -> u32 {
        u32::try_from(self.object_len.div_ceil(SHARD_LEN as u64)).unwrap_or(u32::MAX)
    }

    /// Whether such a thing can be.
    fn is_sound(&self) -> bool {
        let enough = self.object_len > 0 && self.recovery > 0 && self.recovery <= self.code;
        enough
            && self.code.is_power_of_two()
            && self.code < SHARDS_MAX
            && u64::from(self.data()) + u64::from(self.code) <= SHARDS_MAX.into()
    }

    fn table_len(&self) -> usize {
        (self.data() as usize + self.recovery as usize) * MARK_LEN
    }

    /// Bytes of the head, fixed part, table and check.
    fn head_len(&self) -> usize {
        FIXED_LEN + self.table_len() + MARK_LEN
    }

    fn recovery_len(&self) -> usize {
        self.recovery as usize * SHARD_LEN
    }

    /// Bytes of the whole sidecar.
    pub fn sidecar_len(&self) -> usize {
        2 * self.head_len() + self.recovery_len()
    }

    fn encode(&self) -> [u8; FIXED_LEN] {
        let mut fixed = [0; FIXED_LEN];
        fixed[..5].copy_from_slice(b"CFRS1");
        fixed[8..16].copy_from_slice(&self.object_len.to_le_bytes());
        for (at, n) in [(16, SHARD_LEN as u32), (20, self.data()), (24, self.recovery), (28, self.code)] {
            fixed[at..at + 4].copy_from_slice(&n.to_le_bytes());
        }
        fixed
    }

    fn decode(fixed: &[u8]) -> Option<Self> {
        let mut wire = Wire::new(fixed, "a sidecar");
        wire.expect(b"CFRS1\0\0\0").ok()?;
        let object_len = wire.u64().ok()?;
        let [shard, data, recovery, code] = [wire.u32().ok()?, wire.u32().ok()?, wire.u32().ok()?, wire.u32().ok()?];
        let shape = Self { object_len, recovery, code };
        (shape.is_sound() && shard as usize == SHARD_LEN && data == shape.data()).then_some(shape)
    }
}

/// The first half of the BLAKE3 of a shard: tells damage, and nothing more is asked of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark([u8; MARK_LEN]);

impl Mark {
    /// The mark of a whole shard.
    pub fn of(shard: &[u8]) -> Self {
        Self(digest(shard).as_bytes()[..MARK_LEN].try_into().expect("16 of 32 bytes"))
    }
}

/// A sidecar as it was found: whole, or as much of it as can be used.
pub struct Sidecar<'a> {
    /// How the object was cut.
    pub shape: Shape,
    /// Whether every byte is as it was written.
    pub is_whole: bool,
    tables: Vec<&'a [u8]>,
    recovery: &'a [u8],
}

/// Returns the bytes of a sidecar: head, recovery shards, and the head again from its end to its start.
///
/// `marks` are those of all shards, data first; `recovery` holds the recovery shards.
pub fn encode_sidecar(shape: &Shape, marks: &[Mark], recovery: &[u8]) -> Vec<u8> {
    assert!(shape.is_sound() && marks.len() * MARK_LEN == shape.table_len() && recovery.len() == shape.recovery_len());
    let mut out = Vec::with_capacity(shape.sidecar_len());
    out.extend_from_slice(&shape.encode());
    marks.iter().for_each(|mark| out.extend_from_slice(&mark.0));
    let check = check_of(&out);
    let table = out[FIXED_LEN..].to_vec();
    out.extend_from_slice(&check);
    out.extend_from_slice(recovery);
    out.extend_from_slice(&check);
    out.extend_from_slice(&table);
    out.extend_from_slice(&shape.encode());
    out
}

fn check_of(head: &[u8]) -> [u8; MARK_LEN] {
    Mark::of(head).0
}

impl<'a> Sidecar<'a> {
    /// Takes what is left of a sidecar. One damaged head does no harm, and neither do damaged recovery shards beyond themselves.
    ///
    /// # Errors
    /// `Corrupt` if neither end says what it is, or too little is left.
    pub fn decode(bytes: &'a [u8]) -> Result<Self> {
        let first = bytes.get(..FIXED_LEN).and_then(Shape::decode);
        let last = bytes.len().checked_sub(FIXED_LEN).and_then(|at| Shape::decode(&bytes[at..]));
        let fits = |shape: &Shape| shape.sidecar_len() == bytes.len();
        let candidates: Vec<Shape> = [first.filter(fits), last.filter(fits), first].into_iter().flatten().collect();
        let read = candidates.iter().filter_map(|shape| Self::by(bytes, *shape));
        // One that a check vouches for, before one that only makes sense.
        let best = read.reduce(|best, next| if next.1 && !best.1 { next } else { best });
        best.map(|(sidecar, _)| sidecar).ok_or_else(|| Error::corrupt("the sidecar cannot be understood, or ends within its table"))
    }

    /// What is left, if the shape is this, and whether a check says so.
    fn by(bytes: &'a [u8], shape: Shape) -> Option<(Self, bool)> {
        let (head, table) = (shape.head_len(), shape.table_len());
        if bytes.len() < head {
            // Also a bound: an object is never longer than a thousand times what its sidecar has.
            return None;
        }
        // The front: as far as there is any. The back: only where it must be.
        let front = bytes.get(FIXED_LEN..FIXED_LEN + table);
        let back = Some(bytes.len()).filter(|len| *len == shape.sidecar_len()).map(|len| &bytes[len - FIXED_LEN - table..len - FIXED_LEN]);
        let fixed = shape.encode();
        let holds = |table: &[u8], check: Option<&[u8]>| check == Some(&check_of(&[&fixed[..], table].concat()));
        let front_holds = front.is_some_and(|table| holds(table, bytes.get(head - MARK_LEN..head)));
        let back_at = shape.sidecar_len() - head;
        let back_holds = back.is_some_and(|table| holds(table, bytes.get(back_at..back_at + MARK_LEN)));
        let recovery = &bytes[head.min(bytes.len())..back_at.min(bytes.len())];
        let tables = match (front_holds, back_holds) {
            (true, _) => front.into_iter().collect(),
            (_, true) => back.into_iter().collect(),
            // Mark by mark, then: a shard is believed if either says so.
            (false, false) => front.into_iter().chain(back).collect(),
        };
        let mut sidecar = Self { shape, is_whole: false, tables, recovery };
        let ends = front_holds && back_holds && bytes[..FIXED_LEN] == fixed && bytes[bytes.len() - FIXED_LEN..] == fixed;
        sidecar.is_whole = ends && (0..shape.recovery).all(|n| sidecar.recovery(n).is_some());
        Some((sidecar, front_holds || back_holds))
    }

    /// Whether `shard` is what shard number `n` of all shards was, data first.
    pub fn is_shard(&self, n: u32, shard: &[u8]) -> bool {
        let mark = Mark::of(shard);
        let at = n as usize * MARK_LEN;
        self.tables.iter().any(|table| table.get(at..at + MARK_LEN) == Some(&mark.0))
    }

    /// Recovery shard `n`, if it is what it was.
    pub fn recovery(&self, n: u32) -> Option<&'a [u8]> {
        let at = n as usize * SHARD_LEN;
        let shard = self.recovery.get(at..at + SHARD_LEN)?;
        self.is_shard(self.shape.data() + n, shard).then_some(shard)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (Shape, Vec<u8>) {
        let shape = Shape { object_len: 40_000, recovery: 2, code: 4 };
        let shards: Vec<Vec<u8>> = (0..5).map(|n| vec![n; SHARD_LEN]).collect();
        let marks: Vec<Mark> = shards.iter().map(|s| Mark::of(s)).collect();
        (shape, encode_sidecar(&shape, &marks, &shards[3..].concat()))
    }

    #[test]
    fn every_flipped_byte_is_seen_and_costs_at_most_the_shard_it_is_in() {
        let (shape, whole) = sample();
        assert_eq!((shape.data(), shape.sidecar_len()), (3, whole.len()));
        assert!(Sidecar::decode(&whole).unwrap().is_whole);
        let mut bytes = whole.clone();
        let head = shape.head_len();
        for at in (0..head).chain((head..whole.len() - head).step_by(997)).chain(whole.len() - head..whole.len()) {
            bytes[at] ^= 0x10;
            let sidecar = Sidecar::decode(&bytes).unwrap();
            assert!(!sidecar.is_whole, "byte {at}");
            assert_eq!(sidecar.shape, shape, "byte {at}");
            assert!((0..3).all(|n| sidecar.is_shard(n, &[n as u8; SHARD_LEN])), "byte {at}");
            let hurt = at.checked_sub(head).map(|at| at / SHARD_LEN).filter(|n| *n < 2);
            let kept: Vec<bool> = (0..2).map(|n| sidecar.recovery(n).is_some()).collect();
            assert_eq!(kept, (0..2).map(|n| hurt != Some(n)).collect::<Vec<_>>(), "byte {at}");
            bytes[at] ^= 0x10;
        }
    }

    #[test]
    fn a_sidecar_that_is_cut_is_used_as_far_as_it_goes_and_nonsense_is_refused() {
        let (shape, whole) = sample();
        for len in 0..whole.len() {
            match Sidecar::decode(&whole[..len]) {
                Ok(sidecar) => {
                    assert!(!sidecar.is_whole && sidecar.shape == shape, "{len}");
                    let shards = len.saturating_sub(shape.head_len()) / SHARD_LEN;
                    assert_eq!((0..2).filter(|n| sidecar.recovery(*n).is_some()).count(), shards.min(2), "{len}");
                }
                Err(_) => assert!(len < shape.head_len(), "{len}"),
            }
        }
        let mut huge = whole;
        huge[24..28].copy_from_slice(&u32::MAX.to_le_bytes());
        huge.truncate(5000);
        assert!(Sidecar::decode(&huge).is_err(), "the rest of it is too short for what it says");
    }
}
