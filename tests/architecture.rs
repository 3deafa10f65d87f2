//! Holds the direction of knowledge between the modules, as `src/lib.rs` states it, by reading the
//! imports: who may know whom is a table here, and whatever is not in it is an error.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

/// Each root module and the root modules that its files may name, beside itself.
const MAY_KNOW: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("sync", &[]),
    ("api", &[]),
    ("metrics", &[]),
    ("wire", &["metrics"]),
    ("engine", &["wire", "metrics", "sync"]),
    ("io", &["clock", "wire"]),
    ("store", &["wire", "engine"]),
    ("reactor", &["clock", "sync", "wire", "metrics", "engine", "io", "trace"]),
    ("control", &["api", "clock", "wire", "metrics", "engine", "reactor", "io", "store"]),
    ("http", &["api", "clock", "control", "engine", "metrics", "reactor", "wire"]),
    ("relay", &["wire"]),
    ("config", &["engine", "io", "reactor", "trace", "wire"]),
    ("trace", &["clock", "wire", "engine"]),
];
/// These see everything.
const SEE_ALL: &[&str] = &["cli", "lib", "main"];
/// What a file of tests may use beside what its module may.
const TEST_HELPERS: &[&str] = &["testing"];

#[test]
fn modules_know_only_whom_they_may() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut wrong = Vec::new();
    let mut roots = BTreeSet::new();
    for file in rust_files(&source) {
        let relative = file.strip_prefix(&source).unwrap();
        let root = relative.components().next().unwrap().as_os_str().to_str().unwrap();
        let root = root.trim_end_matches(".rs").to_owned();
        roots.insert(root.clone());
        if SEE_ALL.contains(&&*root) || TEST_HELPERS.contains(&&*root) {
            continue;
        }
        let Some((_, may)) = MAY_KNOW.iter().find(|(module, _)| *module == root) else {
            wrong.push(format!("{}: module {root} is not in the table", relative.display()));
            continue;
        };
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            if line.trim_start().starts_with("//") {
                continue;
            }
            for known in named_modules(line) {
                let allowed =
                    known == root || may.contains(&&*known) || TEST_HELPERS.contains(&&*known);
                if !allowed {
                    wrong.push(format!(
                        "{}:{}: {root} may not know {known}",
                        relative.display(),
                        number + 1
                    ));
                }
            }
        }
    }
    for (module, _) in MAY_KNOW {
        assert!(roots.contains(*module), "the table has {module}, the tree has not");
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn the_engine_reads_no_clock_and_opens_nothing() {
    let engine = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine");
    let forbidden = ["std::time", "std::net", "std::fs", "std::thread", "Instant", "SystemTime"];
    let mut wrong = Vec::new();
    for file in rust_files(&engine).filter(|file| !is_test(file)) {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            if let Some(what) = forbidden.iter().find(|what| line.contains(**what)) {
                wrong.push(format!("{}: {what}: {line}", file.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

#[test]
fn every_file_opens_with_its_idea_and_can_be_read_in_one_sitting() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut wrong = Vec::new();
    for folder in ["src", "tools", "tests", "benches"] {
        for file in rust_files(&root.join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            let first = text.lines().next().unwrap_or_default();
            if !first.starts_with("//!") && !first.starts_with("#!") {
                wrong.push(format!("{}: does not open with its idea", file.display()));
            }
            let lines = text.lines().count();
            if lines > 700 {
                wrong.push(format!(
                    "{}: {lines} lines; does something want to leave?",
                    file.display()
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}

/// The root modules that a line names as `crate::module`, also in `crate::{a, b}`.
fn named_modules(line: &str) -> Vec<String> {
    let word = |text: &str| {
        text.trim_start()
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .map(str::to_owned)
    };
    let mut named = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                named.extend(list.split('}').next().unwrap_or_default().split(',').filter_map(word))
            }
            None => named.extend(word(rest)),
        }
    }
    named.retain(|name| name.starts_with(|c: char| c.is_lowercase()));
    named
}

fn is_test(file: &Path) -> bool {
    file.file_name().is_some_and(|name| name == "tests.rs" || name == "model.rs")
        || file.components().any(|part| part.as_os_str() == "tests")
}

fn rust_files(folder: &Path) -> impl Iterator<Item = std::path::PathBuf> + use<> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() && path.file_name().is_none_or(|name| name != "target") {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.into_iter()
}

#[test]
fn the_reader_of_imports_sees_what_there_is() {
    assert_eq!(named_modules("use crate::{wire, engine::Timing};"), ["wire", "engine"]);
    assert_eq!(named_modules("    crate::clock::monotonic_ns() + crate::io::X"), ["clock", "io"]);
    assert!(named_modules("use super::wire;").is_empty());
}
