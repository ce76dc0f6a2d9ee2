//! What a profile-guided build learns from: the loads of the other parts, on instrumented programs. What no load
//! touches is laid out and inlined as code that never runs, so all of a request's ways are here.

use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::{
    cell::{Order, Sent},
    load,
    many::{self, Many},
    peers::{Instrumented, Peers},
    report::say,
    throughput::{CONNECTIONS, SIZES},
    tls::Tls,
    upstream::{Answer, Upstream},
};

/// Of one size, order and way: enough for thousands of small requests, and hundreds of large ones.
const EACH: Duration = Duration::from_secs(1);
/// Enough to know its ways, too little to take the room of those that all requests go.
const EACH_OVER_TLS: Duration = Duration::from_millis(200);
const STREAMS: Many = Many { over_h1: 100, h2_connections: 4, streams_per_h2_connection: 25, tokens: 200 };
const BETWEEN_TOKENS: Duration = Duration::from_millis(10);

pub(crate) fn run(programs: &Instrumented) -> Result<()> {
    let tls = Tls::new()?;
    for (tls, each) in [(None, EACH), (Some(&tls), EACH_OVER_TLS)] {
        say(if tls.is_some() { "training: whole answers over TLS" } else { "training: whole answers" });
        let peers = Peers::instrumented(Upstream::start(Answer::Whole)?, programs, tls)?;
        for (size, bytes) in SIZES {
            for order in [Order::ModelFirst, Order::ModelLast] {
                put_load_on(&peers, &Sent::chat(bytes, order), each)
                    .with_context(|| format!("{size}, {order}"))?;
            }
        }
        if tls.is_none() {
            put_load_on(&peers, &Sent::gzip_chat(SIZES[2].1, Order::ModelLast)?, each)
                .context("compressed")?;
        }
    }
    say("training: streams");
    let answer = Answer::Stream { tokens: STREAMS.tokens, interval: BETWEEN_TOKENS };
    let peers = Peers::instrumented(Upstream::start(answer)?, programs, None)?;
    peers.all.iter().try_for_each(|peer| many::pass(peer, STREAMS))
}

fn put_load_on(peers: &Peers, sent: &Sent, each: Duration) -> Result<()> {
    peers.all.iter().try_for_each(|peer| {
        load::closed_loop(&peer.target, sent, CONNECTIONS, each).with_context(|| peer.kind.to_string())?;
        Ok(())
    })
}
