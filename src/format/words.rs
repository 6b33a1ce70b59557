//! A hash in a few words, to be compared by eye, read over the telephone, and typed.
//!
//! The words are those of BIP-39 (`words/english.txt`; MIT, see `words/LICENSE`): 2048 of them, 13 KB, all common, none
//! easily taken for another, and the first four letters tell which one is meant. Six are the first 66 bits of a snapshot's
//! id, so they begin where the hexadecimal digits begin. Nothing in them is secret.
//!
//! 66 bits are enough: to make another receipt that reads the same takes the sealer's own key and 2^66 attempts.

use crate::format::SnapshotId;

const LIST: &str = include_str!("words/english.txt");
/// How many words name a snapshot.
const WORDS: usize = 6;
/// Each stands for so many bits.
const BITS: usize = 11;
/// As many letters tell one word from all others.
const LETTERS: usize = 4;

/// Bit `at` of `bytes`, counted from the highest bit of the first one.
fn bit(bytes: &[u8; 32], at: usize) -> usize {
    usize::from(bytes[at / 8] >> (7 - at % 8) & 1)
}

/// Which words of the list name `id`.
fn numbers(id: &SnapshotId) -> [usize; WORDS] {
    let number = |n: usize| (n * BITS..(n + 1) * BITS).fold(0, |number, at| number << 1 | bit(id.as_bytes(), at));
    std::array::from_fn(number)
}

/// Returns the six words of `id`, with dashes between them.
pub fn words_of(id: &SnapshotId) -> String {
    let list: Vec<&str> = LIST.lines().collect();
    numbers(id).map(|n| list[n]).join("-")
}

/// A snapshot as somebody wrote it down: its words, or the first digits of its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeadText(Form);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Form {
    Words([usize; WORDS]),
    Hex(String),
}

/// Fewest hexadecimal digits: as many bits as the words have, at least.
const DIGITS_MIN: usize = 17;

impl HeadText {
    /// Reads six words, with dashes or spaces between them, of each the first four letters at least; or 17 to 64 digits.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if (DIGITS_MIN..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Some(Self(Form::Hex(text)));
        }
        let list: Vec<&str> = LIST.lines().collect();
        let number = |word: &str| {
            let fits = |w: &&str| **w == *word || (word.len() >= LETTERS && w.starts_with(word));
            list.iter().position(fits)
        };
        let numbers: Vec<usize> = text.split(['-', ' ']).filter(|w| !w.is_empty()).map(number).collect::<Option<_>>()?;
        Some(Self(Form::Words(numbers.try_into().ok()?)))
    }

    /// Whether this is what `id` is called.
    pub fn names(&self, id: &SnapshotId) -> bool {
        match &self.0 {
            Form::Words(words) => *words == numbers(id),
            Form::Hex(digits) => id.to_string().starts_with(digits),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::digest;

    #[test]
    fn the_list_is_what_it_should_be() {
        assert_eq!(digest(LIST.as_bytes()).short(), "43afe08c", "the list is part of what people wrote down: it never changes");
        let list: Vec<&str> = LIST.lines().collect();
        assert!(list.len() == 1 << BITS && list.is_sorted());
        let starts: std::collections::HashSet<&str> = list.iter().map(|w| &w[..w.len().min(LETTERS)]).collect();
        assert_eq!(starts.len(), list.len(), "four letters tell them apart");
    }

    #[test]
    fn words_are_the_first_bits_of_the_id() {
        let id = |first: &[u8]| {
            let mut bytes = [0; 32];
            bytes[..first.len()].copy_from_slice(first);
            SnapshotId::from_bytes(bytes)
        };
        assert_eq!(words_of(&id(&[])), "abandon-abandon-abandon-abandon-abandon-abandon");
        assert_eq!(words_of(&id(&[0xff; 9])), "zoo-zoo-zoo-zoo-zoo-zoo");
        // 00000000001 00000000010 then zeros.
        assert_eq!(words_of(&id(&[0, 0x20, 0x08])), "ability-able-abandon-abandon-abandon-abandon");
        assert_eq!(words_of(&id(&[0; 8])), words_of(&id(&[0, 0, 0, 0, 0, 0, 0, 0, 0x3f])), "66 bits and no more");
        assert_ne!(words_of(&id(&[])), words_of(&id(&[0, 0, 0, 0, 0, 0, 0, 0, 0x40])));
    }

    #[test]
    fn what_was_written_down_is_known_again_in_every_form_and_nothing_else_is() {
        let (id, other) = (SnapshotId::from_bytes(*digest(b"x").as_bytes()), SnapshotId::from_bytes(*digest(b"y").as_bytes()));
        let words = words_of(&id);
        let short: Vec<&str> = words.split('-').map(|w| &w[..w.len().min(LETTERS)]).collect();
        for text in
            [words.clone(), words.replace('-', " "), words.to_uppercase(), short.join(" "), id.to_string(), id.to_string()[..17].into()]
        {
            let head = HeadText::parse(&text).unwrap_or_else(|| panic!("{text} is read"));
            assert!(head.names(&id) && !head.names(&other), "{text}");
        }
        for wrong in
            ["", "zoo", "zoo-zoo-zoo-zoo-zoo", "zoo-zoo-zoo-zoo-zoo-zoo-zoo", "zo-zo-zo-zo-zo-zo", "12345678", &"f".repeat(65), "web1/3"]
        {
            assert_eq!(HeadText::parse(wrong), None, "{wrong}");
        }
    }
}
