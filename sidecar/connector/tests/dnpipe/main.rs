//! Dnpipes as source and sink, against a real broker on a real disk, through its gateway.

mod once;
mod sink;
mod source;
mod world;
