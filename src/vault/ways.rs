//! The ways into a vault, as objects: `keys/owner-NNNN[-NAME]-KIND.age`, with a card beside each (`cards`).

use crate::{
    error::{Error, Result},
    store::{self, Key, Store},
    vault::owners::KEY_FILE_LEN_MAX,
};

/// The file of one way in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WayFile {
    /// Its number, from 1.
    pub number: u32,
    /// What somebody called it.
    pub name: Option<String>,
    /// `passphrase`, `age`, `ssh` or `plugin`.
    pub kind: String,
    file: String,
}

impl WayFile {
    /// Reads a file name such as `owner-0003-desk-ssh.age`.
    pub fn parse(file: &str) -> Option<Self> {
        let inner = file.strip_prefix("owner-")?.strip_suffix(".age")?;
        let (number, rest) = inner.split_once('-')?;
        let (name, kind) = match rest.rsplit_once('-') {
            Some((name, kind)) => (Some(name.to_owned()), kind),
            None => (None, rest),
        };
        let number = number.parse().ok().filter(|_| number.len() >= 4)?;
        Some(Self { number, name, kind: kind.to_owned(), file: file.to_owned() })
    }

    pub(super) fn new(number: u32, name: Option<&str>, kind: &str) -> Self {
        let file = match name {
            Some(name) => format!("owner-{number:04}-{name}-{kind}.age"),
            None => format!("owner-{number:04}-{kind}.age"),
        };
        Self { number, name: name.map(str::to_owned), kind: kind.to_owned(), file }
    }

    /// The name of the file.
    pub fn file(&self) -> &str {
        &self.file
    }

    /// Where it lies in the vault.
    pub fn path(&self) -> String {
        format!("keys/{}", self.file)
    }

    /// The name of its card.
    pub(super) fn card(&self) -> String {
        card_file(self.number)
    }
}

/// The name of the card of the way of that number: whoever stores it first has the number.
pub(super) fn card_file(number: u32) -> String {
    format!("way-{number:04}.age")
}

/// The number in the name of a card.
pub(super) fn number_of_card(file: &str) -> Option<u32> {
    file.strip_prefix("way-")?.strip_suffix(".age")?.parse().ok()
}

/// The names of all key files, each once, in order. One whose first copy is gone counts.
pub(super) fn key_names(store: &dyn Store) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for folder in ["keys", "parity/keys"] {
        names.extend(store::list_all(store, folder)?.iter().map(|(key, _)| key.file_name().to_owned()));
    }
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The files of ways in that the vault has, by number, whoever put them there.
pub fn way_files(store: &dyn Store) -> Result<Vec<WayFile>> {
    let mut ways: Vec<WayFile> = key_names(store)?.iter().filter_map(|name| WayFile::parse(name)).collect();
    ways.sort();
    Ok(ways)
}

/// Reads a key file, from its second copy if the first does not please `read`.
pub(super) fn either_copy<T>(store: &dyn Store, file: &str, read: impl Fn(&[u8]) -> Result<T>) -> Result<T> {
    let one = |folder: &str| read(&store::get_all(store, &Key::fixed(format!("{folder}/{file}")), KEY_FILE_LEN_MAX)?);
    one("keys").or_else(|e| one("parity/keys").map_err(|_| e))
}

/// The way that `text` names: its number, or its file with or without folder and ending, or its name. A number is never taken for a name.
pub fn find_way<'a>(ways: &'a [WayFile], text: &str) -> Result<&'a WayFile> {
    let bare = text.strip_prefix("keys/").unwrap_or(text);
    let by_number = |way: &WayFile| bare.parse() == Ok(way.number);
    let by_file = |way: &WayFile| way.file.strip_suffix(".age") == Some(bare.strip_suffix(".age").unwrap_or(bare));
    let by_name = |way: &WayFile| way.name.as_deref() == Some(bare);
    let looks: [&dyn Fn(&WayFile) -> bool; 3] = [&by_number, &by_file, &by_name];
    for is_it in looks {
        let found: Vec<&WayFile> = ways.iter().filter(|way| is_it(way)).collect();
        match found.as_slice() {
            [] => (),
            [way] => return Ok(way),
            several => {
                let files: Vec<&str> = several.iter().map(|way| way.file()).collect();
                return Err(Error::usage(format!("several ways in are called {text}")).hint(format!("give one of: {}", files.join(", "))));
            }
        }
    }
    Err(Error::not_found(format!("no way in is called {text}")).hint("coffre key list shows numbers and names"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_say_number_name_and_kind() {
        for (number, name, kind) in [(1, None, "age"), (12, Some("desk"), "ssh"), (10_000, Some("my-old.desk"), "passphrase")] {
            let way = WayFile::new(number, name, kind);
            assert_eq!(WayFile::parse(way.file()), Some(way));
        }
        for wrong in ["owner-1-age.age", "owner-0001.age", "sealer-0001-age.age", "owner-0001-age", "owner-x001-age.age"] {
            assert_eq!(WayFile::parse(wrong), None, "{wrong}");
        }
        let ways = [WayFile::new(1, None, "age"), WayFile::new(2, Some("desk"), "ssh"), WayFile::new(3, Some("desk"), "age")];
        for text in ["2", "0002", "owner-0002-desk-ssh", "keys/owner-0002-desk-ssh.age"] {
            assert_eq!(find_way(&ways, text).unwrap().number, 2, "{text}");
        }
        assert!(find_way(&ways, "desk").is_err() && find_way(&ways, "4").is_err());
        // A number wins over a name, and two of one number are told apart by their files.
        let ways = [
            WayFile::new(1, Some("2"), "age"),
            WayFile::new(2, None, "ssh"),
            WayFile::new(3, Some("a"), "age"),
            WayFile::new(3, Some("b"), "age"),
        ];
        assert_eq!(find_way(&ways, "2").unwrap().number, 2);
        assert_eq!(find_way(&ways, "b").unwrap().file(), "owner-0003-b-age.age");
        assert!(find_way(&ways, "3").unwrap_err().hint_text().unwrap().contains("owner-0003-a-age.age"));
    }
}
