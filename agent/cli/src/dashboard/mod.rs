//! `forebay dashboard`: a page with the fleet, served on loopback.
//!
//! One loop owns the state of the agents and publishes it as a JSON document; [`server`] hands out the newest one.

mod assets;
mod chat;
mod document;
mod events;
mod guard;
mod response;
mod server;

use std::{
    future::pending,
    io::{self, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use bytes::Bytes;
use tokio::{net::TcpListener, sync::watch, time::MissedTickBehavior};

use crate::{
    agents, forward::Access, gateway::Gateway, requests::Recent, scope, signals::Signals, source::Source,
};
use chat::Chat;
use guard::Guard;
use server::Site;

/// Interval of the documents.
const PUBLISH: Duration = Duration::from_millis(500);

#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct Options {
    #[command(flatten)]
    agents: agents::Options,
    #[command(flatten)]
    scope: scope::Options,
    /// Loopback address of the page. Port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS:PORT", value_parser = loopback)]
    listen: SocketAddr,
    /// Listener of the gateway that prompts of the page are sent to; https:// for TLS. Decisions are explained if the Gateway's
    /// annotation `forebay.dev/trusted-listeners` names it. Without it the page has no box for prompts.
    #[arg(long, env = "FOREBAY_GATEWAY", value_name = "[https://]ADDRESS:PORT")]
    gateway: Option<Gateway>,
    /// Host header of prompts, and server name of the gateway's certificate [default: host of --gateway].
    #[arg(long, value_name = "NAME", requires = "gateway")]
    gateway_host: Option<String>,
    /// Certificate authority of the gateway's listener (PEM) [default: those of this machine].
    #[arg(long, value_name = "FILE", requires = "gateway")]
    gateway_ca: Option<PathBuf>,
    /// File of `forebay record` to show instead of agents.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

/// Other machines must not reach the page: it acts for this user, and has no login.
fn loopback(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr =
        text.parse().map_err(|_| "must be ADDRESS:PORT, such as 127.0.0.1:9000".to_owned())?;
    if address.ip().is_loopback() {
        return Ok(address);
    }
    Err("is not a loopback address, and the page has no login: use 127.0.0.1:PORT, and `ssh -L PORT:127.0.0.1:PORT` to \
         reach it from another machine"
        .into())
}

pub(crate) async fn run(options: &Options, access: &Access) -> anyhow::Result<ExitCode> {
    let (mut source, mut recent) = match &options.replay {
        Some(file) => (Source::recorded(file, &options.scope)?, None),
        None => {
            let source = Source::live(&options.agents, &options.scope, access).await?;
            let agents = agents::find(&options.agents, access).await?;
            (source, Some(Recent::start(agents)))
        }
    };
    let mut signals = Signals::new()?;
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}; is the port of --listen in use?", options.listen))?;
    let address = listener.local_addr()?;
    let guard = Guard::new(address.port())?;
    announce(&guard.url(address))?;
    let gateway = options.gateway.clone();
    let chat = gateway.map(|it| Chat::new(it, options.gateway_host.clone(), options.gateway_ca.clone()));
    let (publisher, published) = watch::channel(Bytes::new());
    let target = options.gateway.as_ref().map(ToString::to_string);
    let publish = |source: &Source, recent: Option<&Recent>| {
        let document = document::document(&source.fleet(), recent, target.as_deref());
        publisher.send_replace(events::event(&document));
    };
    publish(&source, recent.as_ref());
    let serving = server::serve(listener, Arc::new(Site::new(guard, published, chat)));
    tokio::pin!(serving);
    let mut tick = tokio::time::interval(PUBLISH);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut advanced = Instant::now();
    loop {
        tokio::select! {
            never = source.follow() => match never {},
            never = &mut serving => match never {},
            (agent, event) = next(recent.as_mut()) => {
                if let Some(recent) = &mut recent {
                    recent.take(agent, &event, source.scope());
                }
            }
            _ = tick.tick() => {
                source.advance(advanced.elapsed())?;
                advanced = Instant::now();
                publish(&source, recent.as_ref());
            }
            () = signals.any() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// The next event of the streams of requests. A recording has none.
async fn next(recent: Option<&mut Recent>) -> (usize, crate::requests::Event) {
    match recent {
        Some(recent) => recent.next().await,
        None => pending().await,
    }
}

/// One line on standard output, for people and programs.
fn announce(url: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{url}")?;
    out.flush()?;
    writeln!(
        io::stderr(),
        "forebay: serving the dashboard until interrupted. Do not share the address: who has it can use the page from this \
         machine"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_addresses_are_served() {
        for good in ["127.0.0.1:0", "127.8.8.8:80", "[::1]:9000"] {
            assert!(loopback(good).is_ok(), "{good}");
        }
        for bad in ["0.0.0.0:80", "[::]:80", "10.0.0.1:80", "[::ffff:10.0.0.1]:80"] {
            assert!(loopback(bad).is_err_and(|error| error.contains("ssh -L")), "{bad}");
        }
        for bad in ["", "localhost", "127.0.0.1"] {
            assert!(loopback(bad).is_err_and(|error| error.contains("127.0.0.1:9000")), "{bad}");
        }
    }
}
