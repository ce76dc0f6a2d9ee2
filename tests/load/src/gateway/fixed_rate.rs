//! Latency at a fixed request rate (open loop).

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    client,
    proxies::{Kind, Proxies},
    request::{Order, RawRequest},
};
use forebay_bench::report::{Section, median, milliseconds, quantile, say};

const REQUESTS_PER_SECOND: u32 = 1000;
/// Number of connections that share the rate.
const USERS: u32 = 16;
const BODY_BYTES: usize = 1 << 10;
/// Minimum share of the requests that must have been sent, otherwise the run fails.
const MIN_SENT_SHARE: f64 = 0.99;

/// Latencies of all requests, sorted.
type Latencies = Vec<Duration>;

pub(crate) fn measure(proxies: &Proxies, runs: u32, duration: Duration) -> Result<Section> {
    let request = RawRequest::chat(BODY_BYTES, Order::ModelFirst);
    let mut order: Vec<_> = proxies.all.iter().filter(|proxy| proxy.kind != Kind::EnvoyWithPicker).collect();
    let mut results: BTreeMap<Kind, Vec<(f64, f64)>> = BTreeMap::new();
    for run in 0..runs {
        say(&format!("latency: run {} of {runs}", run + 1));
        order.rotate_left(1);
        for proxy in &order {
            let latencies =
                at_rate(proxy.target.address, &request, duration).with_context(|| proxy.kind.to_string())?;
            let times = [0.5, 0.99].map(|at| milliseconds(quantile(&latencies, at)));
            results.entry(proxy.kind).or_default().push((times[0], times[1]));
        }
    }
    let mut section = Section::new(format!(
        "latency at {REQUESTS_PER_SECOND} requests/s, {BODY_BYTES} bytes, medians of {runs} runs; added: difference to direct requests"
    ));
    section.line(format!(
        "{:<26}{:>10}{:>10}{:>12}{:>12}",
        "proxy", "p50 ms", "p99 ms", "added p50", "added p99"
    ));
    let of = |kind: Kind| {
        let runs = results.get(&kind).map_or(&[][..], Vec::as_slice);
        (median(runs.iter().map(|it| it.0).collect()), median(runs.iter().map(|it| it.1).collect()))
    };
    let direct = of(Kind::Direct);
    for kind in results.keys() {
        let (p50, p99) = of(*kind);
        if *kind == Kind::Direct {
            section.line(format!("{kind:<26}{p50:>10.3}{p99:>10.3}"));
        } else {
            section.line(format!(
                "{kind:<26}{p50:>10.3}{p99:>10.3}{:>12.3}{:>12.3}",
                p50 - direct.0,
                p99 - direct.1
            ));
        }
    }
    Ok(section)
}

fn at_rate(address: SocketAddr, request: &RawRequest, duration: Duration) -> Result<Latencies> {
    let period = Duration::from_secs(1) / (REQUESTS_PER_SECOND / USERS);
    let begin = Instant::now() + Duration::from_millis(50);
    let latencies: Result<Vec<Latencies>> = thread::scope(|scope| {
        let users: Vec<_> = (0..USERS)
            .map(|user| {
                let first = begin + period * user / USERS;
                scope.spawn(move || one_user(address, &request.bytes, first, period, duration))
            })
            .collect();
        users
            .into_iter()
            .map(|user| user.join().unwrap_or_else(|_| anyhow::bail!("a user panicked")))
            .collect()
    });
    let mut latencies: Latencies = latencies?.into_iter().flatten().collect();
    let offered = duration.as_secs_f64() * f64::from(REQUESTS_PER_SECOND / USERS * USERS);
    ensure!(
        latencies.len() as f64 >= offered * MIN_SENT_SHARE,
        "only {} of {offered} requests were sent",
        latencies.len()
    );
    latencies.sort_unstable();
    Ok(latencies)
}

/// Sends one request every `period` on one connection.
fn one_user(
    address: SocketAddr,
    request: &[u8],
    first: Instant,
    period: Duration,
    duration: Duration,
) -> Result<Latencies> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 << 10];
    let mut latencies = Vec::new();
    let mut due = first;
    while due < first + duration {
        let now = Instant::now();
        // If a request is due before the last response, the wait is part of its latency. A late wakeup of this
        // thread is not.
        let from = match due.checked_duration_since(now) {
            Some(early) => {
                thread::sleep(early);
                Instant::now()
            }
            None => due,
        };
        stream.write_all(request)?;
        let mut filled = 0;
        loop {
            let read = stream.read(&mut buffer[filled..])?;
            ensure!(read > 0, "the response was cut off");
            filled += read;
            if client::is_complete(&buffer[..filled])? {
                break;
            }
        }
        latencies.push(from.elapsed());
        due += period;
    }
    Ok(latencies)
}
