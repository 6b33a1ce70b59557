//! Where a vault is, as people write it: a directory or a URL.

use std::{path::PathBuf, sync::Arc};

use crate::{
    error::{Error, Result},
    store::{Local, Settings, Store, remote},
};

/// A URL taken apart: `SCHEME://[USER@]HOST/PATH?NAME=VALUE&…`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Url {
    /// `s3`, `sftp`…
    pub scheme: String,
    /// Who one is there.
    pub user: Option<String>,
    /// Host and port, or the bucket.
    pub host: String,
    path: String,
    options: Vec<(String, String)>,
}

impl Url {
    /// Reads a URL; `None` if `text` is none.
    ///
    /// # Errors
    /// `Usage` if it cannot be used. No error repeats it: it may hold a secret.
    pub fn parse(text: &str) -> Result<Option<Self>> {
        let Some((scheme, rest)) = text.split_once("://") else { return Ok(None) };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (user, host) = authority.rsplit_once('@').map_or((None, authority), |(user, host)| (Some(user), host));
        if user.is_some_and(|user| user.contains(':')) {
            return Err(Error::usage("a URL with a password is refused: other people of this machine can read it")
                .hint("s3: AWS_SECRET_ACCESS_KEY or ~/.aws; webdav: COFFRE_WEBDAV_PASSWORD or ~/.netrc; sftp: a key"));
        }
        if host.is_empty() || path.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(Error::usage(format!("this {scheme}:// URL names no place"))
                .hint("it looks like s3://BUCKET/PATH, sftp://HOST/PATH or webdav://HOST/PATH"));
        }
        let option =
            |text: &str| text.split_once('=').map(|(name, value)| (name.to_owned(), value.replace("%3A", ":").replace("%2F", "/")));
        Ok(Some(Self {
            scheme: scheme.to_owned(),
            user: user.map(str::to_owned),
            host: host.to_owned(),
            path: path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/"),
            options: query.split('&').filter_map(option).collect(),
        }))
    }

    /// The path, with a slash at its end; empty for the top.
    pub fn folder(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!("{}/", self.path) }
    }

    /// An option after the question mark.
    pub fn option(&self, name: &str) -> Option<&str> {
        self.options.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Fails if there are options besides these.
    pub fn only(&self, known: &[&str]) -> Result<()> {
        match self.options.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(Error::usage(format!("a {}:// URL has no option {name}", self.scheme)).hint(match known.is_empty() {
                true => "it has none".to_owned(),
                false => format!("it has {}", known.join(", ")),
            })),
            None => Ok(()),
        }
    }
}

/// Opens the store at `place`; with its path, if it is a directory. Costs no request yet.
///
/// # Errors
/// `Usage` if this is no place, `NoVault` if it is a file.
pub fn open(place: &str, settings: impl FnOnce() -> Settings) -> Result<(Arc<dyn Store>, Option<PathBuf>)> {
    if let Some(url) = Url::parse(place)? {
        return Ok((remote::open(&url, settings())?, None));
    }
    // A mount in the background leaves the current directory; the vault stays where it is.
    let path = std::path::absolute(place).map_err(|e| Error::io(format!("cannot use {place}"), e))?;
    let path = std::fs::canonicalize(&path).unwrap_or(path);
    if path.exists() && !path.is_dir() {
        return Err(Error::no_vault(format!("{} is not a directory", path.display())).hint("a vault is a directory, or a URL"));
    }
    Ok((Arc::new(Local::new(path.clone())), Some(path)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_one_with_a_password_refused() {
        let url = Url::parse("s3://bucket//a/b/?endpoint=http://127.0.0.1:9000&region=x").unwrap().unwrap();
        assert_eq!((url.scheme.as_str(), url.host.as_str(), url.folder().as_str()), ("s3", "bucket", "a/b/"));
        assert_eq!((url.option("endpoint"), url.option("region"), url.option("x")), (Some("http://127.0.0.1:9000"), Some("x"), None));
        let url = Url::parse("sftp://me@host:22").unwrap().unwrap();
        assert_eq!((url.user.as_deref(), url.host.as_str(), url.folder().as_str()), (Some("me"), "host:22", ""));
        assert_eq!(Url::parse("/srv/vault").unwrap(), None);
        for bad in ["webdav://me:secret@host/x", "s3://", "s3:///x", "sftp://host/../x"] {
            let e = Url::parse(bad).unwrap_err();
            assert!(!e.chain().contains("secret"), "{bad}");
        }
    }
}
