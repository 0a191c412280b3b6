//! Hostile calls of gRPC: see `src/grpc.rs`.
#![cfg_attr(feature = "libfuzzer", no_main)]

sidestream_fuzz::target!(sidestream_fuzz_doors::grpc, 300);
