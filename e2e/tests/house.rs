//! The house keeps its own rules: which room may use which, and what must not stand in which file.
//!
//! Rules are data with reasons; to break one on purpose, change the table and say why there.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Who may use whom of ours in what is shipped; tests and benches may use anything. A crate that is not here has no room.
const ARROWS: &[(&str, &[&str])] = &[
    ("sidestream-event", &[]),
    ("sidestream-ring", &[]),
    ("sidestream-host", &[]),
    ("sidestream-plan", &[]),
    ("sidestream-expr", &["event"]),
    ("sidestream-scheduler", &["ring", "host"]),
    ("sidestream-log", &["event", "host", "ring"]),
    ("sidestream-spill", &["event", "log", "host"]),
    ("sidestream-broker", &["event", "log", "host"]),
    ("sidestream-conformance", &["event"]),
    ("sidestream-trust", &["host"]),
    ("sidestream-edge", &["event", "ring", "host", "trust"]),
    ("sidestream-connector", &["plan", "event", "ring", "host", "client"]),
    ("sidestream-gateway", &["event", "broker", "trust"]),
    // Records that do not say when they happened have the host's time.
    ("sidestream-client", &["event", "host", "trust"]),
    ("sidestream-graph", &["plan", "event", "ring", "scheduler", "expr", "host"]),
    ("sidestream-crds", &["plan", "expr"]),
    ("sidestream-control", &["plan"]),
    ("sidestream-desired", &["crds", "plan"]),
    ("sidestream-operator", &["desired", "crds", "plan", "control", "trust", "host"]),
    // The only place that sees the rooms together.
    (
        "sidestream-sidecar",
        &[
            "plan",
            "event",
            "ring",
            "host",
            "scheduler",
            "expr",
            "graph",
            "connector",
            "control",
            "trust",
            "edge",
            "log",
            "spill",
            "broker",
            "gateway",
            "client",
        ],
    ),
    // Beyond the sidecar: what `eval` evaluates, what graphs built in code handle, and the machine that `bench` measures.
    ("sidestream", &["crds", "plan", "desired", "sidecar", "client", "event", "expr", "graph", "host"]),
    ("sidestream-e2e", &["crds"]),
    // Parsers by themselves, and those of the doors before a gateway with a small world of its own.
    ("sidestream-fuzz", &["event", "host", "log"]),
    ("sidestream-fuzz-doors", &["fuzz", "event", "host", "log", "broker", "trust", "gateway"]),
];

#[test]
fn rooms_use_only_the_rooms_they_may() {
    let house = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap();
    let allowed: BTreeMap<&str, BTreeSet<String>> = ARROWS
        .iter()
        .map(|(room, others)| (*room, others.iter().map(|other| format!("sidestream-{other}")).collect()))
        .collect();
    let mut wrong = Vec::new();
    for package in &house.packages {
        let Some(allowed) = allowed.get(package.name.as_str()) else {
            wrong.push(format!("{}: no room of this name in ARROWS", package.name));
            continue;
        };
        let used = package.dependencies.iter().filter(|used| used.kind != DependencyKind::Development);
        for used in used.filter(|used| used.path.is_some() && !allowed.contains(&used.name)) {
            wrong.push(format!("{} -> {}", package.name, used.name));
        }
    }
    none(wrong, "arrows that docs/explanation/architecture.md does not draw");
}

#[test]
fn every_room_says_what_it_is_and_lives_under_the_same_lints() {
    let house = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap();
    let mut wrong = Vec::new();
    for package in &house.packages {
        let manifest = fs::read_to_string(&package.manifest_path).unwrap();
        if package.description.is_none() {
            wrong.push(format!("{}: no description", package.name));
        }
        if !manifest.contains("[lints]\nworkspace = true") {
            wrong.push(format!("{}: not under the workspace's lints", package.name));
        }
        let last = package.name.rsplit('-').next().unwrap_or_default();
        if ["common", "util", "utils", "types", "helpers", "misc"].contains(&last) {
            wrong.push(format!("{}: a name that says nothing", package.name));
        }
    }
    none(wrong, "crates");
}

/// The lock file names `ring` because a crate of ours could ask for it; what is built must not have it.
#[test]
fn there_is_one_provider_of_cryptography() {
    let tree = Command::new(env!("CARGO"))
        .args(["tree", "--workspace", "--offline", "--prefix", "none", "--format", "{p}"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8_lossy(&tree.stdout);
    assert!(tree.contains("sidestream-ring v"), "this is not our tree:\n{tree}");
    let second: Vec<_> = tree.lines().filter(|line| line.starts_with("ring v")).map(str::to_owned).collect();
    none(second, "two providers in one binary panic at run time; aws-lc-rs is the one");
}

/// Words that Rust code must not contain, outside comments.
struct Ban {
    words: &'static [&'static str],
    reason: &'static str,
    /// Paths, from the root, that start like this may.
    except: &'static [&'static str],
    /// Whether tests and benches may.
    except_tests: bool,
}

const BANS: &[Ban] = &[
    Ban {
        words: &["atomic::", "UnsafeCell", "AtomicWaker", "AtomicCell", "portable_atomic"],
        reason: "atomics come from `sidestream_ring::sync`, where loom and shuttle can replace them",
        except: &["sidecar/ring/"],
        except_tests: false,
    },
    Ban {
        words: &["unsafe"],
        reason: "shared mutable memory is the business of `ring`, which proves each block",
        // The kernel reads from memory that a submission points at.
        except: &["sidecar/ring/", "sidecar/host/src/disk/uring.rs"],
        // A counting allocator is an unsafe trait.
        except_tests: true,
    },
    Ban {
        words: &["Instant::now", "SystemTime::now"],
        reason: "clocks come from `sidestream_host::Clock`, which tests step",
        // Tokio's own `Instant`, for tokio's own timer.
        except: &["sidecar/host/", "sidecar/connector/src/prometheus.rs"],
        except_tests: true,
    },
    Ban {
        words: &[concat!("to", "do!"), "unimplemented!", "dbg!"],
        reason: "what is not there yet is not in the tree",
        except: &[],
        except_tests: false,
    },
    Ban {
        words: &["mpsc::unbounded_channel", "unbounded_channel("],
        reason: "an unbounded queue hides back-pressure",
        except: &[],
        except_tests: false,
    },
];

#[test]
fn banned_words_stand_only_where_they_may() {
    let mut wrong = Vec::new();
    for path in files("rs").into_iter().filter(|path| path != "e2e/tests/house.rs") {
        let text = read(&path);
        // Tests come last in a file of ours.
        let tests_at =
            text.lines().position(|line| line.trim_start().starts_with("#[cfg(") && line.contains("test"));
        for (index, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let in_tests = is_test(&path) || tests_at.is_some_and(|at| index >= at);
            let bans = BANS.iter().filter(|ban| !ban.except.iter().any(|except| path.starts_with(except)));
            for ban in bans.filter(|ban| !(in_tests && ban.except_tests)) {
                if let Some(word) = ban.words.iter().find(|word| has_word(code, word)) {
                    wrong.push(format!("{path}:{}: {word}: {}", index + 1, ban.reason));
                }
            }
        }
    }
    none(wrong, "banned words");
}

/// Lines at which a file is two files.
const LINES_MAX: usize = 600;
/// Longer ones, each with its reason.
const LONG_FILES: &[&str] = &[];

#[test]
fn a_file_can_be_read_in_one_sitting() {
    let long =
        files("rs").into_iter().filter(|path| !LONG_FILES.contains(&path.as_str())).filter_map(|path| {
            let lines = read(&path).lines().count();
            (lines > LINES_MAX)
                .then(|| format!("{path}: {lines} lines; look for the second noun hiding in it"))
        });
    none(long.collect(), "long files");
}

#[test]
fn nothing_is_left_for_later() {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("X", "XX")];
    let mut wrong = Vec::new();
    for path in files("") {
        // A file that is not text has no words.
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        for (index, line) in text.lines().enumerate() {
            wrong.extend(
                words
                    .iter()
                    .filter(|word| has_word(line, word))
                    .map(|word| format!("{path}:{}: {word}", index + 1)),
            );
        }
    }
    none(wrong, "what is to be done is an issue; why something is so is a comment");
}

fn none(wrong: Vec<String>, what: &str) {
    assert!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
}

fn is_test(path: &str) -> bool {
    path.starts_with("e2e/")
        || path.contains("/tests/")
        || path.contains("/benches/")
        || path.ends_with("/tests.rs")
}

/// Whether `word` stands in `line`, not as part of a longer one.
fn has_word(line: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        let open_end = !word.ends_with(is_part);
        !before.is_some_and(is_part) && (open_end || !after.is_some_and(is_part))
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

/// Every file of the tree whose name ends in `extension`, as paths from the root; not what is built, nor hidden folders
/// other than our own.
fn files(extension: &str) -> Vec<String> {
    let (root, mut found) = (root(), Vec::new());
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            let skipped = ["target", ".git", ".cache"].contains(&&*name);
            if path.is_dir() && !skipped {
                folders.push(path);
            } else if path.is_file() && name.ends_with(extension) && name != "Cargo.lock" {
                let path = path.strip_prefix(&root).unwrap().to_string_lossy().replace('\\', "/");
                found.push(path);
            }
        }
    }
    found.sort();
    assert!(found.len() > 10, "no tree under {}", root.display());
    found
}

#[test]
fn a_word_is_found_only_as_a_word() {
    assert!(has_word("unsafe { x }", "unsafe") && has_word("std::sync::atomic::AtomicU8", "atomic::"));
    assert!(!has_word("unsafe_code", "unsafe") && !has_word("non_atomic::x", "atomic::"));
}
