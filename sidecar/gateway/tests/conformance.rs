//! What every dnpipe does, as a client sees it: over the native protocol, through the doors, on each of the three disks, and
//! over gRPC.

mod dial;
mod doors;

/// A crash is a power cut that leaves any part of what was not flushed.
mod sim {
    async fn start() -> crate::doors::Doors {
        crate::doors::Doors::simulated(0x51de).await
    }

    sidestream_conformance::conforms!(start);
}

/// By plain system calls.
mod file {
    async fn start() -> crate::doors::Doors {
        crate::doors::Doors::on_disk(sidestream_host::disk::Choice::File).await
    }

    sidestream_conformance::conforms!(start);
}

/// By whichever driver the probe takes: io_uring where it is to be had.
mod uring {
    async fn start() -> crate::doors::Doors {
        crate::doors::Doors::on_disk(sidestream_host::disk::Choice::Auto).await
    }

    sidestream_conformance::conforms!(start);
}

/// Clients speak gRPC: pushes go one behind the other on a stream, the rest are calls.
mod over_grpc {
    async fn start() -> crate::doors::Doors<crate::doors::grpc::Participant> {
        crate::doors::Doors::simulated(0x9e7c).await
    }

    sidestream_conformance::conforms!(start);
}
