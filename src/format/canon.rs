//! Is this CBOR deterministic? RFC 8949 section 4.2.1, restricted to what our structures use.
//!
//! Run before decoding, so that one value has one encoding and an id names one meaning. Accepts unsigned and
//! negative integers, byte and text strings, arrays, and maps with unsigned integer keys or text keys in order.

use crate::error::{Error, Result};

/// Deepest nesting in any structure of ours is 4 (manifest → stats; node → entries → entry → xattrs → pair).
const DEPTH_MAX: u32 = 8;

/// Refuses bytes that are not exactly one deterministic CBOR item.
pub fn check(bytes: &[u8], what: &str) -> Result<()> {
    let mut walk = Walk { bytes, at: 0 };
    match walk.item(0) {
        Some(()) if walk.at == bytes.len() => Ok(()),
        _ => Err(Error::corrupt(format!("{what} is not deterministic CBOR at byte {}", walk.at))),
    }
}

/// Reads items one after the other; `None` for what is not deterministic.
pub(super) struct Walk<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
}

impl<'a> Walk<'a> {
    /// Passes over one item, with what is in it.
    pub fn item(&mut self, depth: u32) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        let (major, value) = self.head()?;
        match major {
            0 | 1 => Some(()),
            2 | 3 => self.taken(value).map(drop),
            4 => (0..value).try_for_each(|_| self.item(depth + 1)),
            5 => {
                let mut previous = None;
                for _ in 0..value {
                    // Keys in ascending bytewise order of their encodings, so none twice.
                    let key = self.key()?;
                    if previous.is_some_and(|previous| key <= previous) {
                        return None;
                    }
                    previous = Some(key);
                    self.item(depth + 1)?;
                }
                Some(())
            }
            _ => None,
        }
    }

    /// The key of a map: its type and number, or length, and its text. Such tuples are in the order of the encodings.
    fn key(&mut self) -> Option<(u8, u64, &'a [u8])> {
        let (major, value) = self.head()?;
        match major {
            0 => Some((0, value, &[])),
            3 => Some((3, value, self.taken(value)?)),
            _ => None,
        }
    }

    /// The next `len` bytes.
    fn taken(&mut self, len: u64) -> Option<&'a [u8]> {
        let bytes = self.bytes.get(self.at..self.at.checked_add(usize::try_from(len).ok()?)?)?;
        self.at += bytes.len();
        Some(bytes)
    }

    /// The number or length of the next head, which must be of type `major`.
    pub fn of(&mut self, major: u8) -> Option<u64> {
        self.head().filter(|(is, _)| *is == major).map(|(_, value)| value)
    }

    /// The next byte string.
    pub fn string(&mut self) -> Option<&'a [u8]> {
        let len = self.of(2)?;
        self.taken(len)
    }

    /// One initial byte with its argument in the shortest form.
    fn head(&mut self) -> Option<(u8, u64)> {
        let first = *self.bytes.get(self.at)?;
        let short = first & 31;
        if short < 24 {
            self.at += 1;
            return Some((first >> 5, u64::from(short)));
        }
        let extra = if short <= 27 { 1usize << (short - 24) } else { return None };
        let argument = self.bytes.get(self.at + 1..self.at + 1 + extra)?;
        let value = argument.iter().fold(0u64, |sum, b| sum << 8 | u64::from(*b));
        let shortest = if extra == 1 { value >= 24 } else { value >> (4 * extra) != 0 };
        self.at += 1 + extra;
        shortest.then_some((first >> 5, value))
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn one_value_has_one_encoding() {
        for good in [&[0x00][..], &[0x18, 0x18], &[0xa1, 0x00, 0x01], &[0xa2, 0x00, 0x01, 0x01, 0x41, 0xff], &[0x3a, 0, 1, 0, 0]] {
            assert!(check(good, "test").is_ok(), "{good:x?}");
        }
        let bad: [&[u8]; 9] = [
            &[0x18, 0x17],                                           // 23 in two bytes
            &[0x19, 0x00, 0xff],                                     // 255 in three
            &[0x1b, 0, 0, 0, 0, 1, 0, 0, 0],                         // fits four
            &[0x9f, 0xff],                                           // indefinite
            &[0xa2, 0x01, 0x00, 0x00, 0x00],                         // keys out of order
            &[0xa2, 0x01, 0x00, 0x01, 0x00],                         // a key twice
            &[0x00, 0x00],                                           // two items
            &[0x5b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], // a length that no memory has
            &[0x9b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ];
        for bytes in bad {
            assert!(check(bytes, "test").is_err(), "{bytes:x?}");
        }
    }
}
