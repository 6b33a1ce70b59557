//! Every command has examples, and each of them runs as it stands; every command runs without a state directory.

use std::{collections::BTreeSet, fs};

use coffre::cli::EXAMPLES;

use super::common::bin::{Home, shell, tool};

/// The world in which the examples live.
fn world() -> Home {
    let home = Home::without_vault();
    shell(
        &home.path(""),
        "mkdir site; cd site; echo '<p>' > index.html; echo '{}' > app.json; seq 2000 > dump.sql; ln -s index.html home; echo 'gzip on;' > nginx.conf",
    );
    fs::write(home.path("owners.txt"), home.recipient()).unwrap();
    fs::write(home.path("passphrase"), "correct horse battery staple\n").unwrap();
    fs::set_permissions(home.path("passphrase"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    home.coffre(["init", "--recipient", &home.recipient()]).ok();
    home.coffre(["seal", "--tag", "nightly", "site"]).ok();
    shell(&home.path("site"), "echo 'server {}' > nginx.conf; echo '{' > app.json; rm home; echo x > new.html; ln -s new.html home");
    home.coffre(["seal", "site"]).ok();
    home
}

/// Runs a line of a shell in the world, as a person who set the two variables.
fn typed(home: &Home, line: &str) -> (i32, String) {
    let bin = home.path("bin");
    if !bin.exists() {
        fs::create_dir(&bin).unwrap();
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_coffre"), bin.join("coffre")).unwrap();
    }
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let mut bash = tool("bash");
    bash.args(["-c", line]).env("HOME", home.path("").as_os_str().to_str().unwrap().trim_end_matches('/')).env("PATH", path);
    bash.env("COFFRE_STATE_DIR", home.path("state")).env("COFFRE_VAULT", home.vault()).env("COFFRE_IDENTITY", home.key());
    let output = bash.current_dir(home.path("")).output().unwrap();
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    (output.status.code().unwrap_or(-1), said)
}

#[test]
fn each_example_runs_as_it_stands() {
    let home = world();
    let mount = EXAMPLES.iter().position(|(of, _)| *of == "mount").unwrap();
    for (n, (of, examples)) in EXAMPLES.iter().enumerate() {
        for (line, _) in *examples {
            // It is typed on another host.
            let line = if *of == "enroll" { format!("export COFFRE_STATE_DIR=~/web2; {line}") } else { (*line).to_owned() };
            let (code, said) = typed(&home, &line);
            assert_eq!(code, 0, "{of}: {line}\n{said}");
        }
        if *of == "seal" {
            // What was piped in last is no snapshot of the site.
            assert_eq!(typed(&home, "coffre seal ~/site && touch ~/site/app.json && coffre seal ~/site").0, 0);
        }
        if n == mount {
            assert!(fs::read_to_string(home.path("site-again/nginx.conf")).unwrap().contains("server"));
        }
    }
    assert!(fs::read_to_string(home.path("nginx.old")).unwrap().contains("server"));
    assert!(home.path("man1/coffre-key-add.1").is_file() && home.path("man1/coffre.1").is_file());
}

#[test]
fn every_command_shows_examples_and_every_example_is_of_a_command() {
    let home = Home::without_vault();
    let commands = |above: &[&str]| -> Vec<String> {
        let help = home.bare(above).args(["--help"]).ok().text();
        let Some(list) = help.split("Commands:\n").nth(1) else { return Vec::new() };
        let names = list.lines().take_while(|line| !line.is_empty()).filter(|line| line.starts_with("  ") && !line.starts_with("   "));
        names.map(|line| line.split_whitespace().next().unwrap().to_owned()).filter(|name| name != "help").collect()
    };
    let mut all = BTreeSet::new();
    for name in commands(&[]) {
        let below = commands(&[&name]);
        match below.is_empty() {
            true => drop(all.insert(name)),
            false => all.extend(below.into_iter().map(|sub| format!("{name} {sub}"))),
        }
    }
    assert!(all.len() > 20, "{all:?}");
    for name in &all {
        let words: Vec<&str> = name.split(' ').collect();
        let help = home.bare(&words).args(["--help"]).ok().text();
        assert!(help.contains("Examples:\n  ") && help.contains("coffre "), "{name} has examples:\n{help}");
        let page = home.bare(["man"]).args(&words).ok().text();
        assert!(page.contains(".TH ") && page.contains(".SH EXAMPLES"), "{name} has a manual page");
    }
    for (of, _) in EXAMPLES {
        assert!(all.contains(*of), "{of} is no command");
    }
}

#[test]
fn every_command_runs_with_a_state_directory_that_does_not_exist() {
    let home = world();
    let dir = home.path("elsewhere");
    fs::create_dir(&dir).unwrap();
    fs::create_dir(home.path("copy")).unwrap();
    let site = home.path("site");
    let conf = site.join("nginx.conf");
    let conf = conf.to_str().unwrap();
    let at = format!("latest:{conf}");
    let runs: &[(&[&str], i32)] = &[
        (&["snapshots"], 0),
        (&["ls", "latest"], 0),
        (&["find", "nginx.conf"], 0),
        (&["history", conf], 0),
        (&["diff", "latest~1", "latest"], 0),
        (&["stats", "--biggest", "--alone"], 0),
        (&["bisect", conf, "--run", "true"], 0),
        (&["cat", &at], 0),
        (&["restore", &at, "--to", "restored"], 0),
        (&["verify"], 0),
        (&["audit"], 0),
        (&["copy", "copied"], 0),
        (&["head"], 0),
        (&["key", "list"], 0),
        (&["key", "add", "--sealer", "web9", "--output", "token"], 0),
        (&["key", "revoke", "--help"], 0),
        (&["enroll", "token"], 0),
        (&["seal", "site"], 0),
        (&["catalog", "rebuild"], 0),
        (&["completions", "bash"], 0),
        (&["man"], 0),
        (&["unmount", "mnt"], 1),
    ];
    for (n, (args, code)) in runs.iter().enumerate() {
        let state = dir.join(format!("{n}/deep/state"));
        // A host that is enrolled anew takes another name, or none.
        let done = home.owner(*args).env("COFFRE_STATE_DIR", &state).run();
        let sealing = matches!(args[0], "seal" | "catalog");
        match (done.code, sealing) {
            (found, _) if found == *code => (),
            // The name of this host is taken by its other state directory: said, with what to do.
            (_, true) => assert!(done.err.contains("coffre: hint: "), "{args:?}: {}", done.err),
            (found, _) => panic!("{args:?} ended with {found}: {}", done.err),
        }
    }
}
