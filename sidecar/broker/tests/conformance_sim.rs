//! Dnpipes on a simulated disk conform; a crash there is a power cut that leaves any part of what was not flushed.

mod local;

use local::Local;

async fn start() -> Local {
    Local::simulated(0x51de).await
}

sidestream_conformance::conforms!(start);
