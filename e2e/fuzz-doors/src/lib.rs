//! Hostile bytes at the doors of a gateway, behind which is a small world of its own. How targets run is `sidestream_fuzz`'s.

pub mod grpc;
pub mod http;
mod world;
