//! Where files are cut: a gear rolling hash with normalized cut points.
//!
//! Our own code, because cut points are format: a change of one of them silently ends deduplication.
//! Method: Xia et al., "FastCDC" (USENIX ATC 2016), sections 3.2 to 3.4, with a 64-bit hash and the table
//! derived from the domain key. 4.0 GB/s on one core (docs/FORMAT.md section 9).

use zeroize::Zeroizing;

/// Shortest chunk that a cut makes, in bytes; files up to this are one chunk.
pub const CHUNK_LEN_MIN: usize = 32 << 10;
/// Where cutting becomes easier, in bytes.
pub const CHUNK_LEN_AVERAGE: usize = 128 << 10;
/// Longest chunk, in bytes.
pub const CHUNK_LEN_MAX: usize = 512 << 10;

/// Bytes that a hash depends on: above the 64th step a byte's influence is shifted out.
const WINDOW: usize = 64;
/// A cut is where the hash is below one of these: 19 zero bits at its top up to the average, 15 beyond.
const BELOW_HARD: u64 = 1 << (64 - 19);
const BELOW_EASY: u64 = 1 << (64 - 15);
/// Stretches that are hashed side by side, and the bytes of each. The next hash waits for the one before it, so a core hashes four
/// stretches in little more than the time of one: 4.0 GB/s for 2.6 (two to six stretches of 512 to 2048 bytes were measured).
const LANES: usize = 4;
const LANE_LEN: usize = 1024;

/// Finds cut points with one gear table.
#[derive(Clone)]
pub struct Chunker {
    gear: Box<Zeroizing<[u64; 256]>>,
}

impl Chunker {
    /// Cuts with `gear`, the table of a dedup domain.
    pub fn new(gear: Box<Zeroizing<[u64; 256]>>) -> Self {
        Self { gear }
    }

    /// Returns the length of the first chunk of `data`, 1 to `CHUNK_LEN_MAX`; 0 only for no data.
    ///
    /// `data` must hold `CHUNK_LEN_MAX` bytes or reach to the end of the run, or the cut would depend on
    /// how it was handed over.
    pub fn cut(&self, data: &[u8]) -> usize {
        if data.len() <= CHUNK_LEN_MIN {
            return data.len();
        }
        let end = data.len().min(CHUNK_LEN_MAX);
        let middle = end.min(CHUNK_LEN_AVERAGE);
        let cut = self.search(data, CHUNK_LEN_MIN - 1, middle, BELOW_HARD);
        cut.or_else(|| self.search(data, middle, end, BELOW_EASY)).unwrap_or(end)
    }

    /// The place behind the first byte of `from..to` at which the hash is below `limit`.
    #[expect(clippy::needless_range_loop, reason = "four arrays are walked side by side")]
    fn search(&self, data: &[u8], from: usize, to: usize, limit: u64) -> Option<usize> {
        let mut at = from;
        while to - at >= LANES * LANE_LEN {
            let lane = |i: usize| at + i * LANE_LEN;
            let mut hashes: [u64; LANES] = std::array::from_fn(|i| self.hash_before(data, lane(i)));
            let bytes: [&[u8; LANE_LEN]; LANES] =
                std::array::from_fn(|i| data[lane(i)..lane(i) + LANE_LEN].try_into().expect("a lane of this length"));
            let mut first: Option<usize> = None;
            for j in 0..LANE_LEN {
                let mut least = u64::MAX;
                for i in 0..LANES {
                    hashes[i] = self.step(hashes[i], bytes[i][j]);
                    least = least.min(hashes[i]);
                }
                if least < limit {
                    // The lowest lane's find is the first of the four; what lower lanes find later still comes before it.
                    let i = hashes.iter().position(|hash| *hash < limit).expect("the least is one of them");
                    let found = lane(i) + j;
                    first = Some(first.map_or(found, |before| before.min(found)));
                    if i == 0 {
                        break;
                    }
                }
            }
            if let Some(found) = first {
                return Some(found + 1);
            }
            at += LANES * LANE_LEN;
        }
        let mut hash = if at < to { self.hash_before(data, at) } else { 0 };
        for (i, byte) in data[at..to].iter().enumerate() {
            hash = self.step(hash, *byte);
            if hash < limit {
                return Some(at + i + 1);
            }
        }
        None
    }

    #[inline(always)]
    fn step(&self, hash: u64, byte: u8) -> u64 {
        (hash << 1).wrapping_add(self.gear[usize::from(byte)])
    }

    /// The hash that the byte at `at` goes on from: of the 63 bytes before it.
    #[inline(always)]
    fn hash_before(&self, data: &[u8], at: usize) -> u64 {
        data[at + 1 - WINDOW..at].iter().fold(0, |hash, byte| self.step(hash, *byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::{DomainKeys, Key32};

    /// A cheap stream of bytes that looks random: xorshift64*.
    fn noise(len: usize, mut state: u64) -> Vec<u8> {
        (0..len)
            .map(|_| {
                state ^= state >> 12;
                state ^= state << 25;
                state ^= state >> 27;
                (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 56) as u8
            })
            .collect()
    }

    fn cuts(chunker: &Chunker, mut data: &[u8]) -> Vec<usize> {
        let mut lens = Vec::new();
        while !data.is_empty() {
            let len = chunker.cut(data);
            lens.push(len);
            data = &data[len..];
        }
        lens
    }

    /// Golden: the table of the all-sevens key and the cuts of a fixed stream. If this fails, the format changed.
    #[test]
    fn cut_points_are_what_they_always_were() {
        let chunker = Chunker::new(DomainKeys::derive(&Key32::new([7; 32])).gear);
        let lens = cuts(&chunker, &noise(4 << 20, 0x1234_5678_9abc_def1));
        let golden = include_str!("../../tests/data/gear.txt");
        let table: Vec<String> = chunker.gear[..4].iter().map(|w| format!("{w:016x}")).collect();
        let text: Vec<String> = lens.iter().map(usize::to_string).collect();
        assert_eq!(format!("{}\n{}\n", table.join(" "), text.join(" ")), golden);
    }

    /// The method as the paper has it, a byte at a time.
    fn cut_plainly(gear: &[u64; 256], data: &[u8]) -> usize {
        let mut hash = 0u64;
        for (at, byte) in data.iter().enumerate().take(CHUNK_LEN_MAX) {
            hash = (hash << 1).wrapping_add(gear[usize::from(*byte)]);
            let bits = if at < CHUNK_LEN_AVERAGE { 19 } else { 15 };
            if at + 1 >= CHUNK_LEN_MIN && hash >> (64 - bits) == 0 {
                return at + 1;
            }
        }
        data.len().min(CHUNK_LEN_MAX)
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(48))]

        #[test]
        fn four_lanes_cut_where_one_does(seed in 1u64.., len in 0usize..1 << 20, spread in 1u64..=256) {
            let chunker = Chunker::new(DomainKeys::derive(&Key32::new([seed as u8; 32])).gear);
            // Few different bytes make cuts rare or frequent, and repeat the same windows.
            let data: Vec<u8> = noise(len, seed).into_iter().map(|b| (u64::from(b) % spread) as u8).collect();
            let mut rest = &data[..];
            while !rest.is_empty() {
                let cut = chunker.cut(rest);
                proptest::prop_assert_eq!(cut, cut_plainly(&chunker.gear, rest));
                rest = &rest[cut..];
            }
        }
    }

    #[test]
    fn chunks_cover_the_data_within_the_limits_and_find_back_after_an_insert() {
        let chunker = Chunker::new(DomainKeys::derive(&Key32::new([1; 32])).gear);
        let data = noise(8 << 20, 99);
        let lens = cuts(&chunker, &data);
        assert_eq!(lens.iter().sum::<usize>(), data.len());
        let (last, others) = lens.split_last().unwrap();
        assert!(others.iter().all(|len| (CHUNK_LEN_MIN..=CHUNK_LEN_MAX).contains(len)) && *last <= CHUNK_LEN_MAX);
        let average = data.len() / lens.len();
        assert!((100 << 10..170 << 10).contains(&average), "average {average}");

        let mut changed = data[..1 << 20].to_vec();
        changed.extend_from_slice(b"inserted");
        changed.extend_from_slice(&data[1 << 20..]);
        let ends = |lens: &[usize], from_end: usize| {
            lens.iter()
                .rev()
                .scan(from_end, |end, len| {
                    *end -= len;
                    Some(*end)
                })
                .take(40)
                .collect::<Vec<_>>()
        };
        let (a, b) = (ends(&lens, data.len()), ends(&cuts(&chunker, &changed), data.len()));
        assert_eq!(a, b, "the cuts behind an insertion do not move with it");
    }
}
