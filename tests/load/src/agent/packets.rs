//! Time of the BPF programs, from the kernel's own statistics (`BPF_ENABLE_STATS`).

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use aya::{
    programs::loaded_programs,
    sys::{Stats, enable_stats},
};
use forebay_bench::report::{Section, median, say};
use forebay_e2e::{
    harness::QWEN,
    load::{Client, Shape},
};
use tokio::task::JoinSet;

/// Names of the programs, as the kernel keeps them: cut to 15 bytes.
const PROGRAMS: [&str; 2] = ["forebay_ingress", "forebay_egress"];
const STREAMS: usize = 32;
const TOKEN_INTERVAL: Duration = Duration::from_millis(2);
const ENDLESS: u32 = 1_000_000;

/// Runs of a program, and their time.
#[derive(Clone, Copy, Debug, Default)]
struct Ran {
    count: u64,
    time: Duration,
}

pub(crate) async fn measure(runs: u32, duration: Duration) -> Result<Section> {
    let harness = super::node(1, TOKEN_INTERVAL, true)?;
    // While it is open, the kernel measures.
    let _stats = enable_stats(Stats::RunTime).context("cannot enable the statistics of BPF programs")?;
    let pod = harness.pods[0].address;
    let mut streams = JoinSet::new();
    for _ in 0..STREAMS {
        streams.spawn(async move { Client::new(pod).chat(QWEN, &Shape::Stream { tokens: ENDLESS }).await });
    }
    let mut means: [Vec<f64>; 2] = Default::default();
    let mut per_second: [Vec<f64>; 2] = Default::default();
    for run in 0..runs {
        say(&format!("packets: run {} of {runs}", run + 1));
        let before = ran()?;
        tokio::time::sleep(duration).await;
        let after = ran()?;
        for at in 0..PROGRAMS.len() {
            let count = after[at].count.checked_sub(before[at].count);
            let count = count.filter(|count| *count != 0);
            let count = count.with_context(|| format!("{} has not run, or was unloaded", PROGRAMS[at]))?;
            let time = after[at].time.saturating_sub(before[at].time);
            means[at].push(time.as_secs_f64() * 1e9 / count as f64);
            per_second[at].push(count as f64 / duration.as_secs_f64());
        }
        ensure!(streams.try_join_next().is_none(), "a stream has ended");
    }
    let mut section =
        Section::new(format!("BPF programs, {STREAMS} streams of one pod, medians of {runs} runs"));
    section.line(format!("{:<18}{:>12}{:>14}", "", "packets/s", "ns a packet"));
    for ((name, means), per_second) in PROGRAMS.iter().zip(means).zip(per_second) {
        section.line(format!("{name:<18}{:>12.0}{:>14.0}", median(per_second), median(means)));
    }
    section.line("the kernel reads the clock twice for each run: that is included");
    Ok(section)
}

fn ran() -> Result<[Ran; 2]> {
    let mut all = [Ran::default(); 2];
    for program in loaded_programs() {
        // One that was unloaded in the meantime.
        let Ok(program) = program else { continue };
        let name = program.name_as_str().unwrap_or_default();
        if let Some(at) = PROGRAMS.iter().position(|known| *known == name) {
            all[at].count += program.run_count();
            all[at].time += program.run_time();
        }
    }
    Ok(all)
}
