//! Where the bytes of a file lie between its holes.

use crate::format::{Content, Data, Entry, Hole};

/// Where the data of a file goes: walks over its holes.
pub struct Layout<'a> {
    holes: &'a [Hole],
    at: u64,
}

impl<'a> Layout<'a> {
    /// From the start of a file with these holes.
    pub fn new(holes: &'a [Hole]) -> Self {
        let mut layout = Self { holes, at: 0 };
        layout.skip();
        layout
    }

    fn skip(&mut self) {
        if let [hole, rest @ ..] = self.holes
            && hole.offset == self.at
        {
            self.at = hole.offset.saturating_add(hole.len);
            self.holes = rest;
        }
    }

    /// The offset of the next `len` bytes of data, which lie on both sides of holes perhaps.
    pub fn place(&mut self, len: u64) -> u64 {
        let start = self.at;
        let mut left = len;
        while let [hole, ..] = self.holes
            && hole.offset - self.at <= left
        {
            left -= hole.offset - self.at;
            self.at = hole.offset;
            self.skip();
        }
        self.at = self.at.saturating_add(left);
        start
    }
}

/// The runs in which `len` bytes from `offset` on go into a file with these holes: offset in the file, and range of the bytes.
pub fn runs(holes: &[Hole], offset: u64, len: usize) -> impl Iterator<Item = (u64, std::ops::Range<usize>)> + '_ {
    let mut next = holes.partition_point(|hole| hole.offset <= offset);
    let (mut at, mut done) = (offset, 0);
    std::iter::from_fn(move || {
        if done == len {
            return None;
        }
        let room = holes.get(next).map_or(u64::MAX, |hole| hole.offset - at);
        let n = (len - done).min(usize::try_from(room).unwrap_or(usize::MAX));
        let run = (at, done..done + n);
        done += n;
        at += n as u64;
        if let Some(hole) = holes.get(next).filter(|hole| hole.offset == at) {
            at += hole.len;
            next += 1;
        }
        Some(run)
    })
}

/// Bytes of data in an entry, holes left out.
pub fn data_len(entry: &Entry) -> u64 {
    match &entry.content {
        Content::File { data: Data::Inline(bytes), .. } => bytes.len() as u64,
        Content::File { size, holes, .. } => size - holes.iter().map(|hole| hole.len).sum::<u64>().min(*size),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_goes_around_the_holes() {
        let hole = |offset, len| Hole { offset, len };
        let holes = [hole(0, 10), hole(15, 5), hole(30, 100)];
        let mut layout = Layout::new(&holes);
        assert_eq!([layout.place(3), layout.place(4), layout.place(8), layout.place(5)], [10, 13, 22, 130]);
        let of = |offset, len| runs(&holes, offset, len).collect::<Vec<_>>();
        assert_eq!(of(10, 3), [(10, 0..3)]);
        assert_eq!(of(13, 4), [(13, 0..2), (20, 2..4)]);
        assert_eq!(of(22, 10), [(22, 0..8), (130, 8..10)]);
        assert_eq!(of(130, 5), [(130, 0..5)]);
        assert_eq!(of(13, 2), [(13, 0..2)]);
        assert_eq!(runs(&[], 7, 9).collect::<Vec<_>>(), [(7, 0..9)]);
        assert_eq!(runs(&[], 7, 0).count(), 0);
        let mut plain = Layout::new(&[]);
        assert_eq!([plain.place(5), plain.place(6), plain.place(1)], [0, 5, 11]);
    }
}
