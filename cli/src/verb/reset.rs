//! `sidestream reset`: removes every record of a dnpipe.

use std::process::ExitCode;

use clap::Args;
use sidestream_client::Client;

use crate::{output::print, server::Server};

/// What to reset.
#[derive(Debug, Args)]
pub(crate) struct Reset {
    /// The dnpipe: `orders`, or with its namespace `shop/orders`
    dnpipe: String,
    #[command(flatten)]
    server: Server,
}

impl Reset {
    pub(crate) fn run(self) -> ExitCode {
        let Reset { dnpipe, server } = self;
        server.with(async |client: Client| {
            let epoch = client.reset(&dnpipe).await?;
            Ok(print(format_args!("{dnpipe}: epoch {epoch} has begun\n")))
        })
    }
}
