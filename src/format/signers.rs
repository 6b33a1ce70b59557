//! `allowed_signers`: whose signature counts, in OpenSSH's own format (ssh-keygen(1), ALLOWED SIGNERS).

use crate::{
    error::{Error, Result},
    format::{Digest, SnapshotId, SnapshotKey, is_name, unhex},
};

/// Namespace of receipts.
pub const NAMESPACE_RECEIPT: &str = "coffre-receipt-v1";
/// Namespaces of the owner.
const NAMESPACES_OWNER: &str = "coffre-gc-v1,coffre-signers-v1";
/// Starts a comment that holds a line of `b3sum`: the last receipt of a revoked sealer that counts.
const LAST: &str = "#last ";
/// Starts the comment in the first line, in which a list says its number: under another one it is a copy that somebody made.
const NUMBER: &str = "#list ";

/// From when on a sealer's signature counts no more, and what counts that it signed before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// UTC, `YYYYMMDDHHMMSSZ`, as OpenSSH writes it.
    pub since: String,
    /// The last snapshots that count, and with them all that their chains name: one, more where two machines sealed under
    /// one name, none if none counts.
    pub last: Vec<(u64, SnapshotId)>,
}

impl Revocation {
    /// The moment for people: `2025-11-08 02:00:00 UTC`.
    pub fn since_text(&self) -> String {
        let part = |from: usize, to: usize| self.since.get(from..to).unwrap_or_default();
        format!("{}-{}-{} {}:{}:{} UTC", part(0, 4), part(4, 6), part(6, 8), part(8, 10), part(10, 12), part(12, 14))
    }

    /// Whether `text` is a moment as this wants it.
    fn is_stamp(text: &str) -> bool {
        text.len() == 15 && text.ends_with('Z') && text[..14].bytes().all(|b| b.is_ascii_digit())
    }
}

/// One line: a name and its public key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signer {
    /// A sealer's name, or `owner`.
    pub name: String,
    /// `ssh-ed25519 AAAA…`.
    pub key: String,
    /// Whether this is the owner's line.
    pub owner: bool,
    /// Set once the owner took the right to seal back.
    pub revoked: Option<Revocation>,
}

impl Signer {
    fn encode(&self) -> String {
        let namespaces = if self.owner { NAMESPACES_OWNER } else { NAMESPACE_RECEIPT };
        let until = self.revoked.as_ref().map(|r| format!(",valid-before=\"{}\"", r.since)).unwrap_or_default();
        let mut text = format!("{} namespaces=\"{namespaces}\"{until} {}\n", self.name, self.key);
        for (seq, id) in self.revoked.iter().flat_map(|r| &r.last) {
            let place = SnapshotKey { sealer: self.name.clone(), seq: *seq };
            text.push_str(&format!("{LAST}{id}  {}\n", place.receipt()));
        }
        text
    }

    fn decode(line: &str) -> Option<Self> {
        let mut words = line.splitn(3, ' ');
        let (name, options, key) = (words.next()?, words.next()?, words.next()?);
        let (namespaces, rest) = options.strip_prefix("namespaces=\"")?.split_once('"')?;
        let revoked = match rest {
            "" => None,
            rest => {
                let since = rest.strip_prefix(",valid-before=\"")?.strip_suffix('"').filter(|t| Revocation::is_stamp(t))?;
                Some(Revocation { since: since.to_owned(), last: Vec::new() })
            }
        };
        let owner = namespaces == NAMESPACES_OWNER && revoked.is_none();
        (is_name(name) && (owner || namespaces == NAMESPACE_RECEIPT)).then(|| Signer {
            name: name.to_owned(),
            key: key.trim().to_owned(),
            owner,
            revoked,
        })
    }
}

/// The list, in the order in which signers were added; the order never changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signers(pub Vec<Signer>);

impl Signers {
    /// Returns the text of list number `number`.
    pub fn encode(&self, number: u32) -> Vec<u8> {
        let mut text = format!("{NUMBER}{number:04}\n");
        text.extend(self.0.iter().map(Signer::encode));
        text.into_bytes()
    }

    /// The number that the list in `bytes` says it has; `None` if it is older than such numbers.
    pub fn number_in(bytes: &[u8]) -> Option<u32> {
        let line = bytes.strip_prefix(NUMBER.as_bytes())?.split(|b| *b == b'\n').next()?;
        std::str::from_utf8(line).ok()?.parse().ok()
    }

    /// Takes in what `older` has and this list lacks: signers, at the end, and revocations. Nothing is ever taken out of a list.
    pub fn take_in(&mut self, older: &Signers) {
        for theirs in &older.0 {
            match self.0.iter_mut().find(|ours| ours.owner == theirs.owner && ours.name == theirs.name) {
                None => self.0.push(theirs.clone()),
                Some(ours) if ours.revoked.is_none() => ours.revoked.clone_from(&theirs.revoked),
                Some(_) => (),
            }
        }
    }

    /// Reads a list; lines with options that we do not write are skipped.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| Error::corrupt("signers/allowed_signers is not text"))?;
        let mut signers: Vec<Signer> = text.lines().filter(|l| !l.starts_with('#')).filter_map(Signer::decode).collect();
        let last = |line: &str| {
            let (hash, path) = line.strip_prefix(LAST)?.split_once("  ")?;
            let (place, suffix) = SnapshotKey::parse(path)?;
            let id = SnapshotId::from_bytes(*Digest::from_bytes(unhex(hash)?).as_bytes());
            (suffix == "b3").then_some((place, id))
        };
        for (place, id) in text.lines().filter_map(last) {
            let named = signers.iter_mut().filter(|s| !s.owner && s.name == place.sealer);
            named.filter_map(|s| s.revoked.as_mut()).for_each(|revoked| revoked.last.push((place.seq, id)));
        }
        Ok(Self(signers))
    }

    /// The line of sealer `name`, revoked or not.
    pub fn line(&self, name: &str) -> Option<&Signer> {
        self.0.iter().find(|s| !s.owner && s.name == name)
    }

    /// The public key of sealer `name`, revoked or not.
    pub fn sealer(&self, name: &str) -> Option<&str> {
        self.line(name).map(|s| s.key.as_str())
    }

    /// When sealer `name` was revoked, if it was.
    pub fn revoked(&self, name: &str) -> Option<&Revocation> {
        self.line(name)?.revoked.as_ref()
    }

    /// Who signs with this public key.
    pub fn whose(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|s| s.key == key).map(|s| s.name.as_str())
    }

    /// The owner's public key.
    pub fn owner(&self) -> Option<&str> {
        self.0.iter().find(|s| s.owner).map(|s| s.key.as_str())
    }

    /// Where sealer `name` stands in the list: a number that never changes.
    pub fn ordinal(&self, name: &str) -> Option<usize> {
        self.0.iter().position(|s| !s.owner && s.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::digest;

    #[test]
    fn a_list_with_a_revoked_sealer_reads_back_and_every_other_option_is_passed_over() {
        let signer = |name: &str, owner, revoked| Signer { name: name.to_owned(), key: format!("ssh-ed25519 {name}"), owner, revoked };
        let id = SnapshotId::from_bytes(*digest(b"receipt").as_bytes());
        let revoked = |last| Some(Revocation { since: "20251108020000Z".to_owned(), last });
        let list = Signers(vec![
            signer("owner", true, None),
            signer("a", false, revoked(vec![(41, id), (42, id)])),
            signer("b", false, revoked(Vec::new())),
        ]);
        let text = String::from_utf8(list.encode(7)).unwrap();
        assert_eq!((Signers::number_in(text.as_bytes()), Signers::number_in(b"owner ")), (Some(7), None));
        assert!(text.contains("a namespaces=\"coffre-receipt-v1\",valid-before=\"20251108020000Z\" ssh-ed25519 a\n"), "{text}");
        assert!(text.contains(&format!("#last {id}  snaps/a/0000000042.b3\n")), "{text}");
        assert_eq!(Signers::decode(text.as_bytes()).unwrap(), list);
        assert_eq!(list.revoked("a").unwrap().since_text(), "2025-11-08 02:00:00 UTC");
        // Whatever order two lists were written in, nothing of either is lost.
        let mut other = Signers(vec![list.0[0].clone(), signer("a", false, None), signer("c", false, None)]);
        other.take_in(&list);
        assert_eq!(other.0, [list.0[0].clone(), list.0[1].clone(), signer("c", false, None), list.0[2].clone()]);
        // What cannot be read does not make a signer stronger than it is.
        for option in ["valid-before=\"2025\"", "valid-before=\"20251108020000\"", "cert-authority"] {
            let text = format!("c namespaces=\"coffre-receipt-v1\",{option} ssh-ed25519 c\n");
            assert_eq!(Signers::decode(text.as_bytes()).unwrap().0, [], "{option}");
        }
    }
}
