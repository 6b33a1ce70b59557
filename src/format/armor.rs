//! Age files as text (age-encryption.org/v1, ASCII armor: strict PEM), so that one fits on paper.

use crate::error::{Error, Result};

const BEGIN: &str = "-----BEGIN AGE ENCRYPTED FILE-----";
const END: &str = "-----END AGE ENCRYPTED FILE-----";
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// Bytes in a line.
const LINE_LEN: usize = 48;

/// Returns `bytes` between BEGIN and END, 64 characters a line.
pub fn armor(bytes: &[u8]) -> String {
    let mut text = format!("{BEGIN}\n");
    for line in bytes.chunks(LINE_LEN) {
        for three in line.chunks(3) {
            let word = (0..3).fold(0u32, |word, i| word << 8 | u32::from(three.get(i).copied().unwrap_or(0)));
            let digit = |i: usize| match i <= three.len() {
                true => char::from(DIGITS[(word >> (18 - 6 * i)) as usize & 63]),
                false => '=',
            };
            text.extend((0..4).map(digit));
        }
        text.push('\n');
    }
    text.push_str(END);
    text.push('\n');
    text
}

/// Returns the bytes of each block in `text`, with the line before it. Blanks around lines do not count: people type these.
///
/// # Errors
/// `Corrupt` if a block does not end, or holds what is no base64.
pub fn dearmor(text: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let broken = |why: &str| Error::corrupt(format!("an AGE ENCRYPTED FILE in the text is damaged: {why}"));
    let (mut blocks, mut before) = (Vec::new(), "");
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line != BEGIN {
            before = line;
            continue;
        }
        let (mut bytes, mut word, mut bits) = (Vec::new(), 0u32, 0);
        loop {
            let line = lines.next().ok_or_else(|| broken("it does not end"))?;
            if line == END {
                break;
            }
            for c in line.trim_end_matches('=').bytes() {
                let digit = DIGITS.iter().position(|d| *d == c).ok_or_else(|| broken("a character that does not belong there"))?;
                word = word << 6 | digit as u32;
                bits += 6;
                if bits >= 8 {
                    bits -= 8;
                    bytes.push((word >> bits) as u8);
                }
            }
        }
        blocks.push((before.to_owned(), bytes));
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_reads_back_at_every_length() {
        for len in (0..100).chain([1000]) {
            let bytes: Vec<u8> = (0..len).map(|i| (i * 37 + 11) as u8).collect();
            let text = format!("some words\nkeys/x\n  {}more\n", armor(&bytes).replace('\n', "\n  "));
            assert_eq!(dearmor(&text).unwrap(), [("keys/x".to_owned(), bytes)], "{len}");
        }
        assert_eq!(armor(b"age"), format!("{BEGIN}\nYWdl\n{END}\n"));
        assert!(dearmor(&format!("{BEGIN}\nYWdl\n")).is_err() && dearmor(&format!("{BEGIN}\nY?dl\n{END}\n")).is_err());
    }
}
