//! Hostile requests of HTTP: see `src/http.rs`.
#![cfg_attr(feature = "libfuzzer", no_main)]

sidestream_fuzz::target!(sidestream_fuzz_doors::http, 300);
