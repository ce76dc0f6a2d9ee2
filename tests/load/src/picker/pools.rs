//! One picker for 500 pools: telemetry streams, memory, where picks land, and how fast a change is in force.

mod agents;
mod cluster;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use forebay_bench::{
    report::{Section, median, mib, milliseconds, say},
    usage::Tree,
};
use forebay_e2e::harness::{Process, program};
use forebay_epp::{PickerOptions, PoolScope, Pools};
use forebay_resources::{ObjectKey, Snapshot, Store, folder};

use self::agents::Agents;
use super::ext_proc::{connect, free_port, pick_for};

const POOLS: usize = 500;
const PODS_PER_POOL: usize = 8;
const AGENTS: usize = 100;
const TIMEOUT: Duration = Duration::from_secs(60);
/// Time between two looks at the members.
const POLL: Duration = Duration::from_millis(1);
/// Changes whose time is measured, for each run.
const CHANGES: usize = 10;

pub(crate) fn measure(runs: u32) -> Result<Section> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(measure_all(runs))
}

async fn measure_all(runs: u32) -> Result<Section> {
    let title = format!("One picker for {POOLS} pools of {PODS_PER_POOL} pods, {AGENTS} agents");
    let mut section = Section::new(title);
    let folder = tempfile::tempdir()?;
    let agents = Agents::start().await?;
    cluster::write(folder.path())?;
    let [grpc, health, http] = [free_port()?, free_port()?, free_port()?];
    let args = [
        format!("--resources={}", folder.path().display()),
        format!("--grpc-listen={grpc}"),
        format!("--health-listen={health}"),
        format!("--http-listen={http}"),
        format!("--agent-port={}", agents.port()),
    ];
    let environment = [("RUST_LOG", "warn".to_owned())];
    let process =
        Process::start("pools", &program("forebay-epp")?, &args, &environment, folder.path(), None)?;
    say("waiting for the streams");
    agents.until_streams(AGENTS, TIMEOUT).await?;
    say("one pick of each pool");
    let channel = connect(grpc, || process.log_tail()).await?;
    let mut right = 0;
    for pool in 0..POOLS {
        let picked = pick_for(channel.clone(), &cluster::pool(pool).to_string()).await?;
        right += usize::from(cluster::addresses(pool).contains(&picked));
    }
    section.line(format_args!("telemetry streams               {:>8}", agents.streams()));
    section.line(format_args!("picks of an endpoint of the pool {right:>7} of {POOLS}"));
    section.line(format_args!(
        "memory of the process           {:>8.1} MiB",
        mib(Tree(process.pid()).rss_bytes()?)
    ));
    drop(process);
    say("changes of single pools");
    let [spec, pod] = changes(folder.path(), agents.port(), runs).await?;
    section.line(format_args!("a pool's changed port in force after    {:>6.2} ms (median)", median(spec)));
    section.line(format_args!("a pod that is not Ready left out after  {:>6.2} ms (median)", median(pod)));
    section.line("In force: from the write of a snapshot into the store until picks see the members.");
    Ok(section)
}

/// Milliseconds until changes are in force: of a pool's port, and of a pod's readiness.
async fn changes(folder: &std::path::Path, agent_port: u16, runs: u32) -> Result<[Vec<f64>; 2]> {
    let loaded = Store::new();
    let snapshot = {
        let _provider = folder::start(folder, loaded.clone()).await?;
        loaded.snapshot()
    };
    let store = Store::new();
    store.replace(Snapshot::clone(&snapshot));
    let options = PickerOptions { agent_port, ..PickerOptions::default() };
    let pools = Pools::start(store.clone(), PoolScope::All, options)?;
    let mut times: [Vec<f64>; 2] = Default::default();
    for change in 0..CHANGES * runs as usize {
        let number = change * 7 % POOLS;
        let key = cluster::pool(number);
        let mut next = Snapshot::clone(&snapshot);
        let pool = next.inference_pools.get(&key).context("the pool exists")?;
        next.inference_pools.insert(key.clone(), Arc::new(cluster::on_other_port(pool)));
        times[0].push(
            in_force(&store, next, &pools, &key, |addresses| addresses.iter().all(|it| it.port() != 8000))
                .await?,
        );
        let mut next = Snapshot::clone(&snapshot);
        let name = cluster::pod(number, 0);
        let pod = next.pods.get(&name).context("the pod exists")?;
        next.pods.insert(name, Arc::new(cluster::not_ready(pod)));
        let has_left = |addresses: &[_]| {
            addresses.len() == PODS_PER_POOL - 1
                && addresses.iter().all(|it: &std::net::SocketAddr| it.port() == 8000)
        };
        times[1].push(in_force(&store, next, &pools, &key, has_left).await?);
    }
    Ok(times)
}

/// Writes a snapshot. Returns the milliseconds until the members are as expected.
async fn in_force(
    store: &Store,
    next: Snapshot,
    pools: &Pools,
    key: &ObjectKey,
    is_expected: impl Fn(&[std::net::SocketAddr]) -> bool,
) -> Result<f64> {
    let began = Instant::now();
    store.replace(next);
    loop {
        let scheduler = pools.scheduler(key).context("the pool is served")?;
        let addresses: Vec<_> =
            scheduler.endpoints().endpoints().iter().map(|it| it.endpoint.address).collect();
        if is_expected(&addresses) {
            return Ok(milliseconds(began.elapsed()));
        }
        ensure!(began.elapsed() < TIMEOUT, "the change is not in force: {addresses:?}");
        tokio::time::sleep(POLL).await;
    }
}
