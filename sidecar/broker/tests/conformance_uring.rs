//! Dnpipes on the machine's disk conform by whichever driver the probe takes: io_uring where it is to be had.

mod local;

use local::Local;
use sidestream_host::disk::Choice;

async fn start() -> Local {
    Local::in_directory(Choice::Auto).await
}

sidestream_conformance::conforms!(start);
