//! Zip, written as a stream (PKWARE, APPNOTE 6.3): deflate, data descriptors, zip64 where something is large. The home of `flate2`.
//!
//! Zip knows files, directories and links, modes, and times in seconds. A name that is UTF-8 is marked so, another one is kept as it is.
//! Each name of an inode gets the content; holes are zeros. A file that proves damaged gets a checksum that does not fit, so that whoever
//! unpacks it is told.

use std::io::{self, Write};

use flate2::{Compression, Crc, write::DeflateEncoder};

use crate::{
    format::Content,
    ops::dump::{Archive, Item},
};

/// Quick, as the stream waits for it.
const LEVEL: u32 = 3;
/// Content of this length and more is described with 64 bits; deflate may make it a little longer.
const LARGE: u64 = 0xf000_0000;
const U32: u64 = u32::MAX as u64;
const U16: usize = u16::MAX as usize;
/// Zeros written at once for a hole.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An archive being written. About 100 bytes an entry are kept for the directory at its end.
pub struct Zip<'a> {
    out: &'a mut dyn Write,
    len: u64,
    members: Vec<Member>,
    encoder: Option<DeflateEncoder<Vec<u8>>>,
    crc: Crc,
    /// Bytes of the current file so far, holes among them.
    at: u64,
}

/// What the directory at the end says of a member.
struct Member {
    name: Box<[u8]>,
    mode: u32,
    owner: (u32, u32),
    mtime: i64,
    size: u64,
    stored: u64,
    offset: u64,
    crc: u32,
    deflated: bool,
    large: bool,
}

impl<'a> Zip<'a> {
    /// Writes to `out`.
    pub fn new(out: &'a mut dyn Write) -> Self {
        Self { out, len: 0, members: Vec::new(), encoder: None, crc: Crc::new(), at: 0 }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.len += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    /// Compresses bytes, and writes what has come of them.
    fn compress(&mut self, bytes: &[u8]) -> io::Result<()> {
        let Some(mut encoder) = self.encoder.take() else { return Ok(()) };
        self.crc.update(bytes);
        self.at += bytes.len() as u64;
        encoder.write_all(bytes)?;
        self.write(encoder.get_ref())?;
        encoder.get_mut().clear();
        self.encoder = Some(encoder);
        Ok(())
    }

    fn zeros_until(&mut self, end: u64) -> io::Result<()> {
        while self.at < end {
            let n = usize::try_from(end - self.at).unwrap_or(usize::MAX).min(ZEROS.len());
            self.compress(&ZEROS[..n])?;
        }
        Ok(())
    }
}

impl Archive for Zip<'_> {
    fn knows_links(&self) -> bool {
        false
    }

    fn begin(&mut self, item: &Item) -> io::Result<bool> {
        let entry = item.entry;
        let content: &[u8] = match &entry.content {
            Content::Fifo | Content::Device { .. } => return Ok(false),
            Content::Symlink(target) => target,
            Content::File { .. } | Content::Dir { .. } => b"",
        };
        if entry.is_dir() && item.path == b"." {
            // The directory itself has no name here.
            return Ok(true);
        }
        let mut name = item.path.to_vec();
        if entry.is_dir() {
            name.push(b'/');
        }
        if name.len() > U16 {
            return Ok(false);
        }
        let deflated = matches!(entry.content, Content::File { size, .. } if size > 0);
        let crc = crc_of(content);
        let member = Member {
            name: name.into(),
            mode: entry.mode,
            owner: (entry.uid, entry.gid),
            mtime: i64::try_from(entry.mtime_ns.div_euclid(1_000_000_000)).unwrap_or(0),
            size: if deflated { entry.size() } else { content.len() as u64 },
            stored: content.len() as u64,
            offset: self.len,
            crc,
            deflated,
            large: entry.size() >= LARGE,
        };
        let local = member.local();
        self.write(&local)?;
        self.write(content)?;
        if deflated {
            self.encoder = Some(DeflateEncoder::new(Vec::new(), Compression::new(LEVEL)));
            (self.crc, self.at) = (Crc::new(), 0);
        }
        self.members.push(member);
        Ok(true)
    }

    fn data(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.zeros_until(at)?;
        self.compress(bytes)
    }

    fn end(&mut self, whole: bool) -> io::Result<()> {
        let Some(size) = self.members.last().filter(|_| self.encoder.is_some()).map(|member| member.size) else { return Ok(()) };
        self.zeros_until(size)?;
        let Some(encoder) = self.encoder.take() else { return Ok(()) };
        let last = encoder.finish()?;
        self.write(&last)?;
        let (len, sum) = (self.len, self.crc.sum());
        let Some(member) = self.members.last_mut() else { return Ok(()) };
        member.stored = len - member.offset - member.local().len() as u64;
        member.crc = if whole { sum } else { !sum };
        let descriptor = member.descriptor();
        self.write(&descriptor)
    }

    fn finish(&mut self) -> io::Result<()> {
        let start = self.len;
        let members = std::mem::take(&mut self.members);
        for member in &members {
            self.write(&member.central())?;
        }
        let (count, len, end) = (members.len() as u64, self.len - start, self.len);
        if count >= U16 as u64 || len >= U32 || start >= U32 {
            let mut record = Record::new(0x0606_4b50);
            record.u64(44).u16(0x031e).u16(45).u32(0).u32(0).u64(count).u64(count).u64(len).u64(start);
            record.u32(0x0706_4b50).u32(0).u64(end).u32(1);
            self.write(&record.0)?;
        }
        let mut record = Record::new(0x0605_4b50);
        let count = u16::try_from(count).unwrap_or(u16::MAX);
        record.u16(0).u16(0).u16(count).u16(count);
        record.u32(u32::try_from(len).unwrap_or(u32::MAX)).u32(u32::try_from(start).unwrap_or(u32::MAX)).u16(0);
        self.write(&record.0)?;
        self.out.flush()
    }
}

fn crc_of(bytes: &[u8]) -> u32 {
    let mut crc = Crc::new();
    crc.update(bytes);
    crc.sum()
}

impl Member {
    /// Bit 3: sizes and checksum come behind the content. Bit 11: the name is UTF-8.
    fn flags(&self) -> u16 {
        u16::from(self.deflated) << 3 | u16::from(std::str::from_utf8(&self.name).is_ok()) << 11
    }

    fn common(&self, record: &mut Record) {
        let version = if self.large { 45 } else { 20 };
        let (time, date) = dos_time(self.mtime);
        record.u16(version).u16(self.flags()).u16(if self.deflated { 8 } else { 0 }).u16(time).u16(date);
    }

    /// Time in seconds, and owner by number.
    fn extra(&self, record: &mut Record) {
        if let Ok(mtime) = i32::try_from(self.mtime) {
            record.u16(0x5455).u16(5).bytes(&[1]).bytes(&mtime.to_le_bytes());
        }
        record.u16(0x7875).u16(11).bytes(&[1, 4]).u32(self.owner.0).bytes(&[4]).u32(self.owner.1);
    }

    fn local(&self) -> Vec<u8> {
        let mut extra = Record(Vec::new());
        if self.large {
            // Says that the sizes behind the content have 64 bits.
            extra.u16(1).u16(16).u64(0).u64(0);
        }
        self.extra(&mut extra);
        let mut record = Record::new(0x0403_4b50);
        self.common(&mut record);
        let short = |n: u64| if self.deflated { 0 } else { n as u32 };
        let sizes = if self.large { [u32::MAX; 2] } else { [short(self.stored), short(self.size)] };
        record.u32(if self.deflated { 0 } else { self.crc }).u32(sizes[0]).u32(sizes[1]);
        record.u16(self.name.len() as u16).u16(extra.0.len() as u16).bytes(&self.name).bytes(&extra.0);
        record.0
    }

    fn descriptor(&self) -> Vec<u8> {
        let mut record = Record::new(0x0807_4b50);
        record.u32(self.crc);
        match self.large {
            true => record.u64(self.stored).u64(self.size),
            false => record.u32(self.stored as u32).u32(self.size as u32),
        };
        record.0
    }

    fn central(&self) -> Vec<u8> {
        let mut extra = Record(Vec::new());
        let far = self.large || self.offset >= U32;
        if far {
            extra.u16(1).u16(24).u64(self.size).u64(self.stored).u64(self.offset);
        }
        self.extra(&mut extra);
        let mut record = Record::new(0x0201_4b50);
        record.u16(0x031e);
        self.common(&mut record);
        let short = |n: u64| if far { u32::MAX } else { n as u32 };
        record.u32(self.crc).u32(short(self.stored)).u32(short(self.size));
        record.u16(self.name.len() as u16).u16(extra.0.len() as u16).u16(0).u16(0).u16(0);
        let is_dir = self.mode & 0o170_000 == 0o040_000;
        record.u32(self.mode << 16 | u32::from(is_dir) << 4).u32(short(self.offset)).bytes(&self.name).bytes(&extra.0);
        record.0
    }
}

/// Little-endian fields.
struct Record(Vec<u8>);

impl Record {
    fn new(signature: u32) -> Self {
        Self(signature.to_le_bytes().to_vec())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    fn u16(&mut self, n: u16) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }

    fn u32(&mut self, n: u32) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }

    fn u64(&mut self, n: u64) -> &mut Self {
        self.bytes(&n.to_le_bytes())
    }
}

/// Time and date as DOS has them, in UTC: two seconds a step, from 1980 to 2107. The extra field says it better.
fn dos_time(secs: i64) -> (u16, u16) {
    let secs = secs.clamp(315_532_800, 4_354_819_198);
    let (day, second) = (secs / 86_400, secs % 86_400);
    // Days since 1970 to a date (H. Hinnant, chrono-Compatible Low-Level Date Algorithms, civil_from_days).
    let z = day + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let (d, m) = (doy - (153 * mp + 2) / 5 + 1, if mp < 10 { mp + 3 } else { mp - 9 });
    let y = yoe + era * 400 + i64::from(m <= 2);
    let time = ((second / 3600) << 11) | ((second / 60 % 60) << 5) | (second % 60 / 2);
    (time as u16, ((y - 1980) << 9 | m << 5 | d) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_dos() {
        let of = |secs| {
            let (time, date) = dos_time(secs);
            (1980 + (date >> 9), date >> 5 & 15, date & 31, time >> 11, time >> 5 & 63, (time & 31) * 2)
        };
        assert_eq!(of(1_700_000_001), (2023, 11, 14, 22, 13, 20));
        assert_eq!(of(951_782_400), (2000, 2, 29, 0, 0, 0));
        assert_eq!(of(-1), (1980, 1, 1, 0, 0, 0));
        assert_eq!(of(i64::MAX), (2107, 12, 31, 23, 59, 58));
    }
}
