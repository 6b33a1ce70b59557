//! Records of pax headers (POSIX.1-2017, pax, "pax Header Block"): what does not fit the fields of a ustar header.

/// Records, one after the other.
#[derive(Default)]
pub struct Records(pub Vec<u8>);

impl Records {
    /// Adds `LEN KEY=VALUE\n`, where LEN counts itself.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        let rest = key.len() + value.len() + 3;
        let digits = |n: usize| n.to_string().len();
        let mut len = rest + digits(rest);
        if rest + digits(len) != len {
            len = rest + digits(len);
        }
        self.0.extend_from_slice(len.to_string().as_bytes());
        self.0.push(b' ');
        self.0.extend_from_slice(key);
        self.0.push(b'=');
        self.0.extend_from_slice(value);
        self.0.push(b'\n');
    }

    /// An extended attribute, with the characters that a key cannot hold written as GNU tar does.
    pub fn xattr(&mut self, name: &[u8], value: &[u8]) {
        let mut key = b"SCHILY.xattr.".to_vec();
        for byte in name {
            match byte {
                b'%' => key.extend_from_slice(b"%25"),
                b'=' => key.extend_from_slice(b"%3D"),
                _ => key.push(*byte),
            }
        }
        self.add(&key, value);
    }
}

/// A moment in ns as pax writes it: seconds with a fraction, the sign before all of it.
pub fn time(ns: i128) -> String {
    let sign = if ns < 0 { "-" } else { "" };
    let (secs, rest) = (ns.unsigned_abs() / 1_000_000_000, ns.unsigned_abs() % 1_000_000_000);
    match rest {
        0 => format!("{sign}{secs}"),
        _ => format!("{sign}{secs}.{rest:09}").trim_end_matches('0').to_owned(),
    }
}

/// The text of an access list from its bytes (Linux, `posix_acl_xattr.h`): users and groups by number. `None` if they are no such list.
pub fn acl_text(bytes: &[u8]) -> Option<String> {
    let entries = bytes.strip_prefix(&2u32.to_le_bytes())?;
    let mut text = String::new();
    for entry in entries.chunks(8) {
        let entry: [u8; 8] = entry.try_into().ok()?;
        let (tag, perm) = (u16::from_le_bytes([entry[0], entry[1]]), entry[2]);
        let id = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
        let who = match tag {
            0x01 => "user:".to_owned(),
            0x02 => format!("user:{id}"),
            0x04 => "group:".to_owned(),
            0x08 => format!("group:{id}"),
            0x10 => "mask:".to_owned(),
            0x20 => "other:".to_owned(),
            _ => return None,
        };
        let bit = |bit: u8, c: char| if perm & bit != 0 { c } else { '-' };
        text.push_str(&format!("{who}:{}{}{}\n", bit(4, 'r'), bit(2, 'w'), bit(1, 'x')));
    }
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        let mut records = Records::default();
        records.add(b"k", b"v");
        assert_eq!(records.0, b"6 k=v\n");
        for len in 0..2000 {
            let mut records = Records::default();
            records.add(b"path", &vec![b'x'; len]);
            let said: usize = String::from_utf8_lossy(&records.0).split(' ').next().unwrap().parse().unwrap();
            assert_eq!(said, records.0.len());
        }
    }

    #[test]
    fn moments_keep_every_nanosecond_on_both_sides_of_1970() {
        for (ns, text) in [
            (0, "0"),
            (1_500_000_000, "1.5"),
            (1_000_000_001, "1.000000001"),
            (-1, "-0.000000001"),
            (-157_766_399_000_000_001, "-157766399.000000001"),
            (-2_000_000_000, "-2"),
            (100_000_000_000, "100"),
        ] {
            assert_eq!(time(ns), text);
        }
    }

    #[test]
    fn access_lists_become_text() {
        let entry = |tag: u16, perm: u16, id: u32| [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat();
        let bytes = [
            2u32.to_le_bytes().to_vec(),
            entry(1, 6, u32::MAX),
            entry(2, 7, 12345),
            entry(4, 5, u32::MAX),
            entry(16, 5, u32::MAX),
            entry(32, 0, u32::MAX),
        ];
        assert_eq!(acl_text(&bytes.concat()).unwrap(), "user::rw-\nuser:12345:rwx\ngroup::r-x\nmask::r-x\nother::---\n");
        assert_eq!(acl_text(&bytes.concat()[..13]), None);
        assert_eq!(acl_text(b"x"), None);
    }
}
