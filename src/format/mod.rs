//! Bytes ⇄ values: every stored structure, and nothing else. No I/O, no clock, no policy.
//!
//! `docs/FORMAT.md` is the reference; it changes in the same commit as this room. Decoders take bytes from
//! outside: they never panic, never allocate by an unchecked length, and refuse what they do not understand.

mod armor;
mod canon;
mod cdc;
mod config;
mod gc;
mod id;
mod manifest;
mod pack;
mod receipt;
mod segment;
mod sidecar;
mod signers;
mod tree;
mod wire;
mod words;

pub use armor::{armor, dearmor};
pub use cdc::{CHUNK_LEN_AVERAGE, CHUNK_LEN_MAX, CHUNK_LEN_MIN, Chunker};
pub use config::{Config, LOCK_DAYS_MAX, PARITY_MAX};
pub use gc::{Decision, GC_RECORD_LEN_MAX, GcRecord};
pub use id::{ChunkId, Digest, Digester, DomainId, DomainKeys, Key32, SnapshotId, VaultId, digest, domain_key, hex, unhex};
pub use manifest::{Manifest, Problem, ProblemKind, Stats, Suspicion, SuspicionKind};
pub use pack::{
    FRAME_LEN_RAW_MAX, FRAME_TARGET_DATA, FRAME_TARGET_META, FrameEntry, HEADER_LEN, PACK_LEN_META_MAX, PackIndex, PackKind, TRAILER_LEN,
    Trailer, check_header, encode_header, encode_tail, parse_index, plain_len,
};
pub use receipt::{Line, Receipt, SnapshotKey, is_name, name_from};
pub use segment::{Segment, SegmentPack};
pub use sidecar::{Mark, SHARD_LEN, Shape, Sidecar, encode_sidecar};
pub use signers::{Revocation, Signer, Signers};
pub use tree::{
    ChunkList, ChunkRef, Content, DIR_DEPTH_MAX, Data, Entry, HardLink, Hole, INLINE_LEN_MAX, NODE_ENTRIES_MAX, Node, Part, Scan,
    is_legal_name, split,
};
pub use words::{HeadText, words_of};
