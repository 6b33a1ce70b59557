//! Raw bytes ⇄ zstd frames, with a limit on both sides. The home of `zstd`.

use zstd::zstd_safe::CParameter;

use crate::error::{Error, Result};

/// The level used unless told otherwise: docs/FORMAT.md and docs/ARCHITECTURE.md on what others cost.
pub const LEVEL_DEFAULT: i32 = 3;

/// At the default level: how zstd looks for matches. It is its own level 3 with tables of an eighth of a megabyte each where it would take two or
/// three times as much, and no matches below five bytes. These stay in a core's own cache beside what the other threads do: over the
/// reference corpus a tenth less time for 0.3 % more bytes (`docs/FORMAT.md` section 3).
const DEFAULT_SEARCH: [CParameter; 3] = [CParameter::ChainLog(15), CParameter::HashLog(15), CParameter::MinMatch(5)];

/// Window of large frames: all of one. What stock zstd takes without being asked ends at 27.
const FAR_WINDOW_LOG: u32 = 26;

/// Compresses frames, reusing its tables from one to the next.
pub struct Compressor(zstd::bulk::Compressor<'static>);

impl Compressor {
    /// Compresses at `level`, 1 to 19.
    pub fn new(level: i32) -> Result<Self> {
        let start = || {
            let mut zstd = zstd::bulk::Compressor::new(level)?;
            let search = if level == LEVEL_DEFAULT { &DEFAULT_SEARCH[..] } else { &[] };
            search.iter().try_for_each(|parameter| zstd.set_parameter(*parameter))?;
            Ok(Self(zstd))
        };
        start().map_err(|e| Error::io("cannot start zstd", e))
    }

    /// Compresses at `level` and finds matches over the whole of a large frame; takes up to 200 MiB.
    pub fn far(level: i32) -> Result<Self> {
        let mut far = Self::new(level)?;
        let window = far.0.set_parameter(CParameter::WindowLog(FAR_WINDOW_LOG));
        window.map_err(|e| Error::io("cannot start zstd", e))?;
        Ok(far)
    }

    /// Compresses `raw` into `out`, which is overwritten. The frame says its content size, and holds no checksum.
    pub fn compress(&mut self, raw: &[u8], out: &mut Vec<u8>) -> Result<()> {
        out.clear();
        out.reserve(zstd::zstd_safe::compress_bound(raw.len()));
        self.0.compress_to_buffer(raw, out).map(drop).map_err(|e| Error::io("cannot compress a frame", e))
    }
}

/// Compresses one thing, such as a manifest or an index segment.
pub fn compress(raw: &[u8]) -> Result<Vec<u8>> {
    let mut out = Vec::new();
    Compressor::new(LEVEL_DEFAULT)?.compress(raw, &mut out)?;
    Ok(out)
}

/// Decompresses a frame that holds at most `len_max` raw bytes into `out`, which is overwritten.
///
/// # Errors
/// `Corrupt` if it is no frame, or says that it is longer.
pub fn decompress(frame: &[u8], len_max: usize, out: &mut Vec<u8>, what: &str) -> Result<()> {
    let len = zstd::zstd_safe::get_frame_content_size(frame).ok().flatten();
    let len = len.and_then(|len| usize::try_from(len).ok()).filter(|len| *len <= len_max);
    let len = len.ok_or_else(|| Error::corrupt(format!("{what} holds a frame that does not say a reasonable length")))?;
    out.clear();
    out.reserve(len);
    thread_local! {
        static CONTEXT: std::cell::RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { std::cell::RefCell::new(None) };
    }
    let got = CONTEXT.with_borrow_mut(|context| {
        let context = match context {
            Some(context) => context,
            None => context.insert(zstd::bulk::Decompressor::new()?),
        };
        context.decompress_to_buffer(frame, out)
    });
    match got {
        Ok(got) if got == len => Ok(()),
        Ok(_) => Err(Error::corrupt(format!("{what} holds a frame of another length than it says"))),
        Err(e) => Err(Error::corrupt(format!("{what} holds a frame that cannot be decompressed")).because(e)),
    }
}
