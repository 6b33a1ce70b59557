//! `-o` as mount(8) and fstab write it, and the command line by which they call us.

use std::ffi::{OsStr, OsString};

use crate::{
    cli::mount::{XattrsArg, parse_owner, parse_size},
    error::{Error, Result},
    mount::Flags,
};

/// What `-o` said. What it did not say stays with the long options.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Given {
    /// Who may run, become and open what.
    pub flags: Flags,
    /// `allow_other`.
    pub allow_other: bool,
    /// `owner=UID:GID`.
    pub owner: Option<(u32, u32)>,
    /// `cache=SIZE`.
    pub cache: Option<u64>,
    /// `xattrs=WHEN`.
    pub xattrs: Option<XattrsArg>,
}

/// Options that say what is so anyway, or that are for others: mount(8) itself, systemd, `mount -a`.
const NOTHING_TO_DO: [&str; 22] = [
    "ro",
    "rw",
    "defaults",
    "default_permissions",
    "auto",
    "noauto",
    "user",
    "users",
    "nouser",
    "owner",
    "group",
    "nofail",
    "_netdev",
    "atime",
    "noatime",
    "relatime",
    "strictatime",
    "diratime",
    "nodiratime",
    "async",
    "silent",
    "loud",
];

/// Options that hold a key, and their long form. Only a line of fstab has no other place for them.
const KEYS: [(&str, &str); 3] =
    [("identity", "--identity"), ("passphrase_file", "--passphrase-file"), ("passphrase_command", "--passphrase-command")];

/// Reads the options of `-o`, already taken apart.
///
/// # Errors
/// `Usage` for one that is unknown or has a bad value.
pub fn parse(options: &[String]) -> Result<Given> {
    let mut given = Given::default();
    for option in options.iter().filter(|option| !option.is_empty()) {
        let (name, value) = option.split_once('=').map_or((option.as_str(), None), |(name, value)| (name, Some(value)));
        let bad = |e: String| Error::usage(format!("the mount option {option}: {e}"));
        match (name, value) {
            ("exec", None) => given.flags.exec = true,
            ("noexec", None) => given.flags.exec = false,
            ("suid", None) => given.flags.suid = true,
            ("nosuid", None) => given.flags.suid = false,
            ("dev", None) => given.flags.dev = true,
            ("nodev", None) => given.flags.dev = false,
            ("allow_other", None) => given.allow_other = true,
            ("max_read", Some(n)) => given.flags.max_read = Some(n.parse().map_err(|_| bad("a number of bytes is wanted".to_owned()))?),
            ("owner", Some(owner)) => given.owner = Some(parse_owner(owner).map_err(bad)?),
            ("cache", Some(size)) => given.cache = Some(parse_size(size).map_err(bad)?),
            ("xattrs", Some(when)) => given.xattrs = Some(<XattrsArg as clap::ValueEnum>::from_str(when, false).map_err(bad)?),
            (name, None) if NOTHING_TO_DO.contains(&name) => (),
            // For systemd and for people.
            (name, _) if name.starts_with("x-") || name.starts_with("X-") || name == "comment" => (),
            (name, _) => {
                let long = KEYS.iter().find(|(key, _)| *key == name).map(|(_, long)| *long);
                let hint = match long {
                    Some(long) => format!("here it is {long}"),
                    None => "coffre mount knows: ro, [no]exec, [no]suid, [no]dev, allow_other, max_read=N, owner=UID:GID, cache=SIZE, xattrs=WHEN; in fstab \
                             also identity=FILE, passphrase_file=FILE, passphrase_command=CMD"
                        .to_owned(),
                };
                return Err(Error::usage(format!("unknown mount option {option}")).hint(hint));
            }
        }
    }
    Ok(given)
}

/// The command line in our own words, if it is one of mount(8)'s: `mount.coffre VAULT DIR [-sfnv] [-t TYPE] [-o OPTIONS]`, or the same
/// from mount.fuse3, which calls us `coffre`.
pub fn translated(words: &[OsString]) -> Option<Vec<OsString>> {
    let (program, rest) = words.split_first()?;
    let name = std::path::Path::new(program).file_name()?;
    let by_name = [OsStr::new("mount.coffre"), OsStr::new("mount.fuse.coffre")].contains(&name);
    // No command has a slash in its name.
    let by_form = rest.len() >= 2 && rest[0].as_encoded_bytes().starts_with(b"/") && !rest[1].as_encoded_bytes().starts_with(b"-");
    if !by_name && !by_form {
        return None;
    }
    let (mut places, mut globals, mut options) = (Vec::new(), Vec::new(), Vec::new());
    let mut rest = rest.iter();
    while let Some(word) = rest.next() {
        match word.to_str() {
            Some("-o") => {
                for option in rest.next()?.to_str()?.split(',') {
                    let key = option.split_once('=').and_then(|(name, value)| Some((KEYS.iter().find(|(key, _)| *key == name)?.1, value)));
                    match key {
                        // mount.fuse3 says these by itself when root mounts; they were not asked for.
                        None if !by_name && ["suid", "dev"].contains(&option) => (),
                        Some((long, value)) => globals.extend([OsString::from(long), OsString::from(value)]),
                        None => options.push(option),
                    }
                }
            }
            Some("-t" | "-N") => drop(rest.next()),
            Some(flags) if flags.starts_with('-') => (),
            _ => places.push(word.clone()),
        }
    }
    let [vault, dir] = <[OsString; 2]>::try_from(places).ok()?;
    let mut words: Vec<OsString> = vec!["coffre".into(), "--vault".into(), vault];
    words.extend(globals);
    words.extend(["mount".into(), dir, "--daemon".into()]);
    if !options.is_empty() {
        words.extend(["-o".into(), options.join(",").into()]);
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Given> {
        parse(&text.split(',').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_taken_or_refused() {
        assert_eq!(of("ro,nosuid,nodev,noexec,relatime,x-systemd.automount,").unwrap(), {
            let flags = Flags { exec: false, ..Flags::default() };
            Given { flags, ..Given::default() }
        });
        let given = of("suid,dev,exec,allow_other,max_read=65536,owner=1:2,cache=64M,xattrs=never").unwrap();
        assert_eq!(given.flags, Flags { exec: true, suid: true, dev: true, max_read: Some(65536) });
        assert_eq!((given.allow_other, given.owner, given.cache), (true, Some((1, 2)), Some(64 << 20)));
        assert!(given.xattrs == Some(XattrsArg::Never));
        for bad in ["nonsense", "max_read=x", "owner=me", "identity=/k", "xattrs=maybe"] {
            assert_eq!(of(bad).unwrap_err().kind(), crate::error::ErrorKind::Usage, "{bad}");
        }
    }

    #[test]
    fn the_words_of_mount_become_ours() {
        let words = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let ours = words("coffre --vault /v --identity /k mount /m --daemon -o rw,cache=64M");
        for theirs in [
            "/sbin/mount.coffre /v /m -o rw,identity=/k,cache=64M",
            "/sbin/mount.fuse.coffre /v /m -s -v -t fuse.coffre -o rw,identity=/k,cache=64M",
            "coffre /v /m -o rw,identity=/k,cache=64M,dev,suid",
        ] {
            assert_eq!(translated(&words(theirs)).as_ref(), Some(&ours), "{theirs}");
        }
        for others in ["coffre mount /m", "coffre seal /a /b", "coffre", "coffre --vault /v mount /m -o ro"] {
            assert_eq!(translated(&words(others)), None, "{others}");
        }
    }
}
