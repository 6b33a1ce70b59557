//! What a shell may complete: snapshots, and paths in them.
//!
//! Asks nobody for anything: what no identity file opens is not completed. Without one, a sealing host completes its own snapshots.

use std::{
    ffi::{OsStr, OsString},
    fs,
    ops::ControlFlow,
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::PathBuf,
    sync::Arc,
};

use clap_complete::{
    CompletionCandidate,
    engine::{ArgValueCompleter, ValueCompleter},
    env::Shells,
};

use crate::{
    cli::{Opened, state_base},
    error::{Error, Result},
    ops::{
        look::Look,
        ls,
        row::Type,
        snapshots::{self, Filter, Row},
    },
    store::Local,
    sys::{Cancel, Clock, SystemClock},
    vault::{OwnerKeys, Selector, StateDir, Unlocking, Vault},
};

/// Snapshots offered, newest first.
const SNAPSHOTS_MAX: usize = 50;
/// Names offered.
const NAMES_MAX: usize = 2000;
/// Longest identity file read, in bytes.
const IDENTITY_LEN_MAX: u64 = 1 << 20;

/// Completes SNAP.
#[derive(Clone)]
struct Snap;
/// Completes SNAP:PATH.
#[derive(Clone)]
struct SnapPath;
/// Completes a full path in the newest snapshot.
#[derive(Clone)]
struct StoredPath;

/// For an argument that is a snapshot.
pub fn snap() -> ArgValueCompleter {
    ArgValueCompleter::new(Snap)
}

/// For an argument that is a snapshot and a path in it.
pub fn snap_path() -> ArgValueCompleter {
    ArgValueCompleter::new(SnapPath)
}

/// For an argument that is a path as it was at the source.
pub fn stored_path() -> ArgValueCompleter {
    ArgValueCompleter::new(StoredPath)
}

impl ValueCompleter for Snap {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        open().and_then(|place| offered(&place, current, "")).unwrap_or_default()
    }
}

impl ValueCompleter for SnapPath {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        let typed = current.as_bytes();
        let Some(place) = open().ok() else { return Vec::new() };
        match typed.windows(2).position(|w| w == b":/").map(|at| typed.split_at(at + 1)) {
            Some((snap, path)) => below(&place, &String::from_utf8_lossy(&snap[..snap.len() - 1]), path, snap).unwrap_or_default(),
            None => offered(&place, current, ":/").unwrap_or_default(),
        }
    }
}

impl ValueCompleter for StoredPath {
    fn complete(&self, current: &OsStr) -> Vec<CompletionCandidate> {
        if !current.as_bytes().starts_with(b"/") {
            return Vec::new();
        }
        open().and_then(|place| below(&place, "latest", current.as_bytes(), b"")).unwrap_or_default()
    }
}

/// The vault that the words before the cursor, or the environment, name; and who opens it.
struct Place {
    opened: Opened,
    owner: Option<Arc<OwnerKeys>>,
}

fn open() -> Result<Place> {
    let words: Vec<OsString> = std::env::args_os().skip_while(|word| word != "--").collect();
    let given = |name: &str| -> Vec<OsString> {
        let joined = format!("{name}=");
        let pairs = words.iter().zip(words.iter().skip(1)).filter(|(word, _)| *word == name).map(|(_, value)| value.clone());
        let joined = words.iter().filter_map(|word| Some(OsString::from_vec(word.as_bytes().strip_prefix(joined.as_bytes())?.to_vec())));
        pairs.chain(joined).collect()
    };
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let path = given("--vault").into_iter().next_back().or_else(|| set("COFFRE_VAULT")).map(expanded);
    let path = path.ok_or_else(|| Error::usage("which vault?"))?;
    // A far store would keep the shell waiting.
    let vault = Vault::open(Arc::new(Local::new(path.clone())))?;
    let state = StateDir::new(&state_base()?, vault.config.id);
    let mut files: Vec<PathBuf> = given("--identity").into_iter().map(expanded).collect();
    if files.is_empty() {
        files = set("COFFRE_IDENTITY").map(|paths| std::env::split_paths(&paths).collect()).unwrap_or_default();
    }
    let mut unlocking = Unlocking::asking(None);
    for file in files {
        let short = fs::metadata(&file).is_ok_and(|meta| meta.is_file() && meta.len() <= IDENTITY_LEN_MAX);
        if let Some(text) = short.then(|| fs::read_to_string(&file).ok()).flatten() {
            // One that needs a passphrase is passed over.
            let _ = unlocking.add_identity_file(&file.display().to_string(), &text);
        }
    }
    let owner = (!unlocking.is_empty()).then(|| unlocking.open(&*vault.store, vault.config.id).ok().map(Arc::new)).flatten();
    Ok(Place { opened: Opened { vault, path: Some(path), state }, owner })
}

/// A shell hands words over as they were typed, `~` among them.
fn expanded(word: OsString) -> PathBuf {
    match (word.as_bytes().strip_prefix(b"~/"), std::env::var_os("HOME")) {
        (Some(rest), Some(home)) => PathBuf::from(home).join(OsStr::from_bytes(rest)),
        _ => PathBuf::from(word),
    }
}

/// Names of snapshots that start as typed, each followed by `ending`.
fn offered(place: &Place, current: &OsStr, ending: &str) -> Result<Vec<CompletionCandidate>> {
    let opened = &place.opened;
    if let Some(owner) = &place.owner {
        owner.recall_headers(&opened.state);
    }
    let (rows, _) = snapshots::run(&opened.vault, place.owner.as_deref(), &opened.state, &Filter::default())?;
    let said = |row: &Row| format!("{} {}", row.time, row.host);
    let latest = rows.last().map(|row| ("latest".to_owned(), said(row)));
    let ids = rows.iter().rev().map(|row| (row.id[..8].to_owned(), said(row)));
    let typed = current.to_string_lossy();
    let fitting = latest.into_iter().chain(ids).filter(|(name, _)| name.starts_with(&*typed)).take(SNAPSHOTS_MAX);
    Ok(fitting.map(|(name, said)| CompletionCandidate::new(name + ending).help(Some(said.into()))).collect())
}

/// What is in the directory that `typed` names, and starts as typed, each after `before`.
fn below(place: &Place, snap: &str, typed: &[u8], before: &[u8]) -> Result<Vec<CompletionCandidate>> {
    let Some(owner) = &place.owner else { return Ok(Vec::new()) };
    let (look, _) = Look::open(&place.opened.vault, owner.clone(), &place.opened.state)?;
    let n = look.select(&Selector::parse(snap, SystemClock.now_ns())?)?;
    let dir = &typed[..typed.iter().rposition(|b| *b == b'/').unwrap_or(0)];
    let mut found = Vec::new();
    ls::run(&look, n, dir, false, &Cancel::default(), |row| {
        if row.path.bytes.starts_with(typed) {
            let slash: &[u8] = if row.facts.kind == Type::Dir { b"/" } else { b"" };
            found.push(CompletionCandidate::new(OsString::from_vec([before, &row.path.bytes, slash].concat())));
        }
        Ok(if found.len() < NAMES_MAX { ControlFlow::Continue(()) } else { ControlFlow::Break(()) })
    })?;
    look.keep(&place.opened.state);
    Ok(found)
}

/// bash takes a colon for the end of a word; so the words are taken from the line, and what is before the last colon is left to the line.
const BASH: &str = r#"_coffre() {
    local line=${COMP_LINE:0:COMP_POINT} words current before
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[-1]}
    mapfile -t -d $'\v' COMPREPLY < <(
        _CLAP_IFS=$'\v' _CLAP_COMPLETE_INDEX=$((${#words[@]} - 1)) _CLAP_COMPLETE_COMP_TYPE=$COMP_TYPE \
            _CLAP_COMPLETE_SPACE=false COMPLETE=bash coffre -- "${words[@]}" 2>/dev/null
    )
    if [[ $current == *:* && $COMP_WORDBREAKS == *:* ]]; then
        before=${current%"${current##*:}"}
        COMPREPLY=("${COMPREPLY[@]#"$before"}")
    fi
    [[ ${COMPREPLY-} =~ [=/:]$ ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o nosort -o bashdefault -F _coffre coffre 2>/dev/null || complete -o bashdefault -F _coffre coffre
"#;

/// zsh ends a word with a space unless it is told that more of it is to come, as behind a snapshot or a directory. As a file of `$fpath` this is
/// the body of the function that it defines.
const ZSH: &str = r#"#compdef coffre
_coffre() {
    local found word line
    local -a unfinished whole
    found=$(_CLAP_IFS=$'\n' _CLAP_COMPLETE_INDEX=$((CURRENT - 1)) COMPLETE=zsh coffre -- "${(@Q)words}" 2>/dev/null)
    for line in "${(@f)found}"; do
        # A colon in a word is escaped; the first one that is not begins what is said about it.
        word=${${line//\\:/$'\1'}%%:*}
        case $word in
            '') ;;
            *[/=$'\1']) unfinished+=("$line") ;;
            *) whole+=("$line") ;;
        esac
    done
    (( $#unfinished )) && _describe -V 'what begins so' unfinished -S ''
    (( $#whole )) && _describe -V 'what begins so' whole
}
if [[ $funcstack[1] == _coffre ]]; then _coffre "$@"; else compdef _coffre coffre; fi
"#;

/// What a shell reads to complete `coffre`.
pub fn registration(shell: &str) -> Result<Vec<u8>> {
    match shell {
        "bash" => return Ok(BASH.as_bytes().to_vec()),
        "zsh" => return Ok(ZSH.as_bytes().to_vec()),
        _ => (),
    }
    let shells = Shells::builtins();
    let completer = shells.completer(shell).ok_or_else(|| Error::unsupported(format!("no completions for {shell}")))?;
    let mut text = Vec::new();
    completer
        .write_registration("COMPLETE", "coffre", "coffre", "coffre", &mut text)
        .map_err(|e| Error::bug("cannot write completions").because(e))?;
    Ok(text)
}
