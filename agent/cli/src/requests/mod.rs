//! `forebay requests`: the requests that end, one line each.

mod agent;
mod follow;
mod pod;
mod print;
mod recent;
mod render;
mod session;
mod status;

use std::{process::ExitCode, time::Duration};

use forebay_telemetry::{
    requests::{DEFAULT_PER_SECOND, MAX_PER_SECOND, RequestOptions},
    v1::RequestFilter,
};

use crate::{
    agents,
    forward::Access,
    later::Later,
    output::Output,
    recording,
    scope::{self, Scope},
};

pub(crate) use follow::Event;
use follow::RequestStreams;
use pod::WantedPod;
pub(crate) use recent::Recent;
use session::{Limits, Session};
use status::StatusPattern;

#[derive(clap::Args, Debug)]
#[group(skip)]
pub(crate) struct Options {
    #[command(flatten)]
    agents: agents::Options,
    #[command(flatten)]
    scope: scope::Options,
    /// Only requests of the pod with this name. It is an error if no agent knows it.
    #[arg(long, value_name = "NAME")]
    pod: Option<String>,
    /// Only requests with a duration (first request byte to last response byte, or to the abort) above this, such as 500ms.
    #[arg(long, value_name = "DURATION", value_parser = recording::duration)]
    slower_than: Option<Duration>,
    /// Only responses with these statuses, such as 5xx,429, or `aborted`: either side closed the connection before the
    /// response was complete, whatever its status. Can be repeated.
    #[arg(long, value_name = "STATUS", value_delimiter = ',')]
    status: Vec<StatusPattern>,
    /// Stop after this many requests.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
    /// Stop after this time. Without it and --limit: until interrupted.
    #[arg(long = "for", value_name = "DURATION", value_parser = recording::duration)]
    duration: Option<Duration>,
    /// Maximum requests per second from each agent, on average. --pod, --namespace, --status and --slower-than are applied
    /// before, --selector after.
    #[arg(
        long,
        value_name = "N",
        default_value_t = DEFAULT_PER_SECOND,
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_PER_SECOND))
    )]
    rate: u32,
    /// Format of the output: json is one document per line.
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

pub(crate) async fn run(options: &Options, access: &Access) -> anyhow::Result<ExitCode> {
    let scope = if options.scope.selector.is_some() {
        options.agents.scope(&options.scope, access).await?
    } else {
        Scope::without_resources(&options.scope)?
    };
    let agents = agents::find(&options.agents, access).await?;
    let request = RequestOptions {
        subscriber: "forebay-cli".into(),
        max_per_second: options.rate,
        filter: options.filter(),
        tls: agents.tls.clone(),
    };
    let names = agents.targets.iter().map(|target| target.name.clone()).collect();
    let later = Later::start(&options.agents, &agents).await?;
    let pod = options.pod.as_ref().map(|pod| WantedPod::new(pod, &options.scope, &agents));
    let pod = pod.transpose()?;
    let streams = RequestStreams::start(agents, &request);
    let limits = Limits { requests: options.limit, duration: options.duration };
    Session::new(names, scope, options.output, options.rate, pod).run(streams, later, limits).await
}

impl Options {
    fn filter(&self) -> RequestFilter {
        RequestFilter {
            namespace: self.scope.namespace.clone().unwrap_or_default(),
            pod: self.pod.clone().unwrap_or_default(),
            statuses: self.status.iter().filter_map(|status| status.range()).collect(),
            aborted: self.status.contains(&StatusPattern::Aborted),
            slower_than_ns: self.slower_than.map_or(0, |it| it.as_nanos().try_into().unwrap_or(u64::MAX)),
        }
    }
}

#[cfg(test)]
mod tests;
