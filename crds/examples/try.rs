//! x
#[allow(clippy::disallowed_methods, reason="x")]
fn main(){ for f in std::env::args().skip(1) { let t=std::fs::read(&f).unwrap(); let t0=std::time::Instant::now(); let c=sidestream_crds::compile(&t,&f); println!("{f} {:?} {}", t0.elapsed(), c.diagnostics.len()); } }
