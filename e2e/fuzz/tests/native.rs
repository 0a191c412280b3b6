//! Hostile requests, answers and greetings of the native protocol: see `src/native.rs`.
#![cfg_attr(feature = "libfuzzer", no_main)]

sidestream_fuzz::target!(sidestream_fuzz::native, 2000);
