//! Hostile frames, of events and of the native protocol: see `src/frame.rs`.
#![cfg_attr(feature = "libfuzzer", no_main)]

sidestream_fuzz::target!(sidestream_fuzz::frame, 2000);
