//! Plaintext ⇄ age files, whole and by range. The home of `age` below the vault, and of `ring`.
//!
//! Headers, with their key wrapping and MAC, are the `age` crate's work. The payload (STREAM over
//! ChaCha20-Poly1305 in 64 KiB blocks, age-encryption.org/v1 "Payload") is read and written here, because
//! random reads need `&self`, blocks in any order, and a bad block that does not poison its neighbours.

use std::{cell::RefCell, collections::HashSet, str::FromStr};

use age::secrecy::ExposeSecret;
use age_core::format::{FileKey, Stanza};
use ring::{aead, hkdf};
use zeroize::Zeroizing;

use crate::{
    error::{Error, Result},
    format::Key32,
    pack::headers::{Headers, tag_of},
    sys::{self, Wiped},
};

/// An age identity of our own: X25519.
pub type Identity = age::x25519::Identity;
/// Its public half.
pub type Recipient = age::x25519::Recipient;
/// Whatever can open an age header.
pub type Unwrap<'a> = &'a dyn age::Identity;
/// Whatever an age header can be made for.
pub type Wrap<'a> = &'a dyn age::Recipient;

/// Plaintext bytes of a block.
pub const BLOCK_LEN: usize = 64 << 10;
/// Bytes that encryption adds to each block.
pub const TAG_LEN: usize = 16;
const STORED_BLOCK_LEN: usize = BLOCK_LEN + TAG_LEN;
const NONCE_LEN: usize = 16;
const FILE_KEY_LEN: usize = 16;
/// Words of stack that a call into a cipher reaches down to, and one into a key exchange.
const SHALLOW: usize = 512;
const DEEP: usize = 4096;
/// Longest header accepted, in bytes; one recipient takes about 300.
pub const HEADER_LEN_MAX: usize = 64 << 10;

/// Returns the X25519 identity with these 32 secret bytes.
pub fn identity_from_bytes(bytes: &[u8; 32]) -> Identity {
    let hrp = bech32::Hrp::parse("age-secret-key-").expect("a legal prefix");
    let text = Zeroizing::new(bech32::encode_upper::<bech32::Bech32>(hrp, bytes).expect("32 bytes fit"));
    Identity::from_str(&text).expect("an encoded key is a key")
}

/// The payload key of one age file.
pub struct StreamKey(Wiped<aead::LessSafeKey>);

impl StreamKey {
    fn new(file_key: &[u8], nonce: &[u8; NONCE_LEN]) -> Self {
        struct Len;
        impl hkdf::KeyType for Len {
            fn len(&self) -> usize {
                32
            }
        }
        let mut key = Zeroizing::new([0u8; 32]);
        hkdf::Salt::new(hkdf::HKDF_SHA256, nonce)
            .extract(file_key)
            .expand(&[b"payload"], Len)
            .and_then(|okm| okm.fill(&mut key[..]))
            .expect("32 bytes are within HKDF's limits");
        let cipher =
            Wiped::new(|| aead::LessSafeKey::new(aead::UnboundKey::new(&aead::CHACHA20_POLY1305, &key[..]).expect("32 bytes are a key")));
        Self(cipher)
    }

    /// STREAM nonce: an 11-byte big-endian counter and a flag for the last block.
    fn nonce(block: u64, last: bool) -> aead::Nonce {
        let mut nonce = [0u8; 12];
        nonce[3..11].copy_from_slice(&block.to_be_bytes());
        nonce[11] = u8::from(last);
        aead::Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts `block` in place and returns its tag.
    pub fn seal(&self, number: u64, last: bool, block: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self.seal_block(number, last, block);
        // The cipher works on a copy of the key, on the stack.
        sys::wipe_stack::<SHALLOW>();
        tag
    }

    #[inline(never)]
    fn seal_block(&self, number: u64, last: bool, block: &mut [u8]) -> [u8; TAG_LEN] {
        let tag = self.0.seal_in_place_separate_tag(Self::nonce(number, last), aead::Aad::empty(), block).expect("a block is short enough");
        tag.as_ref().try_into().expect("a tag is 16 bytes")
    }

    /// Decrypts a stored block (ciphertext and tag) in place and returns the plaintext.
    fn open<'a>(&self, number: u64, last: bool, block: &'a mut [u8]) -> Option<&'a mut [u8]> {
        self.0.open_in_place(Self::nonce(number, last), aead::Aad::empty(), block).ok()
    }
}

/// Hands the file key that the crate makes through to `taken`.
struct Tap<'a> {
    inner: Wrap<'a>,
    taken: RefCell<Zeroizing<Vec<u8>>>,
}

impl age::Recipient for Tap<'_> {
    fn wrap_file_key(&self, file_key: &FileKey) -> std::result::Result<(Vec<Stanza>, HashSet<String>), age::EncryptError> {
        *self.taken.borrow_mut() = Zeroizing::new(file_key.expose_secret().to_vec());
        self.inner.wrap_file_key(file_key)
    }
}

/// Starts an age file for `recipients`: returns its header and nonce as bytes, and the key for its blocks.
///
/// Who seals must not be able to read later, so nothing of the key stays behind once its owner is dropped (`tests/keys/thief.rs`).
pub fn start(recipients: &[Wrap]) -> Result<(Vec<u8>, StreamKey)> {
    let started = start_file(recipients);
    sys::wipe_stack::<DEEP>();
    started
}

#[inline(never)]
fn start_file(recipients: &[Wrap]) -> Result<(Vec<u8>, StreamKey)> {
    let failed = |e: &dyn std::fmt::Display| Error::wrong_key("cannot encrypt to these recipients").because(plainly(e));
    let taps: Vec<Tap> = recipients.iter().map(|inner| Tap { inner: *inner, taken: RefCell::default() }).collect();
    let encryptor = age::Encryptor::with_recipients(taps.iter().map(|t| t as Wrap)).map_err(|e| failed(&e))?;
    let mut head = Vec::with_capacity(512);
    drop(encryptor.wrap_output(&mut head).map_err(|e| failed(&e))?);
    let nonce = head[head.len() - NONCE_LEN..].try_into().expect("a header ends with its nonce");
    let file_key = taps.first().expect("the crate refuses an empty list").taken.borrow();
    Ok((head, StreamKey::new(&file_key, &nonce)))
}

/// Returns an age file of `plaintext` for `recipients`.
pub fn seal_whole(recipients: &[Wrap], plaintext: &[u8]) -> Result<Vec<u8>> {
    let (mut out, key) = start(recipients)?;
    out.reserve(plaintext.len() + plaintext.len().div_ceil(BLOCK_LEN) * TAG_LEN + TAG_LEN);
    let blocks = plaintext.len().div_ceil(BLOCK_LEN).max(1);
    for number in 0..blocks {
        let block = &plaintext[number * BLOCK_LEN..plaintext.len().min((number + 1) * BLOCK_LEN)];
        let at = out.len();
        out.extend_from_slice(block);
        let tag = key.seal(number as u64, number + 1 == blocks, &mut out[at..]);
        out.extend_from_slice(&tag);
    }
    Ok(out)
}

/// Keeps the file key that an identity finds.
struct Catch<'a> {
    identities: &'a [Unwrap<'a>],
    found: RefCell<Option<Zeroizing<Vec<u8>>>>,
}

impl Catch<'_> {
    fn keep(
        &self,
        opened: Option<std::result::Result<FileKey, age::DecryptError>>,
    ) -> Option<std::result::Result<FileKey, age::DecryptError>> {
        if let Some(Ok(key)) = &opened {
            *self.found.borrow_mut() = Some(Zeroizing::new(key.expose_secret().to_vec()));
        }
        opened
    }
}

impl age::Identity for Catch<'_> {
    fn unwrap_stanza(&self, stanza: &Stanza) -> Option<std::result::Result<FileKey, age::DecryptError>> {
        self.keep(self.identities.iter().find_map(|i| i.unwrap_stanza(stanza)))
    }

    fn unwrap_stanzas(&self, stanzas: &[Stanza]) -> Option<std::result::Result<FileKey, age::DecryptError>> {
        // A wrong key among several is no reason to stop; the last failure is told if none fits.
        let mut last = None;
        for identity in self.identities {
            match identity.unwrap_stanzas(stanzas) {
                Some(Ok(key)) => return self.keep(Some(Ok(key))),
                Some(Err(e)) => last = Some(Err(e)),
                None => (),
            }
        }
        last
    }
}

/// Identities that are asked only for headers that were never opened before.
pub struct Remembered<'a> {
    identities: &'a [Identity],
    headers: &'a Headers,
}

impl<'a> Remembered<'a> {
    /// Opens headers with `identities`, and keeps what they give in `headers`.
    pub fn new(identities: &'a [Identity], headers: &'a Headers) -> Self {
        Self { identities, headers }
    }

    /// Opens the header at the start of `head`, as `StreamHead::open` does. One whose every byte was seen before gives the key that it gave then.
    pub fn head(&self, head: &[u8], stored_len: u64, what: &str) -> Result<StreamHead> {
        let header = header_of(head);
        let tag = header.map(|header| tag_of([b"opens to", &header[..header.len() - NONCE_LEN]].into_iter()));
        if let (Some(header), Some(known)) = (header, tag.and_then(|tag| self.headers.get(&tag))) {
            return StreamHead::with_key(&Zeroizing::new(known)[..], header, stored_len, what);
        }
        let unwraps: Vec<Unwrap> = self.identities.iter().map(|identity| identity as Unwrap).collect();
        let (opened, file_key) = StreamHead::opened(&unwraps, head, stored_len, what)?;
        let is_all = header.is_some_and(|header| header.len() as u64 == opened.payload_offset);
        if let (Some(tag), Ok(file_key), true) = (tag, <[u8; FILE_KEY_LEN]>::try_from(&file_key[..]), is_all) {
            self.headers.put(tag, file_key);
        }
        Ok(opened)
    }

    /// Decrypts a whole age file.
    pub fn whole(&self, file: &[u8], what: &str) -> Result<Zeroizing<Vec<u8>>> {
        self.head(&file[..file.len().min(HEADER_LEN_MAX)], file.len() as u64, what)?.all_of(file, what)
    }
}

/// The header of an age file with its MAC and the nonce behind it, if all of it is here. Only its end is looked for; whether it is right is not.
fn header_of(head: &[u8]) -> Option<&[u8]> {
    const MAC_LINE: &[u8] = b"\n--- ";
    let mac = head.windows(MAC_LINE.len()).position(|window| window == MAC_LINE)? + MAC_LINE.len();
    let end = mac + head[mac..].iter().position(|byte| *byte == b'\n')? + 1;
    head.get(..end + NONCE_LEN)
}

/// Encrypts a small text of our own under `key`, which must never meet this nonce again.
pub fn seal_small(key: &Key32, nonce: [u8; 12], plain: &[u8]) -> Vec<u8> {
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key.expose()).expect("32 bytes are a key"));
    let mut sealed = plain.to_vec();
    let nonce = aead::Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, aead::Aad::empty(), &mut sealed).expect("it is short enough");
    sealed
}

/// Decrypts what `seal_small` returned; `None` if it is not that.
pub fn open_small(key: &Key32, nonce: [u8; 12], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let key = aead::LessSafeKey::new(aead::UnboundKey::new(&aead::CHACHA20_POLY1305, key.expose()).expect("32 bytes are a key"));
    let mut plain = Zeroizing::new(sealed.to_vec());
    let len = key.open_in_place(aead::Nonce::assume_unique_for_key(nonce), aead::Aad::empty(), &mut plain).ok()?.len();
    plain.truncate(len);
    Some(plain)
}

/// An opened header: the key of the blocks, and where they lie.
pub struct StreamHead {
    key: StreamKey,
    /// Bytes of the stored file before the first block.
    payload_offset: u64,
    /// Bytes of the stored file.
    stored_len: u64,
}

impl StreamHead {
    /// Opens the header at the start of `head`, the first bytes of a file that is `stored_len` long.
    ///
    /// # Errors
    /// `WrongKey` if no identity fits, `Corrupt` if the header is damaged.
    pub fn open(identities: &[Unwrap], head: &[u8], stored_len: u64, what: &str) -> Result<Self> {
        Self::opened(identities, head, stored_len, what).map(|(opened, _)| opened)
    }

    /// The same, with the file key.
    fn opened(identities: &[Unwrap], head: &[u8], stored_len: u64, what: &str) -> Result<(Self, Zeroizing<Vec<u8>>)> {
        let broken = |e: &dyn std::fmt::Display| Error::corrupt(format!("{what} has a damaged age header")).because(plainly(e));
        let mut rest = head;
        let decryptor = age::Decryptor::new_buffered(&mut rest).map_err(|e| match e {
            age::DecryptError::UnknownFormat
                if head.starts_with(b"age-encryption.org/v") && !head.starts_with(b"age-encryption.org/v1\n") =>
            {
                Error::unsupported(format!("{what} is a newer kind of age file"))
            }
            e => broken(&e),
        })?;
        let catch = Catch { identities, found: RefCell::new(None) };
        let opened = decryptor.decrypt(std::iter::once(&catch as Unwrap)).map(drop);
        opened.map_err(|e| match e {
            age::DecryptError::NoMatchingKeys | age::DecryptError::KeyDecryptionFailed | age::DecryptError::DecryptionFailed => {
                Error::wrong_key(format!("no key that was given opens {what}"))
            }
            age::DecryptError::ExcessiveWork { .. } => Error::wrong_key(format!("{what} asks for an unreasonable amount of work")),
            // Nothing is wrong with the file: the header was read before, from memory.
            e @ (age::DecryptError::Plugin(_) | age::DecryptError::PluginResolve(_) | age::DecryptError::Io(_)) => {
                Error::unavailable(format!("an age plugin failed that was to open {what}"))
                    .because(plainly(&e))
                    .hint("its own messages may say why; with AGEDEBUG=plugin in the environment all is shown that it is told and answers")
            }
            e => broken(&e),
        })?;
        let payload_offset = head.len() - rest.len();
        let file_key = catch.found.take().ok_or_else(|| Error::bug("a header was opened without a key"))?;
        Ok((Self::with_key(&file_key, &head[..payload_offset], stored_len, what)?, file_key))
    }

    /// What a header, which ends with its nonce, and its file key say of a file that is `stored_len` long.
    fn with_key(file_key: &[u8], header: &[u8], stored_len: u64, what: &str) -> Result<Self> {
        let payload_offset = header.len() as u64;
        if stored_len < payload_offset + TAG_LEN as u64 {
            return Err(Error::corrupt(format!("{what} ends inside its header")));
        }
        let nonce = header.last_chunk().expect("a header ends with its nonce");
        Ok(Self { key: StreamKey::new(file_key, nonce), payload_offset, stored_len })
    }

    fn blocks(&self) -> u64 {
        (self.stored_len - self.payload_offset).div_ceil(STORED_BLOCK_LEN as u64)
    }

    /// Bytes of plaintext in the whole file.
    pub fn plain_len(&self) -> u64 {
        let payload = self.stored_len - self.payload_offset;
        payload.saturating_sub(self.blocks() * TAG_LEN as u64)
    }

    /// Where the stored block lies that holds byte `offset` of the plaintext.
    pub fn stored_offset(&self, offset: u64) -> u64 {
        self.payload_offset + offset / BLOCK_LEN as u64 * STORED_BLOCK_LEN as u64
    }

    /// Where the stored blocks lie that hold `len` bytes of plaintext from `offset` on: (offset, length) in the file.
    ///
    /// # Errors
    /// `Corrupt` if the file is shorter than that.
    pub fn stored_range(&self, offset: u64, len: usize, what: &str) -> Result<(u64, usize)> {
        let end = offset.checked_add(len as u64).filter(|end| len > 0 && *end <= self.plain_len());
        let end = end.ok_or_else(|| Error::corrupt(format!("{what} is shorter than its index says")))?;
        let first = offset / BLOCK_LEN as u64;
        let last = (end - 1) / BLOCK_LEN as u64;
        let start = self.payload_offset + first * STORED_BLOCK_LEN as u64;
        let stop = (self.payload_offset + (last + 1) * STORED_BLOCK_LEN as u64).min(self.stored_len);
        Ok((start, (stop - start) as usize))
    }

    /// Decrypts all of `file`, which has this header.
    fn all_of(&self, file: &[u8], what: &str) -> Result<Zeroizing<Vec<u8>>> {
        let mut payload = Zeroizing::new(file[self.payload_offset as usize..].to_vec());
        let len = self.plain_len() as usize;
        if len == 0 {
            // The empty file is one empty block, and it must be authentic too.
            return match self.key.open(0, true, &mut payload) {
                Some(_) => Ok(Zeroizing::default()),
                None => Err(Error::corrupt(format!("{what} is damaged"))),
            };
        }
        self.open_range(0, len, &mut payload, what)?;
        payload.truncate(len);
        Ok(payload)
    }

    /// Decrypts the blocks that `stored_range` named, in place, and returns the `len` bytes of plaintext from `offset` on,
    /// moved together at the front of `stored`.
    pub fn open_range<'a>(&self, offset: u64, len: usize, stored: &'a mut [u8], what: &str) -> Result<&'a [u8]> {
        let first = offset / BLOCK_LEN as u64;
        let blocks = self.blocks();
        let mut filled = 0;
        for (i, start) in (0..stored.len()).step_by(STORED_BLOCK_LEN).enumerate() {
            let number = first + i as u64;
            let end = (start + STORED_BLOCK_LEN).min(stored.len());
            let plain = self
                .key
                .open(number, number + 1 == blocks, &mut stored[start..end])
                .ok_or_else(|| {
                    Error::corrupt(format!(
                        "{what} is damaged in block {number}, near byte {}",
                        self.payload_offset + number * STORED_BLOCK_LEN as u64
                    ))
                })?
                .len();
            stored.copy_within(start..start + plain, filled);
            filled += plain;
        }
        let skip = (offset - first * BLOCK_LEN as u64) as usize;
        stored[..filled].get(skip..skip + len).ok_or_else(|| Error::corrupt(format!("{what} is shorter than its index says")))
    }
}

/// What the age crate says, in one line, without the invisible characters that it puts around names.
pub fn plainly(e: &dyn std::fmt::Display) -> String {
    let text: String = e.to_string().chars().filter(|c| !('\u{2066}'..='\u{2069}').contains(c)).collect();
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Decrypts a whole age file.
pub fn open_whole(identities: &[Unwrap], file: &[u8], what: &str) -> Result<Zeroizing<Vec<u8>>> {
    StreamHead::open(identities, &file[..file.len().min(HEADER_LEN_MAX)], file.len() as u64, what)?.all_of(file, what)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn identity() -> Identity {
        identity_from_bytes(&[42; 32])
    }

    fn noise(len: usize) -> Vec<u8> {
        (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
    }

    #[test]
    fn the_crate_reads_what_we_write_at_every_edge() {
        let id = identity();
        for len in [0, 1, BLOCK_LEN - 1, BLOCK_LEN, BLOCK_LEN + 1, 3 * BLOCK_LEN, 3 * BLOCK_LEN + 17] {
            let file = seal_whole(&[&id.to_public()], &noise(len)).unwrap();
            let mut plain = Vec::new();
            let decryptor = age::Decryptor::new(&file[..]).unwrap();
            decryptor.decrypt(std::iter::once(&id as Unwrap)).unwrap().read_to_end(&mut plain).unwrap();
            assert_eq!(plain, noise(len), "{len}");
            assert_eq!(*open_whole(&[&id], &file, "test").unwrap(), noise(len), "{len}");
        }
    }

    #[test]
    fn we_read_what_the_crate_writes_from_any_offset() {
        let (id, plain) = (identity(), noise(4 * BLOCK_LEN + 999));
        let mut file = Vec::new();
        let mut writer = age::Encryptor::with_recipients(std::iter::once(&id.to_public() as Wrap)).unwrap().wrap_output(&mut file).unwrap();
        writer.write_all(&plain).unwrap();
        writer.finish().unwrap();
        let head = StreamHead::open(&[&id], &file, file.len() as u64, "test").unwrap();
        assert_eq!(head.plain_len(), plain.len() as u64);
        for (offset, len) in [(0, 1), (0, plain.len()), (BLOCK_LEN - 1, 2), (BLOCK_LEN, BLOCK_LEN), (plain.len() - 1, 1), (70_000, 130_000)]
        {
            let (at, stored) = head.stored_range(offset as u64, len, "test").unwrap();
            let mut buf = file[at as usize..at as usize + stored].to_vec();
            assert_eq!(head.open_range(offset as u64, len, &mut buf, "test").unwrap(), &plain[offset..offset + len]);
        }
        assert!(head.stored_range(plain.len() as u64, 1, "test").is_err());
    }

    #[test]
    fn a_header_is_opened_once_and_another_one_never_by_its_key() {
        let (id, headers) = (identity(), Headers::default());
        let (one, other) = (seal_whole(&[&id.to_public()], b"one").unwrap(), seal_whole(&[&id.to_public()], b"other").unwrap());
        let ours = std::slice::from_ref(&id);
        assert_eq!(**Remembered::new(ours, &headers).whole(&one, "it").unwrap(), *b"one");
        // Without any identity: what was seen before, to the byte.
        let known = Remembered::new(&[], &headers);
        assert_eq!(**known.whole(&one, "it").unwrap(), *b"one");
        assert!(known.whole(&other, "it").is_err());
        let header = header_of(&one).unwrap().len();
        for n in 0..one.len() {
            let mut hurt = one.clone();
            hurt[n] ^= 1;
            assert!(known.whole(&hurt, "it").is_err() && Remembered::new(ours, &headers).whole(&hurt, "it").is_err(), "byte {n}");
            assert!(known.whole(&one[..n], "it").is_err(), "cut at {n}");
        }
        // A header with the payload of another file.
        assert!(known.whole(&[&one[..header], &other[header_of(&other).unwrap().len()..]].concat(), "it").is_err());
        assert_eq!(headers.fresh(), 1, "nothing that failed was kept");
    }

    /// The payload cases that age's own test kit (C2SP CCTV, age vectors stream_*) names: a flipped, missing, doubled,
    /// swapped or truncated block, a last block that is not marked, and trailing bytes. All are errors here.
    #[test]
    fn a_damaged_payload_is_never_plaintext() {
        use crate::error::ErrorKind;
        let id = identity();
        let file = seal_whole(&[&id.to_public()], &noise(3 * BLOCK_LEN)).unwrap();
        let head = StreamHead::open(&[&id], &file, file.len() as u64, "test").unwrap();
        let at = head.payload_offset as usize;
        let block = |n: usize| file[at + n * STORED_BLOCK_LEN..at + (n + 1) * STORED_BLOCK_LEN].to_vec();
        let with = |parts: &[Vec<u8>]| [&file[..at], &parts.concat()].concat();
        let mut flipped = block(1);
        flipped[9] ^= 1;
        let cases = [
            with(&[block(0), flipped, block(2)]),
            with(&[block(0), block(2)]),
            with(&[block(0), block(1), block(1), block(2)]),
            with(&[block(1), block(0), block(2)]),
            with(&[block(0), block(1)]),
            with(&[block(0), block(1), block(2)[..100].to_vec()]),
            with(&[block(0), block(1), block(2), vec![0]]),
            with(&[block(0), block(1), block(2), vec![0; TAG_LEN]]),
            with(&[]),
        ];
        for (n, case) in cases.iter().enumerate() {
            assert_eq!(open_whole(&[&id], case, "test").unwrap_err().kind(), ErrorKind::Corrupt, "case {n}");
        }
        let wrong = identity_from_bytes(&[43; 32]);
        assert_eq!(open_whole(&[&wrong], &file, "test").unwrap_err().kind(), ErrorKind::WrongKey);
        // A bad block does not poison the others.
        let hurt = &cases[0];
        let (start, len) = head.stored_range(2 * BLOCK_LEN as u64, 10, "test").unwrap();
        let mut buf = hurt[start as usize..start as usize + len].to_vec();
        assert_eq!(head.open_range(2 * BLOCK_LEN as u64, 10, &mut buf, "test").unwrap(), &noise(3 * BLOCK_LEN)[2 * BLOCK_LEN..][..10]);
    }
}
