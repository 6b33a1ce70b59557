//! Many chunks in one encrypted object: compress, encrypt, and the way back.
//!
//! Knows bytes and keys, not vaults: which keys, and which packs, is decided in `vault`.

mod cache;
mod cipher;
mod frame;
mod headers;
mod parity;
mod reader;
mod writer;

pub use cache::{Bounded, Frame, FrameKey, Weigh};
pub use cipher::{Identity, Recipient, Remembered, StreamHead, identity_from_bytes, open_whole, plainly, seal_whole};
pub use frame::{Compressor, LEVEL_DEFAULT, compress, decompress};
pub use headers::{FILE_LEN_MAX as HEADERS_LEN_MAX, Headers, tag_of};
pub use parity::{ParityEncoder, mend};
pub use reader::PackReader;
pub use writer::{PackBuilder, SealedPack, fits, stored_len};

pub use cipher::{Unwrap, Wrap};
