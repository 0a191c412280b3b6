//! x
use std::process::ExitCode;
/// x
#[derive(Debug, clap::Args)]
pub(crate) struct Top {}
impl Top { pub(crate) fn run(self) -> ExitCode { super::failed() } }
