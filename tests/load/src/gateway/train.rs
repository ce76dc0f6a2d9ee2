//! The load that profiles for profile-guided optimisation are recorded with: the loads of the other parts, on
//! instrumented programs. Code that this load does not reach is optimised as cold, so it must cover all request paths.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{
    client,
    concurrent::{self, StreamCounts},
    proxies::{Instrumented, Proxies},
    request::{Order, RawRequest},
    throughput::{CONNECTIONS, SIZES},
    tls::Tls,
    upstream::{ResponseKind, Upstream},
};
use forebay_bench::report::say;

/// Duration for each body size, order and proxy: thousands of small requests or hundreds of large ones.
const DURATION: Duration = Duration::from_secs(1);
/// Duration with TLS: long enough to cover its code, short enough not to displace the common paths.
const DURATION_OVER_TLS: Duration = Duration::from_millis(200);
const STREAMS: StreamCounts =
    StreamCounts { over_h1: 100, h2_connections: 4, streams_per_h2_connection: 25, tokens: 200 };
const BETWEEN_TOKENS: Duration = Duration::from_millis(10);

pub(crate) fn run(programs: &Instrumented) -> Result<()> {
    let tls = Tls::new()?;
    for (tls, each) in [(None, DURATION), (Some(&tls), DURATION_OVER_TLS)] {
        say(if tls.is_some() { "training: fixed responses over TLS" } else { "training: fixed responses" });
        let proxies = Proxies::instrumented(Upstream::start(ResponseKind::Fixed)?, programs, tls)?;
        for (size, bytes) in SIZES {
            for order in [Order::ModelFirst, Order::ModelLast] {
                run_load(&proxies, &RawRequest::chat(bytes, order), each)
                    .with_context(|| format!("{size}, {order}"))?;
            }
        }
        if tls.is_none() {
            run_load(&proxies, &RawRequest::gzip_chat(SIZES[2].1, Order::ModelLast)?, each)
                .context("compressed")?;
        }
    }
    say("training: streams");
    let response = ResponseKind::Stream { tokens: STREAMS.tokens, interval: BETWEEN_TOKENS };
    let proxies = Proxies::instrumented(Upstream::start(response)?, programs, None)?;
    proxies.all.iter().try_for_each(|proxy| concurrent::pass(proxy, STREAMS))
}

fn run_load(proxies: &Proxies, request: &RawRequest, each: Duration) -> Result<()> {
    proxies.all.iter().try_for_each(|proxy| {
        client::closed_loop(&proxy.target, request, CONNECTIONS, each)
            .with_context(|| proxy.kind.to_string())?;
        Ok(())
    })
}
