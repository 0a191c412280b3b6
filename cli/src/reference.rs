//! The reference page of the command line, made of what `--help` says. `SIDESTREAM_GENERATE=1 cargo test -p sidestream
//! reference` writes it; without the variable the test says whether it is up to date.

use std::fmt::Write;

use clap::{Command, CommandFactory};

use crate::Sidestream;

const HEAD: &str = "\
# The command line

<!-- Generated from cli/src; `make generate` writes it. -->

`sidestream` runs pipelines and serves durable named pipes on this machine, with no cluster. What it prints because it was asked goes to the standard
output, everything else to the standard error.

| exit code | meaning |
|---|---|
| 0 | done; of `run`: every event came to its end, or whoever read the standard output has gone (`\\| head -1`) |
| 1 | it could not be done: a port in use, a secret or a file that is not there, a server that refuses; of `run`: not every event was delivered within `--grace`; of `dnpipe verify` and `pull`: something is not as it was written; of `dnpipe import`: the file is cut or was changed behind what was imported of it |
| 2 | what was written is wrong: a file, an expression, an argument; nothing was started |

| signal | what `run` does |
|---|---|
| SIGTERM, SIGINT | stops the sources, delivers what was taken in for at most `--grace`, and says what it could not; a second one ends it at once |
| SIGHUP | reads the files again and takes over what changed; where they are wrong, says why and goes on as before |
";

fn page() -> String {
    let mut page = String::from(HEAD);
    let mut command = Sidestream::command();
    command.build();
    command.get_subcommands_mut().for_each(|verb| add(verb, "sidestream", "##", &mut page));
    page
}

/// A verb, and behind it those that it has itself.
fn add(verb: &mut Command, above: &str, heading: &str, page: &mut String) {
    let help = verb.render_long_help().to_string();
    let lines: Vec<_> = help.lines().map(str::trim_end).collect();
    let name = format!("{above} {}", verb.get_name());
    // Writing to memory does not fail.
    let _ = write!(page, "\n{heading} {name}\n\n```text\n{}\n```\n", lines.join("\n"));
    let heading = format!("{heading}#");
    verb.get_subcommands_mut().for_each(|nested| add(nested, &name, &heading, page));
}

#[test]
fn the_reference_page_shows_the_options_of_nested_verbs() {
    let page = page();
    for (verb, option) in [
        ("dnpipe export", "--file <FILE>"),
        ("dnpipe import", "--append"),
        ("dnpipe verify", "[DNPIPE]"),
        ("group seek", "--partition <N>"),
    ] {
        let heading = format!("### sidestream {verb}\n");
        let shown = page.split(&heading).nth(1).unwrap_or_else(|| panic!("no {heading}"));
        let shown =
            shown.split("\n## ").next().unwrap_or_default().split("\n### ").next().unwrap_or_default();
        assert!(shown.contains(&format!("Usage: sidestream {verb}")) && shown.contains(option), "{shown}");
    }
}

#[test]
fn the_reference_page_is_the_one_in_the_repository() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/reference/cli.md");
    if std::env::var_os("SIDESTREAM_GENERATE").is_some() {
        std::fs::write(path, page()).unwrap();
    }
    let written = std::fs::read_to_string(path).unwrap_or_default();
    assert!(written == page(), "{path} is stale: `make generate` writes it");
}
