//! Writes what is generated from the types: the CustomResourceDefinition and two reference pages. With `--check` it only
//! says whether they are up to date.

use std::{fs, path::Path, process::ExitCode};

fn main() -> ExitCode {
    let check = std::env::args().nth(1).is_some_and(|argument| argument == "--check");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut code = ExitCode::SUCCESS;
    for (file, text) in sidestream_crds::generated() {
        let path = root.join(file);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            continue;
        }
        if check {
            eprintln!("{file} is stale; run `make generate`");
            code = ExitCode::FAILURE;
        } else if let Err(error) = fs::write(&path, text) {
            eprintln!("{file} can't be written: {error}");
            code = ExitCode::FAILURE;
        } else {
            println!("{file}");
        }
    }
    code
}
