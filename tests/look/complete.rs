//! What shells complete: the words that the program offers, and bash itself with its colons.

use std::time::Duration;

use coffre::sys::{Clock, SystemClock};

use super::{
    common::bin::{Coffre, Home, tool},
    lived,
};

/// What is offered for the last of these words.
fn offered(home: &Home, words: &[&str]) -> Vec<String> {
    let index = words.len();
    let run: Coffre = home.bare(["--", "coffre"]).args(words).env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", index.to_string());
    let run = run.env("_CLAP_IFS", "\n").env("_CLAP_COMPLETE_COMP_TYPE", "9").env("COFFRE_VAULT", home.vault());
    let done = run.ok();
    assert_eq!(done.err, "", "a prompt line stays clean");
    done.text().lines().map(str::to_owned).collect()
}

#[test]
fn snapshots_and_paths_inside_them_are_offered() {
    let home = lived();
    let (key, source) = (home.key(), home.source());
    let (key, source) = (key.to_str().unwrap(), source.to_str().unwrap());
    let id = home.snapshots()[0]["id"].as_str().unwrap()[..8].to_owned();
    let with = |words: &[&str]| offered(&home, &[&["--identity", key], words].concat());
    assert!(with(&["hist"]).contains(&"history".to_owned()));
    let snaps = with(&["diff", ""]);
    assert!(snaps[0] == "latest" && snaps.contains(&id) && snaps.len() >= 5, "{snaps:?}");
    assert_eq!(with(&["diff", &id[..5]]), [&id[..]]);
    assert_eq!(with(&["ls", &id[..5]]), [format!("{id}:/")]);
    let below = format!("latest:{source}/");
    let names = ["conf", "late", "link", "noise", "sub/", "went/"].map(|name| format!("{below}{name}"));
    assert_eq!(with(&["ls", &below]), names);
    assert_eq!(with(&["cat", &format!("{id}:{source}/g")]), [format!("{id}:{source}/gone")]);
    assert_eq!(with(&["history", &format!("{source}/su")]), [format!("{source}/sub/")]);
}

#[test]
fn without_a_key_nothing_is_asked_and_the_host_knows_its_own_snapshots() {
    let home = lived();
    let start = SystemClock.monotonic();
    let snaps = offered(&home, &["cat", ""]);
    assert!(snaps.contains(&"latest:/".to_owned()) && snaps.len() >= 5, "{snaps:?}");
    assert!(offered(&home, &["cat", &format!("latest:{}/", home.source().display())]).is_empty());
    // Far more than it takes; a question, or a passphrase that is tried, would take longer.
    assert!(SystemClock.monotonic() - start < Duration::from_secs(30));
    let nowhere = home.bare(["--", "coffre", "cat", ""]).env("COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", "2").ok();
    assert_eq!(nowhere.err, "");
}

#[test]
fn bash_completes_across_colons() {
    let home = lived();
    let bin = home.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_coffre"), bin.join("coffre")).unwrap();
    let script = format!(
        r#"source <(coffre completions bash)
           complete() {{ local IFS=$' '; COMP_LINE="$1" COMP_POINT=${{#1}} COMP_TYPE=9; COMPREPLY=(); _coffre; printf '%s\n' "${{COMPREPLY[@]}}"; }}
           complete "coffre cat latest:{0}/co"; complete "coffre ls la"; complete "coffre sta""#,
        home.source().display()
    );
    let mut bash = tool("bash");
    bash.args(["-c", &script]).env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()));
    bash.env("COFFRE_VAULT", home.vault()).env("COFFRE_IDENTITY", home.key()).env("COFFRE_STATE_DIR", home.path("state"));
    let output = bash.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!("{}/conf\nlatest:/\nstats\n", home.source().display());
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
}
