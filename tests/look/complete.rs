//! What shells complete: the words that the program offers, and the shells themselves.

use std::{fs, process::Command, time::Duration};

use coffre::sys::{Clock, SystemClock};

use super::{
    common::bin::{Coffre, Home, at_terminal, shell, tool},
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

/// A real shell, for which the binary is `coffre` and the variables name the vault and its key.
#[track_caller]
fn shell_of(home: &Home, name: &str) -> Command {
    let bin = home.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let _ = std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_coffre"), bin.join("coffre"));
    let there = tool(name).arg("-c").arg("true").output();
    assert!(there.is_ok_and(|output| output.status.success()), "{name} is needed by this test; apt-get install {name}");
    let mut shell = tool(name);
    shell
        .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
        .env("HOME", home.path(""))
        .current_dir(home.path(""));
    shell.env("COFFRE_VAULT", home.vault()).env("COFFRE_IDENTITY", home.key()).env("COFFRE_STATE_DIR", home.path("state"));
    shell
}

#[test]
fn bash_completes_across_colons() {
    let home = lived();
    let script = format!(
        r#"source <(coffre completions bash)
           complete() {{ local IFS=$' '; COMP_LINE="$1" COMP_POINT=${{#1}} COMP_TYPE=9; COMPREPLY=(); _coffre; printf '%s\n' "${{COMPREPLY[@]}}"; }}
           complete "coffre cat latest:{0}/co"; complete "coffre ls la"; complete "coffre sta""#,
        home.source().display()
    );
    let output = shell_of(&home, "bash").args(["-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let expected = format!("{}/conf\nlatest:/\nstats\nstatus\n", home.source().display());
    assert_eq!(said, expected, "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn zsh_completes_at_its_prompt_and_goes_on_behind_colons_and_slashes() {
    let home = lived();
    shell(&home.source(), "mkdir 'two words'; echo x > 'two words/x'");
    home.seal();
    fs::create_dir(home.path("fpath")).unwrap();
    fs::write(home.path("fpath/_coffre"), home.bare(["completions", "zsh"]).ok().out).unwrap();
    let show = r#"show() { print -r -- "<<$BUFFER>>" }; zle -N show; bindkey '^G' show"#;
    let source = home.source();
    let source = source.display();
    let steps = [
        ("coffre cat lat".to_owned(), "coffre cat latest:/".to_owned()),
        (format!("coffre cat latest:{source}/su"), format!("coffre cat latest:{source}/sub/")),
        (format!("coffre cat latest:{source}/co"), format!("coffre cat latest:{source}/conf ")),
        (format!("coffre ls latest:{source}/tw"), format!(r"coffre ls latest:{source}/two\ words/")),
        (format!(r"coffre ls latest:{source}/two\ words/"), format!(r"coffre ls latest:{source}/two\ words/x ")),
        ("coffre sna".to_owned(), "coffre snapshots ".to_owned()),
    ];
    // As it is installed, found by itself; and as a person sources it.
    for load in
        ["fpath=($HOME/fpath $fpath); autoload -Uz compinit; compinit -u -D", "autoload -Uz compinit; compinit -u -D; source fpath/_coffre"]
    {
        fs::write(home.path(".zshrc"), format!("PS1='READY> '; {load}; {show}\n")).unwrap();
        // Tab completes; ^G shows the line; ^U takes it back.
        let typed: Vec<String> = steps.iter().map(|(typed, _)| format!("{typed}\t\x07\x15")).collect();
        let shown: Vec<String> = steps.iter().map(|(_, line)| format!("<<{line}>>")).collect();
        // What is typed before the prompt is there again, the line editor does not get.
        let turns = typed.iter().zip(&shown).flat_map(|(typed, shown)| [("READY> ", &**typed), (&**shown, "\0")]);
        let answers: Vec<(&str, &str)> = turns.chain([("READY> ", "exit")]).collect();
        let mut zsh = shell_of(&home, "zsh");
        zsh.args(["-d", "-i"]).env("ZDOTDIR", home.path("")).env("TERM", "xterm");
        let done = at_terminal(zsh, &answers);
        assert_eq!(done.code, 0, "{load}\n{}\n{}", done.text(), done.err);
    }
}

#[test]
fn fish_completes_paths_in_snapshots() {
    let home = lived();
    let script = format!(
        r#"coffre completions fish | source
           for line in "coffre cat lat" "coffre cat latest:{0}/co" "coffre ls latest:{0}/s" "coffre sna"; complete -C $line; end"#,
        home.source().display()
    );
    let output = shell_of(&home, "fish").args(["--no-config", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    // What is said about a word stands behind a tab.
    let words: Vec<&str> = said.lines().map(|line| line.split('\t').next().unwrap_or_default()).collect();
    let at = |name: &str| format!("latest:{}/{name}", home.source().display());
    assert_eq!(words, ["latest:/", &at("conf"), &at("sub/"), "snapshots"], "{}", String::from_utf8_lossy(&output.stderr));
}
