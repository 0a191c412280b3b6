//! Batches that are compressed by their pusher are pushed, kept and pulled as any other; a crash is a power cut.

mod local;

use local::Local;

async fn start() -> Local {
    Local::compressed(0xc0de).await
}

sidestream_conformance::conforms!(start);
