//! Dnpipes that are encrypted on the disk conform as any other; a crash is a power cut.

mod local;

use local::Local;

async fn start() -> Local {
    Local::encrypted(0x5ea1).await
}

sidestream_conformance::conforms!(start);
