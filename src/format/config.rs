//! `VAULT`: the public first object of a vault.

use crate::{
    error::{Error, Result},
    format::{CHUNK_LEN_AVERAGE, CHUNK_LEN_MAX, CHUNK_LEN_MIN, FRAME_TARGET_DATA, VaultId, unhex},
};

/// Longest `VAULT` accepted, in bytes; ours has about 120.
const CONFIG_LEN_MAX: usize = 64 << 10;

/// What `VAULT` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Which vault this is.
    pub id: VaultId,
    /// Raw bytes at which a data frame is full.
    pub frame_target: u32,
    /// Bytes below which a data pack closes.
    pub pack_len_max: u32,
    /// Loss that packs can be mended after, of a hundred; 0: no sidecars and no second copies.
    pub parity: u8,
    /// Days for which the store is asked to hold each object against everybody; 0: it is not asked.
    pub lock_days: u32,
}

/// Longest `lock_days`: what is held cannot be freed, whoever pays for it.
pub const LOCK_DAYS_MAX: u32 = 3650;

/// Highest `parity`: beyond that a second copy of the vault says more.
pub const PARITY_MAX: u8 = 50;

impl Config {
    /// The configuration of a new vault without parity.
    pub fn new(id: VaultId) -> Self {
        Self { id, frame_target: FRAME_TARGET_DATA, pack_len_max: 16 << 20, parity: 0, lock_days: 0 }
    }

    /// Returns the bytes of `VAULT`.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = format!(
            "coffre-vault 1\nid {}\nchunk {CHUNK_LEN_MIN} {CHUNK_LEN_AVERAGE} {CHUNK_LEN_MAX}\nframe {}\npack {}\n",
            self.id, self.frame_target, self.pack_len_max
        );
        if self.parity > 0 {
            text.push_str(&format!("parity {}\n", self.parity));
        }
        if self.lock_days > 0 {
            text.push_str(&format!("object-lock {}\n", self.lock_days));
        }
        text.into_bytes()
    }

    /// Reads `VAULT`.
    ///
    /// # Errors
    /// `Unsupported` for another version or a `need` that this version does not know, `Corrupt` for the rest.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let broken = || Error::corrupt("the vault's VAULT file cannot be understood");
        if bytes.len() > CONFIG_LEN_MAX {
            return Err(broken());
        }
        let text = std::str::from_utf8(bytes).map_err(|_| broken())?;
        let mut lines = text.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        match lines.next().as_deref() {
            Some(["coffre-vault", "1"]) => (),
            Some(["coffre-vault", version]) => {
                return Err(Error::unsupported(format!("this vault has format {version}; this coffre reads format 1"))
                    .hint("use a newer coffre; nothing is wrong with the vault"));
            }
            _ => return Err(broken()),
        }
        let (mut id, mut chunk) = (None, false);
        let mut config = Self::new(VaultId([0; 16]));
        for line in lines {
            match line.as_slice() {
                ["id", hex] => id = unhex(hex).map(VaultId),
                ["need", feature, ..] => {
                    return Err(Error::unsupported(format!("this vault needs `{feature}`, which this coffre does not know"))
                        .hint("use a newer coffre; nothing is wrong with the vault"));
                }
                ["chunk", rest @ ..] => {
                    let sizes: Vec<usize> = rest.iter().filter_map(|n| n.parse().ok()).collect();
                    if sizes != [CHUNK_LEN_MIN, CHUNK_LEN_AVERAGE, CHUNK_LEN_MAX] {
                        return Err(Error::unsupported(format!("this vault cuts chunks of {rest:?} bytes; this coffre does not")));
                    }
                    chunk = true;
                }
                ["frame", n] => config.frame_target = n.parse().ok().filter(|n| (1 << 12..=1 << 22).contains(n)).ok_or_else(broken)?,
                ["pack", n] => config.pack_len_max = n.parse().ok().filter(|n| (1 << 20..=1 << 30).contains(n)).ok_or_else(broken)?,
                ["parity", n] => config.parity = n.parse().ok().filter(|n| *n <= PARITY_MAX).ok_or_else(broken)?,
                ["object-lock", n] => config.lock_days = n.parse().ok().filter(|n| *n <= LOCK_DAYS_MAX).ok_or_else(broken)?,
                _ => (),
            }
        }
        config.id = id.filter(|_| chunk).ok_or_else(broken)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn what_is_written_is_read_and_the_future_is_refused_by_name() {
        let config = Config::new(VaultId([0xab; 16]));
        assert_eq!(Config::decode(&config.encode()).unwrap(), config);
        let with_parity = Config { parity: 5, ..config.clone() };
        assert_eq!(Config::decode(&with_parity.encode()).unwrap(), with_parity);
        let with_lock = Config { lock_days: 30, ..config.clone() };
        assert_eq!(Config::decode(&with_lock.encode()).unwrap(), with_lock);
        let text = String::from_utf8(config.encode()).unwrap();
        let kind = |text: String| Config::decode(text.as_bytes()).unwrap_err().kind();
        assert_eq!(kind(text.replace("vault 1", "vault 2")), ErrorKind::Unsupported);
        assert_eq!(kind(format!("{text}need pq\n")), ErrorKind::Unsupported);
        assert_eq!(kind(text.replace("id a", "id x")), ErrorKind::Corrupt);
        assert!(Config::decode(format!("{text}colour blue\n").as_bytes()).is_ok(), "unknown lines are ignored");
    }
}
