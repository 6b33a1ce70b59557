//! Receipts: the public, signed checklist that commits a snapshot (docs/FORMAT.md section 6).

use crate::{
    error::{Error, Result},
    format::{Digest, SnapshotId, digest, unhex},
};

/// Longest receipt accepted, in bytes: room for half a million new packs.
pub const RECEIPT_LEN_MAX: usize = 64 << 20;

/// The place of a snapshot: who sealed it, and where in that sealer's chain it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SnapshotKey {
    /// Who sealed it.
    pub sealer: String,
    /// Its number, from 1.
    pub seq: u64,
}

impl SnapshotKey {
    /// The highest sequence number: it has ten digits.
    pub const SEQ_MAX: u64 = 9_999_999_999;

    /// The path of the manifest.
    pub fn manifest(&self) -> String {
        format!("snaps/{}/{:010}.age", self.sealer, self.seq)
    }

    /// The path of the receipt.
    pub fn receipt(&self) -> String {
        format!("snaps/{}/{:010}.b3", self.sealer, self.seq)
    }

    /// The path of the signature.
    pub fn signature(&self) -> String {
        format!("snaps/{}/{:010}.b3.sig", self.sealer, self.seq)
    }

    /// Splits `snaps/<sealer>/<seq>.<suffix>`.
    pub fn parse(path: &str) -> Option<(Self, &str)> {
        let (sealer, file) = path.strip_prefix("snaps/")?.split_once('/')?;
        let (digits, suffix) = file.split_at_checked(10)?;
        let seq = digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())??;
        is_name(sealer).then(|| (Self { sealer: sealer.to_owned(), seq }, suffix.strip_prefix('.').unwrap_or("")))
    }
}

impl std::fmt::Display for SnapshotKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.sealer, self.seq)
    }
}

/// Whether `name` may name a sealer.
pub fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.starts_with(['.', '-'])
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

/// Returns a sealer name made from any text.
pub fn name_from(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' }).collect();
    let clean: String = clean.trim_start_matches(['.', '-']).chars().take(64).collect();
    if clean.is_empty() { "host".to_owned() } else { clean }
}

/// One object in a checklist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// Its path in the vault.
    pub path: String,
}

/// A checklist in the form of `b3sum`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Receipt {
    /// One line an object.
    pub lines: Vec<Line>,
}

impl Receipt {
    /// Adds an object.
    pub fn push(&mut self, digest: Digest, path: impl Into<String>) {
        self.lines.push(Line { digest, path: path.into() });
    }

    /// Returns the text.
    pub fn encode(&self) -> Vec<u8> {
        self.lines.iter().map(|line| format!("{}  {}\n", line.digest, line.path)).collect::<String>().into_bytes()
    }

    /// Reads a receipt.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let broken = || Error::corrupt("a receipt is not a list of hashes and paths");
        let text =
            std::str::from_utf8(bytes).ok().filter(|text| text.len() <= RECEIPT_LEN_MAX && text.ends_with('\n')).ok_or_else(broken)?;
        let line = |line: &str| {
            let (hash, path) = line.split_once("  ")?;
            let legal = !path.is_empty() && !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
            Some(Line { digest: Digest::from_bytes(unhex(hash)?), path: legal.then(|| path.to_owned())? })
        };
        // No `lines()`: that takes a carriage return for a part of the break, and b3sum for one of the name.
        let lines = text.split_terminator('\n').map(|l| line(l).ok_or_else(broken)).collect::<Result<_>>()?;
        Ok(Self { lines })
    }

    /// The id of the snapshot whose receipt has these bytes.
    pub fn id(bytes: &[u8]) -> SnapshotId {
        SnapshotId::from_bytes(*digest(bytes).as_bytes())
    }

    /// The line of the receipt before this one: its place, and its id.
    pub fn previous(&self) -> Option<(SnapshotKey, SnapshotId)> {
        self.previous_all().next()
    }

    /// The receipts that this one goes on from: more than one where two machines sealed under one name.
    pub fn previous_all(&self) -> impl Iterator<Item = (SnapshotKey, SnapshotId)> {
        self.lines.iter().filter_map(|line| match SnapshotKey::parse(&line.path)? {
            (key, "b3") => Some((key, SnapshotId::from_bytes(*line.digest.as_bytes()))),
            _ => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_is_what_b3sum_reads() {
        let mut receipt = Receipt::default();
        receipt.push(digest(b"x"), "VAULT");
        receipt.push(digest(b"y"), "snaps/host1/0000000041.b3");
        let bytes = receipt.encode();
        // Found by fuzzing: a name that ended in a carriage return was read without it.
        let foreign = String::from_utf8(bytes.clone()).unwrap().replace('\n', "\r\n").into_bytes();
        assert!(Receipt::decode(&foreign).map_or(true, |read| read.encode() == foreign));
        assert!(bytes.starts_with(digest(b"x").to_string().as_bytes()) && bytes[64..].starts_with(b"  VAULT\n"));
        let read = Receipt::decode(&bytes).unwrap();
        assert_eq!(read, receipt);
        assert_eq!(read.previous().unwrap().0, SnapshotKey { sealer: "host1".into(), seq: 41 });
        for bad in ["../x", "/etc/passwd", "a//b", ""] {
            let text = format!("{}  {bad}\n", digest(b"x"));
            assert!(Receipt::decode(text.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_host_name_makes_a_legal_name() {
        for host in ["web-1.example.org", "", "..", "-rf", "日本", &"x".repeat(300)] {
            assert!(is_name(&name_from(host)), "{host}");
        }
    }
}
