//! `forebay-gateway`: runs the gateway until SIGTERM or SIGINT, then drains it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use forebay_gateway::{Config, Gateway};
use forebay_service::log;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    log::to_stderr();
    match run(Config::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let gateway = tokio::select! {
        gateway = Gateway::start(config) => gateway?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    gateway.shutdown().await;
    Ok(())
}
