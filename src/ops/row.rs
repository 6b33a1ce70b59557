//! What is said of an entry: exact values for scripts, from which the screen makes text for people.

use serde::Serialize;

use crate::{
    format::{Content, Entry, hex},
    sys,
};

/// A path or a name, or a link's target: text, and the exact bytes where they are not UTF-8.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PathText {
    /// The text, with what is not UTF-8 replaced.
    pub path: String,
    /// The bytes in hexadecimal digits, if they are not UTF-8.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path_hex: Option<String>,
    /// The bytes.
    #[serde(skip)]
    pub bytes: Box<[u8]>,
}

impl PathText {
    /// Takes the bytes.
    pub fn new(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let path_hex = std::str::from_utf8(bytes).is_err().then(|| hex(bytes));
        Self { path: text.into_owned(), path_hex, bytes: bytes.into() }
    }
}

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// A regular file.
    File,
    /// A directory.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A block device.
    Block,
    /// A character device.
    Char,
    /// A fifo.
    Fifo,
}

impl Type {
    /// All of them.
    pub const ALL: [Type; 6] = [Type::File, Type::Dir, Type::Symlink, Type::Block, Type::Char, Type::Fifo];

    /// The type of an entry.
    pub fn of(entry: &Entry) -> Self {
        match entry.content {
            Content::File { .. } => Type::File,
            Content::Dir { .. } => Type::Dir,
            Content::Symlink(_) => Type::Symlink,
            Content::Fifo => Type::Fifo,
            Content::Device { .. } if entry.mode & 0o170_000 == 0o060_000 => Type::Block,
            Content::Device { .. } => Type::Char,
        }
    }

    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Type::File => "file",
            Type::Dir => "directory",
            Type::Symlink => "symbolic link",
            Type::Block => "block device",
            Type::Char => "character device",
            Type::Fifo => "fifo",
        }
    }

    /// The letter with which `ls -l` begins, `f` for files as in `find -type`.
    pub fn letter(self) -> char {
        match self {
            Type::File => 'f',
            Type::Dir => 'd',
            Type::Symlink => 'l',
            Type::Block => 'b',
            Type::Char => 'c',
            Type::Fifo => 'p',
        }
    }
}

/// The facts of an entry, its path left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// What it is.
    #[serde(rename = "type")]
    pub kind: Type,
    /// Permission bits, four octal digits.
    pub mode: String,
    /// Numeric owner.
    pub uid: u32,
    /// Numeric group.
    pub gid: u32,
    /// Name of the owner, if the host knew it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Name of the group, if the host knew it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// Bytes.
    pub size: u64,
    /// When it was modified.
    pub mtime: String,
    /// The same, in ns since 1970.
    pub mtime_ns: i64,
    /// Where a symbolic link points.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<PathText>,
    /// Major and minor number of a device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<[u32; 2]>,
    /// How many names the file had at the source, if several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub links: Option<u32>,
    /// Names of its extended attributes.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<String>,
    /// How many entries lie below a directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub below: Option<u64>,
}

impl Facts {
    /// The facts of `entry`.
    pub fn of(entry: &Entry) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            kind: Type::of(entry),
            mode: format!("{:04o}", entry.mode & 0o7777),
            uid: entry.uid,
            gid: entry.gid,
            user: entry.user.as_deref().map(text),
            group: entry.group.as_deref().map(text),
            size: entry.size(),
            mtime: sys::utc_text(entry.mtime_ns),
            mtime_ns: i64::try_from(entry.mtime_ns).unwrap_or(if entry.mtime_ns < 0 { i64::MIN } else { i64::MAX }),
            target: match &entry.content {
                Content::Symlink(target) => Some(PathText::new(target)),
                _ => None,
            },
            device: match entry.content {
                Content::Device { major, minor } => Some([major, minor]),
                _ => None,
            },
            links: entry.hard_link.map(|link| link.nlink),
            xattrs: entry.xattrs.iter().map(|(name, _)| text(name)).collect(),
            below: match entry.content {
                Content::Dir { below, .. } => Some(below),
                _ => None,
            },
        }
    }
}

/// In what two entries of one path differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Facet {
    /// What it is.
    Type,
    /// A file's bytes or holes; what is in a directory.
    Content,
    /// Where a symbolic link points.
    Target,
    /// The numbers of a device.
    Device,
    /// Permission bits.
    Mode,
    /// Numeric owner.
    Owner,
    /// Numeric group.
    Group,
    /// Modification time.
    Time,
    /// Extended attributes, access lists among them.
    Xattrs,
}

impl Facet {
    /// The word for people.
    pub fn word(self) -> &'static str {
        match self {
            Facet::Type => "type",
            Facet::Content => "content",
            Facet::Target => "target",
            Facet::Device => "device",
            Facet::Mode => "mode",
            Facet::Owner => "owner",
            Facet::Group => "group",
            Facet::Time => "time",
            Facet::Xattrs => "xattrs",
        }
    }

    /// Whether it is about the entry, not about what is in it.
    pub fn is_metadata(self) -> bool {
        !matches!(self, Facet::Type | Facet::Content | Facet::Target | Facet::Device)
    }
}

/// In what `old` and `new` differ. In two domains the same content has different names: there, files of one size and one time are
/// taken to be equal, and directories to differ.
pub fn facets(old: &Entry, new: &Entry, one_domain: bool) -> Vec<Facet> {
    let same_time = old.mtime_ns == new.mtime_ns;
    let content = match (&old.content, &new.content) {
        (Content::File { size: a, data: x, holes: g }, Content::File { size: b, data: y, holes: h }) => {
            let equal = x == y || (!one_domain && same_time);
            (a != b || g != h || !equal).then_some(Facet::Content)
        }
        (Content::Dir { node: a, .. }, Content::Dir { node: b, .. }) => (a != b).then_some(Facet::Content),
        (Content::Symlink(a), Content::Symlink(b)) => (a != b).then_some(Facet::Target),
        (Content::Device { .. }, Content::Device { .. }) if Type::of(old) == Type::of(new) => {
            (old.content != new.content).then_some(Facet::Device)
        }
        (Content::Fifo, Content::Fifo) => None,
        _ => Some(Facet::Type),
    };
    let others = [
        (old.mode & 0o7777 != new.mode & 0o7777, Facet::Mode),
        (old.uid != new.uid, Facet::Owner),
        (old.gid != new.gid, Facet::Group),
        (!same_time, Facet::Time),
        (old.xattrs != new.xattrs, Facet::Xattrs),
    ];
    content.into_iter().chain(others.into_iter().filter_map(|(differs, facet)| differs.then_some(facet))).collect()
}
