//! Where files are cut: a gear rolling hash with normalized cut points.
//!
//! Our own code, because cut points are format: a change of one of them silently ends deduplication.
//! Method: Xia et al., "FastCDC" (USENIX ATC 2016), sections 3.2 to 3.4, with a 64-bit hash and the table
//! derived from the domain key. 2.3 GB/s on one core (docs/FORMAT.md section 8).

/// Shortest chunk that a cut makes, in bytes; files up to this are one chunk.
pub const CHUNK_LEN_MIN: usize = 32 << 10;
/// Where cutting becomes easier, in bytes.
pub const CHUNK_LEN_AVERAGE: usize = 128 << 10;
/// Longest chunk, in bytes.
pub const CHUNK_LEN_MAX: usize = 512 << 10;

/// Above the mask's bits a byte's influence is shifted out after this many steps.
const WINDOW: usize = 64;
const MASK_HARD: u64 = !0 << (64 - 19);
const MASK_EASY: u64 = !0 << (64 - 15);

/// Finds cut points with one gear table.
#[derive(Clone)]
pub struct Chunker {
    gear: Box<[u64; 256]>,
}

impl Chunker {
    /// Cuts with `gear`, the table of a dedup domain.
    pub fn new(gear: Box<[u64; 256]>) -> Self {
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
        let mut hash = 0u64;
        for byte in &data[CHUNK_LEN_MIN - WINDOW..CHUNK_LEN_MIN - 1] {
            hash = (hash << 1).wrapping_add(self.gear[usize::from(*byte)]);
        }
        let mut at = CHUNK_LEN_MIN - 1;
        for (stop, mask) in [(middle, MASK_HARD), (end, MASK_EASY)] {
            while at < stop {
                hash = (hash << 1).wrapping_add(self.gear[usize::from(data[at])]);
                at += 1;
                if hash & mask == 0 {
                    return at;
                }
            }
        }
        end
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
