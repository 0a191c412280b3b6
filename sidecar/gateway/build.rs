//! Makes the stubs of the gRPC door from `proto/dnpipes.proto`; protox parses it, so that a fresh machine needs no protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = protox::compile(["proto/dnpipes.proto"], ["proto"])?;
    tonic_prost_build::configure()
        // Values are slices of what was pulled.
        .bytes(".")
        // Read in a way of its own, which makes no list of records for what a caller only claims.
        .extern_path(".sidestream.dnpipe.v1.PushRequest", "crate::grpc::PushRequest")
        // Says of what is no message what it says of every other refusal.
        .codec_path("crate::grpc::codec::Codec")
        .build_transport(false)
        .compile_fds(files)?;
    Ok(())
}
