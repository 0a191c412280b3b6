//! The file source and the file sink on real files: what rotates, is cut, goes away, fills up.

#[cfg(unix)]
mod lines;
mod replace;
mod restart;
mod rotation;
#[cfg(target_os = "linux")]
mod sink;
mod truncation;
mod world;
