//! `sidestream-operator`: settings, then run until told to stop.

use std::{io::IsTerminal, process::ExitCode};

use clap::Parser;
use sidestream_operator::{
    run,
    settings::{LogFormat, Settings},
};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    // The one provider; whoever needs a default finds this one.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let settings = Settings::parse();
    let logs = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(&settings.log))
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().init(),
    }
    match run(settings, told_to_stop()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sidestream-operator: {error}");
            ExitCode::FAILURE
        }
    }
}

/// SIGTERM, as the kubelet sends it, or Ctrl-C.
async fn told_to_stop() {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}
