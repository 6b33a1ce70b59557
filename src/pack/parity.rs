//! Stored bytes ─▶ sidecar ─▶ stored bytes again: Reed-Solomon. The home of `reed_solomon_simd`.
//!
//! The code is the crate's "high rate" one: shards come in groups as long as the code, each group is transformed and added to what came
//! before, so an object is encoded while it is written, in memory of two groups: about 2 MiB for a pack of 16 MiB at 5 %.

use reed_solomon_simd::{
    engine::{DefaultEngine, Engine, ShardsRefMut},
    rate::{HighRateDecoder, RateDecoder},
};

use crate::{
    error::{Error, Result},
    format::{Mark, SHARD_LEN, Shape, Sidecar, encode_sidecar},
};

/// Bytes of every shard that are worked on at once, so that a group of them stays in a core's own cache.
const COLUMN_LEN: usize = 2 << 10;
const COLUMNS: usize = SHARD_LEN / COLUMN_LEN;
/// Units in which the crate counts.
const UNIT: usize = 64;
const COLUMN_UNITS: usize = COLUMN_LEN / UNIT;
/// The same, for mending: less of the work is done anew for each column.
const MEND_COLUMN_LEN: usize = 4 << 10;
/// Fewest recovery shards: damage in one place may lie across the border of two.
const RECOVERY_MIN: u32 = 2;

/// Recovery shards for an object of `data` shards at `percent`.
fn recovery_of(data: u32, percent: u8) -> u32 {
    let wanted = (u64::from(data) * u64::from(percent)).div_ceil(100);
    u32::try_from(wanted).unwrap_or(u32::MAX).max(RECOVERY_MIN).min(data.max(1))
}

/// Makes the sidecar of an object while that is written.
pub struct ParityEncoder {
    percent: u8,
    engine: DefaultEngine,
    /// Shards in a group: a power of two.
    code: usize,
    object_len: u64,
    /// The shard that is not full yet.
    shard: Vec<u8>,
    marks: Vec<Mark>,
    /// The group that is not full yet, column by column.
    group: Vec<[u8; UNIT]>,
    /// Sum of the groups before.
    sum: Vec<[u8; UNIT]>,
}

impl ParityEncoder {
    /// For objects of up to `len_max` bytes, of which a loss of `percent` of a hundred, but no less than two shards, is to be mended.
    pub fn new(percent: u8, len_max: u64) -> Self {
        let data = u32::try_from(len_max.div_ceil(SHARD_LEN as u64)).unwrap_or(u32::MAX);
        let code = recovery_of(data, percent).next_power_of_two() as usize;
        let units = code * SHARD_LEN / UNIT;
        Self {
            percent,
            engine: DefaultEngine::new(),
            code,
            object_len: 0,
            shard: Vec::with_capacity(SHARD_LEN),
            marks: Vec::new(),
            group: vec![[0; UNIT]; units],
            sum: vec![[0; UNIT]; units],
        }
    }

    /// Takes the next bytes of the object.
    pub fn update(&mut self, mut bytes: &[u8]) {
        self.object_len += bytes.len() as u64;
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(SHARD_LEN - self.shard.len()));
            self.shard.extend_from_slice(now);
            bytes = later;
            if self.shard.len() == SHARD_LEN {
                self.end_shard();
            }
        }
    }

    fn end_shard(&mut self) {
        self.shard.resize(SHARD_LEN, 0);
        self.marks.push(Mark::of(&self.shard));
        let at = (self.marks.len() - 1) % self.code;
        for (n, column) in self.shard.chunks_exact(COLUMN_LEN).enumerate() {
            let start = (n * self.code + at) * COLUMN_UNITS;
            self.group[start..start + COLUMN_UNITS].as_flattened_mut().copy_from_slice(column);
        }
        self.shard.clear();
        if at + 1 == self.code {
            self.end_group(self.code);
        }
    }

    /// Adds the group to the sum; `filled` shards of it are there.
    fn end_group(&mut self, filled: usize) {
        let before = self.marks.len() - filled;
        let per_column = self.code * COLUMN_UNITS;
        for (group, sum) in self.group.chunks_exact_mut(per_column).zip(self.sum.chunks_exact_mut(per_column)) {
            group[filled * COLUMN_UNITS..].fill([0; UNIT]);
            let mut shards = ShardsRefMut::new(self.code, COLUMN_UNITS, group);
            self.engine.ifft(&mut shards, 0, self.code, filled, before + self.code);
            reed_solomon_simd::engine::utils::xor(sum, group);
        }
    }

    /// Returns the bytes of the sidecar, or `None` for an object that is empty or longer than was said.
    pub fn finish(mut self) -> Option<Vec<u8>> {
        if !self.shard.is_empty() {
            self.end_shard();
        }
        let data = u32::try_from(self.marks.len()).ok()?;
        let shape = Shape { object_len: self.object_len, recovery: recovery_of(data, self.percent), code: u32::try_from(self.code).ok()? };
        if data == 0 || shape.recovery > shape.code {
            return None;
        }
        if !self.marks.len().is_multiple_of(self.code) {
            self.end_group(self.marks.len() % self.code);
        }
        let mut recovery = vec![0; shape.recovery as usize * SHARD_LEN];
        for n in 0..COLUMNS {
            let column = &mut self.sum[n * self.code * COLUMN_UNITS..(n + 1) * self.code * COLUMN_UNITS];
            self.engine.fft(&mut ShardsRefMut::new(self.code, COLUMN_UNITS, column), 0, self.code, shape.recovery as usize, 0);
            for (shard, from) in recovery.chunks_exact_mut(SHARD_LEN).zip(column.chunks_exact(COLUMN_UNITS)) {
                shard[n * COLUMN_LEN..(n + 1) * COLUMN_LEN].copy_from_slice(from.as_flattened());
            }
        }
        self.marks.extend(recovery.chunks_exact(SHARD_LEN).map(Mark::of));
        Some(encode_sidecar(&shape, &self.marks, &recovery))
    }
}

/// Finds the shards of `object` that are not what they were, and puts them right. Returns how many there were.
///
/// `object` has the length that the sidecar says; `lost` says which of its shards need not be looked at, as they could not be read. The
/// caller holds the whole against its name: nothing here is believed.
///
/// # Errors
/// `Corrupt` if there is more damage than the sidecar can mend.
///
/// Cost: about 80 ms for a pack of 16 MiB; 5 MiB of memory.
pub fn mend(sidecar: &Sidecar, object: &mut [u8], lost: &[bool]) -> Result<Vec<u32>> {
    let shape = sidecar.shape;
    assert_eq!(object.len() as u64, shape.object_len, "the caller asked the sidecar how long it is");
    let whole = |n: u32| -> Option<&[u8]> { object.get(n as usize * SHARD_LEN..(n as usize + 1) * SHARD_LEN) };
    // The last one is filled up with zeros.
    let tail_at = (shape.data() as usize - 1) * SHARD_LEN;
    let mut tail = object[tail_at..].to_vec();
    tail.resize(SHARD_LEN, 0);
    let is_lost = |n: u32| lost.get(n as usize).is_some_and(|lost| *lost) || !sidecar.is_shard(n, whole(n).unwrap_or(&tail));
    let hurt: Vec<u32> = (0..shape.data()).filter(|n| is_lost(*n)).collect();
    if hurt.is_empty() {
        return Ok(hurt);
    }
    let recovery: Vec<(u32, &[u8])> = (0..shape.recovery).filter_map(|n| Some((n, sidecar.recovery(n)?))).take(hurt.len()).collect();
    if recovery.len() < hurt.len() {
        return Err(Error::corrupt(format!(
            "{} of its {} shards are damaged, and {} can be mended",
            hurt.len(),
            shape.data(),
            recovery.len()
        )));
    }
    let failed = |e: reed_solomon_simd::Error| Error::bug("mending failed").because(e.to_string());
    let (data, code) = (shape.data() as usize, shape.code as usize);
    let mut mended = vec![0; hurt.len() * SHARD_LEN];
    let mut decoder = HighRateDecoder::new(data, code, MEND_COLUMN_LEN, DefaultEngine::new(), None).map_err(failed)?;
    for start in (0..SHARD_LEN).step_by(MEND_COLUMN_LEN) {
        let column = start..start + MEND_COLUMN_LEN;
        decoder.reset(data, code, MEND_COLUMN_LEN).map_err(failed)?;
        let mut next = hurt.iter().peekable();
        for n in 0..shape.data() {
            if next.next_if(|hurt| **hurt == n).is_none() {
                decoder.add_original_shard(n as usize, &whole(n).unwrap_or(&tail)[column.clone()]).map_err(failed)?;
            }
        }
        for (n, shard) in &recovery {
            decoder.add_recovery_shard(*n as usize, &shard[column.clone()]).map_err(failed)?;
        }
        let decoded = decoder.decode().map_err(failed)?;
        for (to, n) in mended.chunks_exact_mut(SHARD_LEN).zip(&hurt) {
            let from = decoded.restored_original(*n as usize).ok_or_else(|| Error::bug("mending left a shard out"))?;
            to[column.clone()].copy_from_slice(from);
        }
    }
    for (from, n) in mended.chunks_exact(SHARD_LEN).zip(&hurt) {
        let to = &mut object[*n as usize * SHARD_LEN..];
        let len = to.len().min(SHARD_LEN);
        to[..len].copy_from_slice(&from[..len]);
    }
    Ok(hurt)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use reed_solomon_simd::rate::{HighRateEncoder, RateEncoder};

    use super::*;

    fn noise(len: usize, seed: u64) -> Vec<u8> {
        (0..len as u64).map(|i| ((i ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u8).collect()
    }

    fn sidecar(object: &[u8], percent: u8, len_max: u64) -> Vec<u8> {
        let mut encoder = ParityEncoder::new(percent, len_max);
        object.chunks(70_000).for_each(|piece| encoder.update(piece));
        encoder.finish().unwrap()
    }

    /// Encoding group by group and column by column gives what the crate itself gives for all at once.
    #[test]
    fn shards_are_those_of_the_crate() {
        for (len, percent, len_max) in
            [(1, 5, 1 << 20), (SHARD_LEN * 3, 50, 1 << 20), (SHARD_LEN * 65 + 7, 5, 4 << 20), (900_000, 20, 1 << 20)]
        {
            let object = noise(len, 3);
            let bytes = sidecar(&object, percent, len_max);
            let parsed = Sidecar::decode(&bytes).unwrap();
            let shape = parsed.shape;
            let mut crates =
                HighRateEncoder::new(shape.data() as usize, shape.code as usize, SHARD_LEN, DefaultEngine::new(), None).unwrap();
            for shard in object.chunks(SHARD_LEN) {
                let mut shard = shard.to_vec();
                shard.resize(SHARD_LEN, 0);
                crates.add_original_shard(shard).unwrap();
            }
            let expected: Vec<Vec<u8>> = crates.encode().unwrap().recovery_iter().map(<[u8]>::to_vec).collect();
            for n in 0..shape.recovery {
                assert!(parsed.recovery(n) == Some(&expected[n as usize]), "{len} bytes, shard {n}");
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Within the budget everything comes back; beyond it nothing is claimed.
        #[test]
        fn damage_within_the_budget_is_mended(
            len in 1usize..2_000_000,
            percent in 1u8..30,
            seed: u64,
            places in proptest::collection::vec(any::<u32>(), 1..40),
            recovery_places in proptest::collection::vec(any::<u32>(), 0..4),
        ) {
            let object = noise(len, seed);
            let mut bytes = sidecar(&object, percent, 4 << 20);
            let shape = Sidecar::decode(&bytes).unwrap().shape;
            for place in &recovery_places {
                let at = *place as usize % bytes.len();
                bytes[at] ^= 1;
            }
            let mut hurt = object.clone();
            for place in &places {
                hurt[*place as usize % len] ^= 0x41;
            }
            let shards: std::collections::BTreeSet<u32> =
                (0..shape.data()).filter(|n| {
                    let range = *n as usize * SHARD_LEN..((*n as usize + 1) * SHARD_LEN).min(len);
                    hurt[range.clone()] != object[range]
                }).collect();
            let parsed = Sidecar::decode(&bytes).unwrap();
            let usable = (0..shape.recovery).filter(|n| parsed.recovery(*n).is_some()).count();
            let before = hurt.clone();
            match mend(&parsed, &mut hurt, &[]) {
                Ok(mended) if shards.is_subset(&mended.iter().copied().collect()) => prop_assert!(hurt == object),
                Ok(mended) => prop_assert!(false, "{mended:?} of {shards:?}"),
                Err(_) => prop_assert!(shards.len() > usable && hurt == before),
            }
        }
    }
}
