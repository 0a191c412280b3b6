//! Hostile record batches: see `src/batch.rs`.
#![cfg_attr(feature = "libfuzzer", no_main)]

sidestream_fuzz::target!(sidestream_fuzz::batch, 2000);
