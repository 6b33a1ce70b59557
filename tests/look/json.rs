//! What `--json` prints is what docs/schema says, command by command.

use std::{collections::BTreeSet, fs, path::Path};

use coffre::format::{ChunkId, DomainId, Manifest, Stats, VaultId};
use serde_json::Value;

use super::{
    common::bin::{Done, Home},
    json_owner, lines, lived,
};

/// A manifest of nothing.
pub fn manifest() -> Manifest {
    Manifest {
        vault: VaultId([0; 16]),
        sealer: "host".to_owned(),
        seq: 1,
        previous: None,
        time_ns: 0,
        sources: Vec::new(),
        root: ChunkId::from_bytes([0; 32]),
        domain: DomainId([0; 16]),
        new_packs: Vec::new(),
        condemned_seen: 0,
        stats: Stats::default(),
        labels: Default::default(),
        tool: String::new(),
        problems: Vec::new(),
        host: String::new(),
        tags: Vec::new(),
        suspicions: Vec::new(),
        pins: Vec::new(),
    }
}

/// What in `value` is not as `schema` says. Knows the words of JSON Schema that docs/schema uses, and refuses others.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str) -> Vec<String> {
    const KNOWN: [&str; 12] = [
        "$schema",
        "$id",
        "$defs",
        "$ref",
        "title",
        "description",
        "type",
        "enum",
        "properties",
        "required",
        "additionalProperties",
        "items",
    ];
    let mut found = Vec::new();
    let words = schema.as_object().unwrap_or_else(|| panic!("{at}: a schema is an object"));
    let unknown: Vec<&String> = words.keys().filter(|word| !KNOWN.contains(&word.as_str())).collect();
    assert!(unknown.is_empty(), "{at}: this test does not know {unknown:?}");
    if let Some(name) = schema["$ref"].as_str().and_then(|name| name.strip_prefix("#/$defs/")) {
        return faults(root, &root["$defs"][name], value, at);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = |name: &Value| name == kind || (name == "number" && kind == "integer");
    match &schema["type"] {
        Value::Array(names) if names.iter().any(fits) => (),
        name if fits(name) => (),
        other => found.push(format!("{at} is of type {kind}, not {other}")),
    }
    if let Some(all) = schema["enum"].as_array().filter(|all| !all.contains(value)) {
        found.push(format!("{at} is {value}, none of {all:?}"));
    }
    if let (Some(object), Some(properties)) = (value.as_object(), schema["properties"].as_object()) {
        for name in schema["required"].as_array().into_iter().flatten().filter(|name| !object.contains_key(name.as_str().unwrap())) {
            found.push(format!("{at} has no {name}"));
        }
        for (name, value) in object {
            match (properties.get(name), &schema["additionalProperties"]) {
                (Some(schema), _) => found.extend(faults(root, schema, value, &format!("{at}.{name}"))),
                (None, Value::Bool(false)) => found.push(format!("{at} has {name}, which is not in the schema")),
                (None, _) => (),
            }
        }
    } else if let (Some(object), other @ Value::Object(_)) = (value.as_object(), &schema["additionalProperties"]) {
        object.iter().for_each(|(name, value)| found.extend(faults(root, other, value, &format!("{at}.{name}"))));
    }
    if let (Some(list), items @ Value::Object(_)) = (value.as_array(), &schema["items"]) {
        list.iter().enumerate().for_each(|(n, value)| found.extend(faults(root, items, value, &format!("{at}[{n}]"))));
    }
    found
}

fn folder() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/schema")
}

/// Fails unless every one of these is as the schema `name` says.
#[track_caller]
pub fn fits(used: &mut BTreeSet<String>, name: &str, values: &[Value]) {
    let text = fs::read_to_string(folder().join(format!("{name}.json"))).unwrap_or_else(|e| panic!("docs/schema/{name}.json: {e}"));
    let schema: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("docs/schema/{name}.json: {e}"));
    assert!(!values.is_empty(), "{name}: nothing to hold against it");
    for value in values {
        let found = faults(&schema, &schema, value, name);
        assert!(found.is_empty(), "{}\n{value:#}", found.join("\n"));
    }
    used.insert(format!("{name}.json"));
}

#[test]
fn every_command_prints_what_its_schema_says() {
    let home = Home::without_vault();
    let mut used = BTreeSet::new();
    let one = |done: Done| vec![done.json()];
    fits(&mut used, "init", &one(home.coffre(["--json", "init", "--recipient", &home.recipient()]).ok()));
    fits(&mut used, "error", &one_error(home.coffre(["--json", "ls", "latset"]).run()));
    let home = lived();
    let source = home.source();
    let source = source.to_str().unwrap();
    let json = |args: &[&str]| home.owner(["--json"]).args(args).ok();
    let many = |args: &[&str]| lines(&json(args));
    let at = |snap: &str| format!("{snap}:{source}");
    fits(&mut used, "seal", &[home.seal()]);
    fits(&mut used, "snapshots", &one(json(&["snapshots"])));
    fits(&mut used, "ls", &many(&["ls", "-r", "latest"]));
    fits(&mut used, "find", &many(&["find", "*"]));
    fits(
        &mut used,
        "history",
        &[many(&["history", &format!("{source}/conf")]), many(&["history", source]), many(&["history", "/"])].concat(),
    );
    let all_changes = [many(&["diff", "latest~4", "latest"]), many(&["diff", "latest~3", "latest~2", "--content"])].concat();
    fits(&mut used, "diff", &all_changes);
    fits(&mut used, "diff-stat", &one(json(&["diff", "latest~4", "latest", "--stat"])));
    let conf = format!("{source}/conf");
    let bisect = |command: &str| json(&["bisect", &conf, "--run", command]).json();
    fits(&mut used, "bisect", &[bisect("true"), bisect("false"), bisect("! grep -q two {}")]);
    fits(&mut used, "stats", &[json(&["stats"]).json(), json(&["stats", "--biggest", "--alone"]).json()]);
    for depth in ["snapshots", "packs", "chunks"] {
        fits(&mut used, "verify", &one(json(&["verify", "--depth", depth])));
    }
    fits(&mut used, "audit", &one(json(&["audit"])));
    fits(&mut used, "head", &one(json(&["head"])));
    fits(&mut used, "status", &[json(&["status"]).json(), home.coffre(["--json", "status"]).ok().json()]);
    let to = home.path("restored");
    fits(&mut used, "restore", &one(json(&["restore", &at("latest"), "--to", to.to_str().unwrap()])));
    fits(&mut used, "copy", &one(json(&["copy", home.path("copied").to_str().unwrap()])));
    fits(&mut used, "copies-list", &one(json(&["copies", "add", "other", home.path("copied").to_str().unwrap()])));
    fits(&mut used, "copies-check", &one(json(&["copies", "check", "--repair"])));
    fits(&mut used, "key-list", &one(json(&["key", "list"])));
    let token = home.path("token");
    fits(&mut used, "key-add", &one(json(&["key", "add", "--sealer", "web2", "--output", token.to_str().unwrap()])));
    let elsewhere = home.path("elsewhere");
    let enrolled = home.coffre(["--json", "enroll", token.to_str().unwrap()]).env("COFFRE_STATE_DIR", &elsewhere).ok();
    fits(&mut used, "enroll", &one(enrolled));
    fits(&mut used, "catalog-rebuild", &one(json(&["catalog", "rebuild"])));
    json_owner::retention(&mut used);
    json_owner::keys(&mut used);
    json_owner::repairs(&mut used);
    json_owner::dry_runs_and_mounts(&mut used);
    let there: BTreeSet<String> = fs::read_dir(folder()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(there, used, "each schema is used, and each output has one");
}

fn one_error(done: Done) -> Vec<Value> {
    assert!(done.out.is_empty());
    vec![serde_json::from_str(&done.err).unwrap_or_else(|e| panic!("{e}: {}", done.err))]
}

#[test]
fn colours_are_for_terminals_and_who_asks() {
    let home = lived();
    let diff = ["diff", "latest~3", "latest~2"];
    let has = |done: &Done| done.text().contains('\x1b');
    assert!(!has(&home.owner(diff).ok()), "a pipe");
    assert!(has(&home.owner(["--color", "always"]).args(diff).ok()));
    assert!(!has(&home.owner(["--json", "--color", "always"]).args(diff).ok()), "JSON");
    assert!(has(&home.owner(diff).at_terminal(&[]).exits(0)));
    assert!(!has(&home.owner(diff).env("NO_COLOR", "1").at_terminal(&[]).exits(0)));
    assert!(has(&home.owner(diff).env("NO_COLOR", "").at_terminal(&[]).exits(0)), "set but empty is not set");
    assert!(!has(&home.owner(["--color", "never"]).args(diff).at_terminal(&[]).exits(0)));
}

#[test]
fn the_checker_of_schemas_can_fail() {
    let schema: Value = serde_json::from_str(
        r##"{"type": "object", "required": ["a"], "additionalProperties": false, "$defs": {"n": {"type": ["integer", "null"]}},
            "properties": {"a": {"$ref": "#/$defs/n"}, "b": {"type": "array", "items": {"type": "string", "enum": ["x"]}}}}"##,
    )
    .unwrap();
    let count = |text: &str| faults(&schema, &schema, &serde_json::from_str(text).unwrap(), "").len();
    let cases = [
        (r#"{"a": 1}"#, 0),
        (r#"{"a": null, "b": ["x"]}"#, 0),
        (r#"{}"#, 1),
        (r#"{"a": 1.5}"#, 1),
        (r#"{"a": 1, "c": 2}"#, 1),
        (r#"{"a": 1, "b": ["y", 2]}"#, 3),
        ("[]", 1),
    ];
    for (text, expected) in cases {
        assert_eq!(count(text), expected, "{text}");
    }
}
