//! Dnpipes on the machine's disk by plain system calls conform; a crash there is the end of the process.

mod local;

use local::Local;
use sidestream_host::disk::Choice;

async fn start() -> Local {
    Local::in_directory(Choice::File).await
}

sidestream_conformance::conforms!(start);
