//! Manifests: what one snapshot is (docs/FORMAT.md section 5).

use std::collections::BTreeMap;

use minicbor::{Decoder, Encoder, data::Int};

use crate::{
    error::{Error, Result},
    format::{ChunkId, Digest, DomainId, SnapshotId, VaultId, canon},
};

/// Longest manifest accepted, in bytes: room for a million new packs.
pub const MANIFEST_LEN_MAX: usize = 64 << 20;

/// Describes one snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// The vault that this belongs to.
    pub vault: VaultId,
    /// Who sealed it.
    pub sealer: String,
    /// Its place in the sealer's chain.
    pub seq: u64,
    /// The receipt before this one.
    pub previous: Option<SnapshotId>,
    /// When the seal began, ns since 1970.
    pub time_ns: i128,
    /// What was sealed, as absolute paths.
    pub sources: Vec<Vec<u8>>,
    /// The root node.
    pub root: ChunkId,
    /// Whose keys name the chunks.
    pub domain: DomainId,
    /// Packs that this seal stored or took over.
    pub new_packs: Vec<Digest>,
    /// Newest condemnation honoured.
    pub condemned_seen: u64,
    /// Counts.
    pub stats: Stats,
    /// Free facts.
    pub labels: BTreeMap<String, String>,
    /// What wrote this.
    pub tool: String,
    /// What could not be taken as it was.
    pub problems: Vec<Problem>,
    /// Name of the host.
    pub host: String,
    /// Tags.
    pub tags: Vec<String>,
    /// What looked like an accident or an attack. The snapshot is what the sources were all the same.
    pub suspicions: Vec<Suspicion>,
    /// Snapshots that this one asks to be kept: the one before a suspicious one.
    pub pins: Vec<SnapshotId>,
}

/// A change that looks like an accident or an attack.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suspicion {
    /// What it is.
    pub kind: SuspicionKind,
    /// For people.
    pub text: String,
}

/// Kinds of suspicion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspicionKind {
    /// Most files are gone.
    MostGone = 0,
    /// Most files were rewritten with content that does not compress.
    MostRewritten = 1,
    /// One that this Coffre does not know.
    Other = 255,
}

macro_rules! stats {
    ($($(#[$doc:meta])* $key:literal $name:ident),* $(,)?) => {
        /// Counts of one snapshot.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
        pub struct Stats { $($(#[$doc])* pub $name: u64,)* }

        impl Stats {
            const KEYS: u64 = [$($key),*].len() as u64;
            fn fields(&self) -> [(u64, u64); Self::KEYS as usize] { [$(($key, self.$name)),*] }
            fn set(&mut self, key: u64, value: u64) -> bool {
                match key { $($key => self.$name = value,)* _ => return false }
                true
            }
            /// Adds every count of `other`.
            pub fn add(&mut self, other: &Stats) { $(self.$name += other.$name;)* }
        }
    };
}

stats! {
    /// Regular files.
    0 files,
    /// Directories.
    1 directories,
    /// Symbolic links.
    2 symlinks,
    /// Fifos and devices.
    3 others,
    /// Bytes of all files, holes among them.
    4 logical_bytes,
    /// Sockets, which are never sealed.
    5 sockets_skipped,
    /// Entries with extended attributes or ACLs.
    6 with_xattrs,
    /// Raw bytes that were new to the vault.
    7 new_bytes,
    /// Bytes of the objects stored, encrypted.
    8 stored_bytes,
    /// How long the seal took, ns.
    9 duration_ns,
    /// Files with holes.
    10 sparse_files,
}

impl Stats {
    /// Entries of every kind.
    pub fn entries(&self) -> u64 {
        self.files + self.directories + self.symlinks + self.others
    }
}

/// Why an entry is not in the snapshot as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProblemKind {
    /// It, or a part of it, could not be read and is not in the snapshot.
    Unreadable,
    /// It changed while it was read, twice; what is stored was read in pieces at different moments.
    Changed,
}

/// One entry that is not in the snapshot as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Why.
    pub kind: ProblemKind,
    /// Absolute path.
    pub path: Vec<u8>,
    /// For people.
    pub text: String,
}

type Written = std::result::Result<(), minicbor::encode::Error<std::convert::Infallible>>;

impl Manifest {
    /// Returns the bytes of this manifest.
    pub fn encode(&self) -> Vec<u8> {
        let mut e = Encoder::new(Vec::new());
        self.encode_into(&mut e).expect("writing to memory does not fail");
        e.into_writer()
    }

    fn encode_into(&self, e: &mut Encoder<Vec<u8>>) -> Written {
        let optional = [self.previous.is_some(), !self.suspicions.is_empty(), !self.pins.is_empty()];
        e.map(16 + optional.iter().filter(|there| **there).count() as u64)?;
        e.u8(0)?.u8(1)?.u8(1)?.bytes(&self.vault.0)?.u8(2)?.str(&self.sealer)?.u8(3)?.u64(self.seq)?;
        if let Some(previous) = self.previous {
            e.u8(4)?.bytes(previous.as_bytes())?;
        }
        let time = Int::try_from(self.time_ns).unwrap_or(Int::from(0));
        e.u8(5)?.int(time)?.u8(6)?.array(self.sources.len() as u64)?;
        for path in &self.sources {
            e.bytes(path)?;
        }
        e.u8(7)?.bytes(self.root.as_bytes())?.u8(8)?.bytes(&self.domain.0)?;
        e.u8(9)?.array(self.new_packs.len() as u64)?;
        for pack in &self.new_packs {
            e.bytes(pack.as_bytes())?;
        }
        e.u8(10)?.u64(self.condemned_seen)?.u8(11)?.map(Stats::KEYS)?;
        for (key, value) in self.stats.fields() {
            e.u64(key)?.u64(value)?;
        }
        e.u8(12)?.map(self.labels.len() as u64)?;
        let mut labels: Vec<_> = self.labels.iter().collect();
        labels.sort_by_key(|(key, _)| (key.len(), key.as_bytes()));
        for (key, value) in labels {
            e.str(key)?.str(value)?;
        }
        e.u8(13)?.str(&self.tool)?.u8(14)?.array(self.problems.len() as u64)?;
        for problem in &self.problems {
            e.array(3)?.u8(problem.kind as u8)?.bytes(&problem.path)?.str(&problem.text)?;
        }
        e.u8(15)?.str(&self.host)?.u8(16)?.array(self.tags.len() as u64)?;
        for tag in &self.tags {
            e.str(tag)?;
        }
        if !self.suspicions.is_empty() {
            e.u8(17)?.array(self.suspicions.len() as u64)?;
            for suspicion in &self.suspicions {
                e.array(2)?.u8(suspicion.kind as u8)?.str(&suspicion.text)?;
            }
        }
        if !self.pins.is_empty() {
            e.u8(18)?.array(self.pins.len() as u64)?;
            for pin in &self.pins {
                e.bytes(pin.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Reads a manifest.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        if bytes.len() > MANIFEST_LEN_MAX {
            return Err(Error::corrupt("a manifest is impossibly long"));
        }
        canon::check(bytes, "a manifest")?;
        Self::decode_checked(&mut Decoder::new(bytes)).map_err(|e| match e {
            Fault::Cbor(e) => Error::corrupt(format!("a manifest cannot be decoded: {e}")),
            Fault::Newer(what) => Error::unsupported(format!("a manifest has {what}, which this coffre does not know")),
        })
    }

    fn decode_checked(d: &mut Decoder) -> std::result::Result<Self, Fault> {
        let mut m = Self {
            vault: VaultId([0; 16]),
            sealer: String::new(),
            seq: 0,
            previous: None,
            time_ns: 0,
            sources: Vec::new(),
            root: ChunkId::from_bytes([0; 32]),
            domain: DomainId([0; 16]),
            new_packs: Vec::new(),
            condemned_seen: 0,
            stats: Stats::default(),
            labels: BTreeMap::new(),
            tool: String::new(),
            problems: Vec::new(),
            host: String::new(),
            tags: Vec::new(),
            suspicions: Vec::new(),
            pins: Vec::new(),
        };
        let mut seen = 0u32;
        for _ in 0..len(d.map()?)? {
            let key = d.u64()?;
            seen |= 1u32.checked_shl(u32::try_from(key).unwrap_or(32)).unwrap_or(0);
            match key {
                0 => match d.u64()? {
                    1 => (),
                    version => return Err(Fault::Newer(format!("version {version}"))),
                },
                1 => m.vault = VaultId(exact(d.bytes()?)?),
                2 => m.sealer = d.str()?.to_owned(),
                3 => m.seq = d.u64()?,
                4 => m.previous = Some(SnapshotId::from_bytes(exact(d.bytes()?)?)),
                5 => m.time_ns = d.int()?.into(),
                6 => m.sources = list(d, |d| Ok(d.bytes()?.to_vec()))?,
                7 => m.root = ChunkId::from_bytes(exact(d.bytes()?)?),
                8 => m.domain = DomainId(exact(d.bytes()?)?),
                9 => m.new_packs = list(d, |d| Ok(Digest::from_bytes(exact(d.bytes()?)?)))?,
                10 => m.condemned_seen = d.u64()?,
                11 => {
                    for _ in 0..len(d.map()?)? {
                        let key = d.u64()?;
                        if key >= 128 {
                            return Err(Fault::Newer(format!("count {key}")));
                        }
                        let value = d.u64()?;
                        m.stats.set(key, value);
                    }
                }
                12 => {
                    for _ in 0..len(d.map()?)? {
                        m.labels.insert(d.str()?.to_owned(), d.str()?.to_owned());
                    }
                }
                13 => m.tool = d.str()?.to_owned(),
                14 => {
                    m.problems = list(d, |d| {
                        if len(d.array()?)? != 3 {
                            return Err(minicbor::decode::Error::message("a problem of another length").into());
                        }
                        let kind = match d.u8()? {
                            0 => ProblemKind::Unreadable,
                            _ => ProblemKind::Changed,
                        };
                        Ok(Problem { kind, path: d.bytes()?.to_vec(), text: d.str()?.to_owned() })
                    })?;
                }
                15 => m.host = d.str()?.to_owned(),
                16 => m.tags = list(d, |d| Ok(d.str()?.to_owned()))?,
                17 => {
                    m.suspicions = list(d, |d| {
                        if len(d.array()?)? != 2 {
                            return Err(minicbor::decode::Error::message("a suspicion of another length").into());
                        }
                        let kind = match d.u8()? {
                            0 => SuspicionKind::MostGone,
                            1 => SuspicionKind::MostRewritten,
                            _ => SuspicionKind::Other,
                        };
                        Ok(Suspicion { kind, text: d.str()?.to_owned() })
                    })?;
                }
                18 => m.pins = list(d, |d| Ok(SnapshotId::from_bytes(exact(d.bytes()?)?)))?,
                key if key < 128 => d.skip()?,
                key => return Err(Fault::Newer(format!("field {key}"))),
            }
        }
        const NEEDED: u32 = 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 5 | 1 << 7 | 1 << 8;
        if seen & NEEDED != NEEDED {
            return Err(minicbor::decode::Error::message("a field is missing").into());
        }
        Ok(m)
    }
}

enum Fault {
    Cbor(minicbor::decode::Error),
    Newer(String),
}

impl From<minicbor::decode::Error> for Fault {
    fn from(e: minicbor::decode::Error) -> Self {
        Self::Cbor(e)
    }
}

fn len(len: Option<u64>) -> std::result::Result<u64, minicbor::decode::Error> {
    len.ok_or_else(|| minicbor::decode::Error::message("a length is missing"))
}

fn exact<const N: usize>(bytes: &[u8]) -> std::result::Result<[u8; N], minicbor::decode::Error> {
    bytes.try_into().map_err(|_| minicbor::decode::Error::message("an id of another length"))
}

fn list<T>(d: &mut Decoder, mut each: impl FnMut(&mut Decoder) -> std::result::Result<T, Fault>) -> std::result::Result<Vec<T>, Fault> {
    let n = len(d.array()?)?;
    let mut out = Vec::new();
    for _ in 0..n {
        out.push(each(d)?);
    }
    Ok(out)
}
