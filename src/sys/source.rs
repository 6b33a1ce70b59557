//! Files that are read once, leaving the page cache as it was: what others use stays in it, what only we read does not.

use std::{
    collections::HashSet,
    fs::File,
    io,
    os::fd::{AsFd, AsRawFd},
};

use rustix::{
    fs::{Advice, fadvise},
    io::Errno,
};

/// `RWF_DONTCACHE` (Linux 6.14; ext4, XFS, Btrfs): pages that the read brings in go when it has copied them.
const DONT_CACHE: libc::c_int = 0x80;
/// Fails with `AGAIN` where the pages are not in memory.
const NO_WAIT: libc::c_int = 0x08;

/// The file systems that do not know `RWF_DONTCACHE`, by device; one a thread.
#[derive(Debug, Default)]
pub struct Manners(HashSet<u64>);

/// What is done about the pages of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The kernel drops what a read brought in.
    Uncached,
    /// Not known yet; the first read will tell whether the file is in memory.
    Ask,
    /// It was not in memory when we came: dropped behind us.
    DropBehind,
    /// It was, or nothing can be done.
    Leave,
}

/// A file being read from its start on.
#[derive(Debug)]
pub struct SourceFile {
    file: File,
    device: u64,
    offset: u64,
    way: Way,
}

impl SourceFile {
    /// Reads `file`, which lies on `device`.
    pub fn new(file: File, device: u64, manners: &Manners) -> Self {
        let way = if manners.0.contains(&device) { Way::Ask } else { Way::Uncached };
        Self { file, device, offset: 0, way }
    }

    /// The file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Goes on at `offset`.
    pub fn seek_to(&mut self, offset: u64) {
        self.offset = offset;
    }

    /// Reads at most `len` bytes to the end of `buf`; returns how many, fewer only at the end of the file. One system call as a rule.
    pub fn read(&mut self, buf: &mut Vec<u8>, len: usize, manners: &mut Manners) -> io::Result<usize> {
        buf.reserve(len);
        let mut done = 0;
        while done < len {
            match self.read_some(buf, len - done, manners) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(Errno::INTR) => (),
                Err(e) => return Err(e.into()),
            }
        }
        if self.way == Way::DropBehind {
            let behind = std::num::NonZeroU64::new(self.offset);
            // Only an advice; what stays is what would have stayed without it.
            let _ = fadvise(&self.file, 0, behind, Advice::DontNeed);
        }
        Ok(done)
    }

    fn read_some(&mut self, buf: &mut Vec<u8>, len: usize, manners: &mut Manners) -> Result<usize, Errno> {
        if self.way == Way::Uncached {
            match self.read_with(buf, len, DONT_CACHE) {
                Err(Errno::OPNOTSUPP | Errno::INVAL) => {
                    manners.0.insert(self.device);
                    self.way = Way::Ask;
                }
                other => return other,
            }
        }
        if self.way == Way::Ask {
            self.way = Way::Leave;
            match self.read_with(buf, len, NO_WAIT) {
                Err(Errno::AGAIN) => self.way = Way::DropBehind,
                Err(Errno::OPNOTSUPP | Errno::INVAL) => (),
                other => return other,
            }
        }
        self.read_with(buf, len, 0)
    }

    fn read_with(&mut self, buf: &mut Vec<u8>, len: usize, flags: libc::c_int) -> Result<usize, Errno> {
        let room = &mut buf.spare_capacity_mut()[..len];
        let part = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
        let offset = libc::off64_t::try_from(self.offset).map_err(|_| Errno::INVAL)?;
        // SAFETY: the descriptor is open for the time of the call, and `part` names `len` bytes of `buf` that nobody else uses.
        let got = unsafe { libc::preadv2(self.file.as_fd().as_raw_fd(), &part, 1, offset, flags) };
        let Ok(got) = usize::try_from(got) else {
            return Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO));
        };
        assert!(got <= len, "the kernel fills what it was given at most");
        // SAFETY: the kernel has just written the first `got` bytes behind the end of `buf`, within its capacity.
        unsafe { buf.set_len(buf.len() + got) };
        self.offset += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn every_way_reads_the_same() {
        let mut file = tempfile::tempfile().unwrap();
        let bytes: Vec<u8> = (0..300_000u32).flat_map(u32::to_le_bytes).collect();
        file.write_all(&bytes).unwrap();
        for way in [Way::Uncached, Way::Ask, Way::DropBehind, Way::Leave] {
            let mut source = SourceFile::new(file.try_clone().unwrap(), 0, &Manners::default());
            source.way = way;
            let (mut buf, mut manners) = (b"before".to_vec(), Manners::default());
            while source.read(&mut buf, 100_000, &mut manners).unwrap() == 100_000 {}
            assert!(buf == [b"before", &bytes[..]].concat(), "{way:?}");
            source.seek_to(1_199_990);
            buf.clear();
            assert_eq!(source.read(&mut buf, 100, &mut manners).unwrap(), 10);
            assert_eq!(buf, &bytes[1_199_990..]);
        }
    }
}
