//! The reference page of the command line, made of what `--help` says. `SIDESTREAM_GENERATE=1 cargo test -p sidestream
//! reference` writes it; without the variable the test says whether it is up to date.

use std::fmt::Write;

use clap::CommandFactory;

use crate::Sidestream;

const HEAD: &str = "\
# The command line

<!-- Generated from cli/src; `make generate` writes it. -->

`sidestream` runs pipelines and serves durable named pipes on this machine, with no cluster. What it prints because it was asked goes to the standard
output, everything else to the standard error.

| exit code | meaning |
|---|---|
| 0 | done; of `run`: every event came to its end, or whoever read the standard output has gone (`\\| head -1`) |
| 1 | it could not be done: a port in use, a secret or a file that is not there, a server that refuses; of `run`: not every event was delivered within `--grace`; of `dnpipe verify`: something is not as it was written |
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
    for verb in command.get_subcommands_mut() {
        let help = verb.render_long_help().to_string();
        let lines: Vec<_> = help.lines().map(str::trim_end).collect();
        // Writing to memory does not fail.
        let _ = write!(page, "\n## sidestream {}\n\n```text\n{}\n```\n", verb.get_name(), lines.join("\n"));
    }
    page
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
