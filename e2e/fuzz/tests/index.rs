//! Hostile segments of a journal: see `src/index.rs`.
#![cfg_attr(feature = "libfuzzer", no_main)]

sidestream_fuzz::target!(sidestream_fuzz::index, 200);
