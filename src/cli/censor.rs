//! What is never shown, wherever it was typed by mistake: private keys and tokens. Errors like to repeat what was wrong.

/// What stands in place of a secret.
const HIDDEN: &str = "(a secret, not shown)";
/// What private keys and tokens begin with, in small letters.
const STARTS: [&str; 2] = ["age-secret-key-", "coffre-enroll-"];
const PLUGIN: &str = "age-plugin-";
const PEM: (&str, &str, &str) = ("-----begin", "private key-----", "-----end");

/// The text without private keys and tokens.
pub fn without_secrets(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    // Only letters of ASCII change: places stay the same.
    let mut small = text.to_ascii_lowercase();
    while let Some((from, to)) = first_secret(&small) {
        out.push_str(&rest[..from]);
        out.push_str(HIDDEN);
        rest = &rest[to..];
        small.drain(..to);
    }
    out + rest
}

/// Where the first secret begins and ends.
fn first_secret(small: &str) -> Option<(usize, usize)> {
    let end_of_word =
        |at: usize| small[at..].find(|c: char| !c.is_ascii_alphanumeric() && !"-:+/=_.".contains(c)).map_or(small.len(), |n| at + n);
    let words = STARTS.iter().filter_map(|start| small.find(start)).map(|at| (at, end_of_word(at)));
    // The name of a plugin's program is no secret; an identity has its bytes behind a 1.
    let plugins = small.match_indices(PLUGIN).map(|(at, _)| (at, end_of_word(at)));
    let plugins = plugins.filter(|(at, end)| small[*at..*end].split_once("-1").is_some_and(|(_, bytes)| bytes.len() > 5));
    let pem =
        small.find(PEM.0).filter(|at| small[*at..].lines().next().is_some_and(|line| line.contains(PEM.1)) || small[*at..].contains(PEM.1));
    let pem = pem.map(|at| {
        let end = small[at..].find(PEM.2).map(|n| at + n);
        (at, end.and_then(|end| small[end..].find(PEM.1).map(|n| end + n + PEM.1.len())).unwrap_or(small.len()))
    });
    words.chain(plugins).chain(pem).min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_hidden_and_nothing_else() {
        let pem = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3Blbn\nNzaC1r\n-----END OPENSSH PRIVATE KEY-----";
        for (text, shown) in [
            ("nothing to hide: é", "nothing to hide: é"),
            ("é `AGE-SECRET-KEY-1QQQQ` is", "é `(a secret, not shown)` is"),
            ("owner=age-secret-key-1qqqq\nx AGE-SECRET-KEY-1AAA", "owner=(a secret, not shown)\nx (a secret, not shown)"),
            ("AGE-PLUGIN-YUBIKEY-1QYQSZQG in age-plugin-yubikey", "(a secret, not shown) in age-plugin-yubikey"),
            ("cannot read coffre-enroll-1:ab:web2:cd:AAAA+/= here", "cannot read (a secret, not shown) here"),
            ("ssh-ed25519 AAAAC3 age1qqq", "ssh-ed25519 AAAAC3 age1qqq"),
        ] {
            assert_eq!(without_secrets(text), shown);
        }
        assert_eq!(without_secrets(&format!("a '{pem}' b")), "a '(a secret, not shown)' b");
        assert_eq!(without_secrets(&pem[..50]), HIDDEN);
    }
}
