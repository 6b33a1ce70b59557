//! Records of `gc/`: what the owner decided about snapshots and objects (docs/FORMAT.md section 7).
//!
//! Only adds up: a record takes nothing back but by saying so. What the records amount to is `vault::Journal`'s.

use crate::{
    error::{Error, Result},
    format::{Digest, SnapshotId, SnapshotKey, VaultId, digest, hex, is_name, unhex},
};

/// Longest record accepted, in bytes: room for a hundred thousand decisions.
pub const GC_RECORD_LEN_MAX: usize = 16 << 20;

/// One decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The snapshot is no longer wanted.
    Forget(SnapshotKey, SnapshotId),
    /// It is wanted after all.
    Undelete(SnapshotKey, SnapshotId),
    /// It must not be forgotten.
    Pin(SnapshotKey, SnapshotId),
    /// It may be forgotten like any other.
    Unpin(SnapshotKey, SnapshotId),
    /// Its objects are being deleted: it cannot come back.
    Gone(SnapshotKey, SnapshotId),
    /// What `list` names is to be deleted, not before so many seconds have passed since this record; what `fresh` names takes its place.
    Condemn {
        /// The list `gc/<64 hex>.b3` of what goes.
        list: Digest,
        /// The list of what was written in its place, if anything was.
        fresh: Option<Digest>,
        /// Seconds.
        grace_secs: u64,
    },
    /// Everything that the record of this name condemned is deleted, or spared.
    Settled(String),
    /// This object was condemned and is needed after all.
    Spare(String),
    /// No receipt and no record names this object: it will be condemned if that is still so after a while.
    Loose(String),
    /// What the list `gc/<64 hex>.b3` names, all of it condemned before, is being deleted from now on.
    Delete(Digest),
    /// The record of this name was the newest, or one of them, when this one was written.
    After(String),
}

/// Some decisions, made at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcRecord {
    /// When, by the clock of the owner's machine: ns since 1970.
    pub time_ns: i128,
    /// The decisions, in order.
    pub decisions: Vec<Decision>,
}

impl GcRecord {
    /// Returns the text.
    pub fn encode(&self, vault: VaultId) -> Vec<u8> {
        let mut text = format!("coffre-gc 1\nvault {vault}\ntime {}\n", self.time_ns);
        for decision in &self.decisions {
            let line = match decision {
                Decision::Forget(key, id) => format!("forget {key} {id}"),
                Decision::Undelete(key, id) => format!("undelete {key} {id}"),
                Decision::Pin(key, id) => format!("pin {key} {id}"),
                Decision::Unpin(key, id) => format!("unpin {key} {id}"),
                Decision::Gone(key, id) => format!("gone {key} {id}"),
                Decision::Condemn { list, fresh: None, grace_secs } => format!("condemn {grace_secs} {list}"),
                Decision::Condemn { list, fresh: Some(fresh), grace_secs } => format!("condemn {grace_secs} {list} {fresh}"),
                Decision::Settled(name) => format!("settled {name}"),
                Decision::Spare(path) => format!("spare {path}"),
                Decision::Loose(path) => format!("loose {path}"),
                Decision::Delete(list) => format!("delete {list}"),
                Decision::After(name) => format!("after {name}"),
            };
            text.push_str(&line);
            text.push('\n');
        }
        text.into_bytes()
    }

    /// Reads a record of `vault`.
    ///
    /// # Errors
    /// `Unsupported` if a newer coffre wrote it: a decision that is not understood must not be passed over.
    pub fn decode(bytes: &[u8], vault: VaultId) -> Result<Self> {
        let broken = || Error::corrupt("a record of gc/ cannot be understood");
        let text = std::str::from_utf8(bytes).ok().filter(|text| text.len() <= GC_RECORD_LEN_MAX && text.ends_with('\n'));
        let mut lines = text.ok_or_else(broken)?.lines();
        match lines.next().and_then(|line| line.strip_prefix("coffre-gc ")) {
            Some("1") => (),
            Some(version) => return Err(Error::unsupported(format!("a record of gc/ has version {version}; this coffre reads 1"))),
            None => return Err(broken()),
        }
        let fact = |line: Option<&'_ str>, name: &str| line?.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned);
        if fact(lines.next(), "vault").as_deref().and_then(unhex).map(VaultId) != Some(vault) {
            return Err(Error::corrupt("a record of gc/ belongs to another vault"));
        }
        let time_ns = fact(lines.next(), "time").and_then(|ns| ns.parse().ok()).ok_or_else(broken)?;
        let decisions = lines.map(|line| decision(line).ok_or_else(broken)?).collect::<Result<_>>()?;
        Ok(Self { time_ns, decisions })
    }

    /// Most numbers that there can be: names have ten digits.
    pub const SEQ_MAX: u64 = 9_999_999_999;

    /// The name of record number `seq` with these bytes: `0000000003.1a2b3c4d5e6f7081`. Two records never share one, whoever writes them.
    pub fn name(seq: u64, bytes: &[u8]) -> String {
        format!("{seq:010}.{}", hex(&digest(bytes).as_bytes()[..8]))
    }

    /// The number in the name of a record.
    pub fn seq(name: &str) -> Option<u64> {
        let (seq, hash) = name.split_once('.')?;
        let digits = seq.len() == 10 && seq.bytes().all(|b| b.is_ascii_digit());
        (digits && unhex::<8>(hash).is_some()).then(|| seq.parse().ok())?
    }
}

/// Reads a line. `None` if it makes no sense.
fn decision(line: &str) -> Option<Result<Decision>> {
    let words: Vec<&str> = line.split(' ').collect();
    let snapshot = |place: &str, id: &str| {
        let (sealer, seq) = place.split_once('/').filter(|(sealer, _)| is_name(sealer))?;
        Some((SnapshotKey { sealer: sealer.to_owned(), seq: seq.parse().ok()? }, SnapshotId::from_bytes(unhex(id)?)))
    };
    let list = |hash: &str| unhex(hash).map(Digest::from_bytes);
    let path = |path: &str| {
        let legal = !path.starts_with('/') && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        legal.then(|| path.to_owned())
    };
    Some(Ok(match words[..] {
        ["forget", place, id] => snapshot(place, id).map(|(key, id)| Decision::Forget(key, id))?,
        ["undelete", place, id] => snapshot(place, id).map(|(key, id)| Decision::Undelete(key, id))?,
        ["pin", place, id] => snapshot(place, id).map(|(key, id)| Decision::Pin(key, id))?,
        ["unpin", place, id] => snapshot(place, id).map(|(key, id)| Decision::Unpin(key, id))?,
        ["gone", place, id] => snapshot(place, id).map(|(key, id)| Decision::Gone(key, id))?,
        ["condemn", secs, hash] => Decision::Condemn { list: list(hash)?, fresh: None, grace_secs: secs.parse().ok()? },
        ["condemn", secs, hash, fresh] => {
            Decision::Condemn { list: list(hash)?, fresh: Some(list(fresh)?), grace_secs: secs.parse().ok()? }
        }
        ["settled", name] => GcRecord::seq(name).map(|_| Decision::Settled(name.to_owned()))?,
        ["spare", of] => Decision::Spare(path(of)?),
        ["loose", of] => Decision::Loose(path(of)?),
        ["delete", hash] => Decision::Delete(list(hash)?),
        ["after", name] => GcRecord::seq(name).map(|_| Decision::After(name.to_owned()))?,
        [word, ..] => return Some(Err(Error::unsupported(format!("a record of gc/ says `{word}`, which this coffre does not know")))),
        [] => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_decided_is_read_and_nothing_else_is() {
        let vault = VaultId([7; 16]);
        let (key, id) = (SnapshotKey { sealer: "host1".into(), seq: 41 }, SnapshotId::from_bytes([3; 32]));
        let list = Digest::from_bytes([4; 32]);
        let record = GcRecord {
            time_ns: 1_700_000_000_000_000_000,
            decisions: vec![
                Decision::Forget(key.clone(), id),
                Decision::Undelete(key.clone(), id),
                Decision::Pin(key.clone(), id),
                Decision::Unpin(key.clone(), id),
                Decision::Gone(key, id),
                Decision::Condemn { list, fresh: None, grace_secs: 0 },
                Decision::Condemn { list, fresh: Some(Digest::from_bytes([5; 32])), grace_secs: 1_209_600 },
                Decision::Settled("0000000003.1a2b3c4d5e6f7081".into()),
                Decision::Spare("packs/ab/x.age".into()),
                Decision::Loose("packs/ab/y.age".into()),
                Decision::Delete(list),
                Decision::After("0000000002.1a2b3c4d5e6f7081".into()),
            ],
        };
        let bytes = record.encode(vault);
        assert_eq!(GcRecord::decode(&bytes, vault).unwrap(), record);
        assert!(GcRecord::decode(&bytes, VaultId([8; 16])).is_err());
        assert!(GcRecord::decode(&bytes[..bytes.len() - 1], vault).is_err(), "a torn record");
        let name = GcRecord::name(3, &bytes);
        assert_eq!((GcRecord::seq(&name), GcRecord::seq("3.1a2b3c4d5e6f7081")), (Some(3), None));
        let with = |line: &str| GcRecord::decode(format!("coffre-gc 1\nvault {vault}\ntime 1\n{line}\n").as_bytes(), vault);
        for line in ["forget host1/41", "forget host1/x 00", "spare ../x", "", "condemn -1 00", "settled x", "delete x", "after x"] {
            assert!(with(line).is_err(), "{line}");
        }
        assert_eq!(with("burn host1/41").unwrap_err().kind(), crate::error::ErrorKind::Unsupported);
    }
}
