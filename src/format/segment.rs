//! Index segments: which chunk is in which pack, for many packs (docs/FORMAT.md section 4).

use crate::{
    error::Result,
    format::{Digest, PackIndex, wire::Wire},
};

/// One pack as a segment knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentPack {
    /// The pack's name.
    pub digest: Digest,
    /// Bytes of the stored file.
    pub stored_len: u64,
    /// Its table.
    pub index: PackIndex,
}

/// The packs of one seal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// In no particular order.
    pub packs: Vec<SegmentPack>,
}

impl Segment {
    /// Returns the bytes of this segment, not yet compressed.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = b"CFIX1".to_vec();
        for pack in &self.packs {
            out.extend_from_slice(pack.digest.as_bytes());
            out.extend_from_slice(&pack.stored_len.to_le_bytes());
            pack.index.encode_body(&mut out);
        }
        out
    }

    /// Reads a segment.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let mut packs = Vec::new();
        Self::each_pack(bytes, |pack| {
            packs.push(pack);
            Ok(())
        })?;
        Ok(Self { packs })
    }

    /// Hands the packs of a segment to `each`, one after the other, so that no more than one is in memory twice.
    pub fn each_pack(bytes: &[u8], mut each: impl FnMut(SegmentPack) -> Result<()>) -> Result<()> {
        let mut wire = Wire::new(bytes, "an index segment");
        wire.expect(b"CFIX1")?;
        while !wire.rest().is_empty() {
            each(SegmentPack {
                digest: Digest::from_bytes(wire.array()?),
                stored_len: wire.u64()?,
                index: PackIndex::decode_body(&mut wire)?,
            })?;
        }
        Ok(())
    }
}
