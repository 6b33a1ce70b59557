//! How much of a vault is read this time: all packs, or those that were read longest ago. What was read is noted in the proof ledger.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    catalog::{ProofDepth, Proofs},
    error::{Error, Result},
    event::Event,
    format::{Digest, SnapshotId},
    ops::verify::{Context, Depth},
    store::Key,
};

/// Nanoseconds in a second.
const SECOND_NS: i128 = 1_000_000_000;

/// A part of a vault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sample {
    /// So many of a hundred of its bytes.
    Percent(f64),
    /// So many bytes.
    Bytes(u64),
    /// As much as can be read in this time.
    Time(Duration),
}

impl Sample {
    /// Reads `5%`, `10m` (s, m, h: a time), or `2GiB` (K, M, G, T: bytes).
    ///
    /// # Errors
    /// `Usage` for anything else.
    pub fn parse(text: &str) -> Result<Self> {
        let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, unit) = text.split_at(at);
        let wrong = || Error::usage(format!("`{text}` is no part of a vault")).hint("write 5%, 2GiB (K, M, G, T), or 10m (s, m, h)");
        let n: f64 = number.parse().ok().filter(|n: &f64| n.is_finite() && *n > 0.0).ok_or_else(wrong)?;
        let bytes = |shift: u32| Ok(Self::Bytes((n * (1u64 << shift) as f64) as u64));
        let time = |secs: f64| Duration::try_from_secs_f64(n * secs).map(Self::Time).map_err(|_| wrong());
        match unit {
            "%" if n <= 100.0 => Ok(Self::Percent(n)),
            "s" => time(1.0),
            "m" => time(60.0),
            "h" => time(3600.0),
            "K" | "KiB" => bytes(10),
            "M" | "MiB" => bytes(20),
            "G" | "GiB" => bytes(30),
            "T" | "TiB" => bytes(40),
            _ => Err(wrong()),
        }
    }
}

/// Which packs are read, if packs are read at all. Everything else is small, and always is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Extent {
    /// Only a part, what was read longest ago first.
    pub sample: Option<Sample>,
    /// Only what was not read so deep within this time.
    pub within: Option<Duration>,
    /// Only what this snapshot needs. Takes an owner's key.
    pub snapshot: Option<SnapshotId>,
}

/// Packs to be read, in this order.
pub struct Chosen {
    /// The packs.
    pub packs: Vec<Key>,
    /// When to stop, of the monotonic clock.
    pub until: Option<Duration>,
    ledger: Proofs,
}

fn proof_depth(depth: Depth) -> ProofDepth {
    if depth == Depth::Chunks { ProofDepth::Chunks } else { ProofDepth::Pack }
}

fn now_secs(context: &Context) -> u64 {
    u64::try_from(context.clock.now_ns() / SECOND_NS).unwrap_or(0)
}

/// Chooses among the packs of `sizes`. Where no part is asked for, they come in the order of their names.
pub fn choose(context: &Context, extent: Extent, depth: Depth, sizes: &BTreeMap<Key, u64>) -> Result<Chosen> {
    let mut packs: Vec<Key> = sizes.keys().filter(|key| key.as_str().starts_with("packs/")).cloned().collect();
    if extent == Extent::default() {
        return Ok(Chosen { packs, until: None, ledger: Proofs::default() });
    }
    let (ledger, place) = (Proofs::load(&context.state.catalog())?, context.vault.store.describe());
    let now = now_secs(context);
    let last = |key: &Key| key.digest().and_then(|pack| ledger.last(&place, &pack, proof_depth(depth), now));
    if let Some(within) = extent.within {
        let since = now.saturating_sub(within.as_secs());
        packs.retain(|key| last(key).is_none_or(|secs| secs < since));
    }
    // Never read comes before everything.
    packs.sort_by_cached_key(|key| (last(key), key.clone()));
    let all: u64 = sizes.iter().filter(|(key, _)| key.as_str().starts_with("packs/")).map(|(_, len)| len).sum();
    let budget = match extent.sample {
        Some(Sample::Percent(n)) => (all as f64 * n / 100.0) as u64,
        Some(Sample::Bytes(n)) => n,
        _ => u64::MAX,
    };
    let mut taken = 0u64;
    // At least one, or a small share of a small vault would never get round it.
    packs.retain(|key| {
        let take = taken == 0 || taken < budget;
        taken = taken.saturating_add(if take { sizes[key].max(1) } else { 0 });
        take
    });
    let until = match extent.sample {
        // What is read is decoded after that, which takes about as long.
        Some(Sample::Time(time)) => Some(context.clock.monotonic() + if depth == Depth::Chunks { time / 2 } else { time }),
        _ => None,
    };
    Ok(Chosen { packs, until, ledger: Proofs::default() })
}

impl Chosen {
    /// Notes packs that were found whole, in the ledger of this host, if it has a state directory. That it could not is worth a word, no more.
    pub fn note(&mut self, context: &Context, depth: Depth, whole: impl Iterator<Item = Digest>) {
        let (place, secs) = (context.vault.store.describe(), now_secs(context));
        let before = self.ledger.clone();
        whole.for_each(|pack| self.ledger.note(&place, &pack, proof_depth(depth), secs));
        if self.ledger == before || !context.state.path().is_dir() {
            return;
        }
        if let Err(e) = self.ledger.save(&context.state.catalog()) {
            context.sink.send(Event::Note(format!("this host cannot remember what it read: {}", e.chain())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_a_share_a_size_or_a_time() {
        let parsed = |text| Sample::parse(text).ok();
        assert_eq!(parsed("5%"), Some(Sample::Percent(5.0)));
        assert_eq!(parsed("2GiB"), Some(Sample::Bytes(2 << 30)));
        assert_eq!(parsed("1.5M"), Some(Sample::Bytes(3 << 19)));
        assert_eq!(parsed("10m"), Some(Sample::Time(Duration::from_secs(600))));
        for wrong in ["", "5", "101%", "0%", "-1%", "10 m", "%", "1e9s", "GiB"] {
            assert_eq!(parsed(wrong), None, "{wrong}");
        }
    }
}
