//! The product driven from outside, beside real peers.

use std::{
    env,
    path::PathBuf,
    process::Command,
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

/// The `sidestream` program of this tree, built as the test that asks was built. `SIDESTREAM_BINARY` names another one.
///
/// # Panics
/// When it can't be built.
pub fn sidestream_binary() -> PathBuf {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| env::var_os("SIDESTREAM_BINARY").map_or_else(build, PathBuf::from)).clone()
}

/// Asks ten times a second until there is an answer, and gives it.
///
/// # Panics
/// With the last reason, where there is none within `limit`.
#[allow(clippy::disallowed_methods, reason = "real programs are waited for in real time")]
pub fn eventually<T>(what: &str, limit: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let begun = Instant::now();
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(reason) if begun.elapsed() > limit => panic!("{what}: not within {limit:?}: {reason}"),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn build() -> PathBuf {
    // <target>/<profile>/deps/<test>
    let test = env::current_exe().expect("a test has a path");
    let folder = test.ancestors().nth(2).expect("a test stands in its target folder").to_owned();
    let profile = match folder.file_name() {
        Some(name) if name == "debug" => "dev".into(),
        Some(name) => name.to_string_lossy().into_owned(),
        None => "dev".into(),
    };
    let built = Command::new(env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["build", "--quiet", "--package", "sidestream", "--bin", "sidestream", "--profile", &profile])
        .arg("--target-dir")
        .arg(folder.parent().expect("a profile's folder stands in the target folder"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status();
    assert!(built.is_ok_and(|status| status.success()), "sidestream can't be built: see above");
    folder.join(format!("sidestream{}", env::consts::EXE_SUFFIX))
}
