//! The kernel's counts against the engines', while the load runs and at its end.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use forebay_e2e::{
    TIMEOUT,
    harness::{Counts, Harness},
};

use crate::output::show;

/// The kernel sees a byte when it arrives, the engine when it is scheduled, and the
/// agent tells a moment later: so long may they differ while the engine stands still.
const APART: Duration = Duration::from_secs(2);

/// Comparisons while the load runs.
pub(super) struct Comparing {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<usize>>>,
}

/// Compares each pod's counts again and again, whenever its engine's hold still. Only
/// where both witnesses are there.
pub(super) fn start(harness: &Harness) -> Comparing {
    let over = Arc::new(AtomicBool::new(false));
    let agent = harness.network.agent_http();
    let pods: Option<Vec<(String, SocketAddr)>> =
        harness.pods.iter().map(|pod| Some((pod.name.clone(), pod.truth?))).collect();
    let counted = harness.kernel_counts().is_ok_and(|counts| !counts.is_empty());
    let thread = pods.filter(|_| counted).map(|pods| {
        let over = Arc::clone(&over);
        thread::spawn(move || sample(agent, &pods, &over))
    });
    Comparing { over, thread }
}

impl Comparing {
    /// How many moments were compared, no two in a row with the same counts and all of
    /// them equal; an error if one was not.
    pub(super) fn stop(self) -> Result<usize> {
        self.over.store(true, Ordering::Release);
        match self.thread.map(JoinHandle::join) {
            None => Ok(0),
            Some(Ok(result)) => result,
            Some(Err(_panic)) => bail!("the comparison broke"),
        }
    }
}

fn sample(agent: SocketAddr, pods: &[(String, SocketAddr)], over: &AtomicBool) -> Result<usize> {
    let mut moments = 0;
    let mut compared = vec![Counts::default(); pods.len()];
    while !over.load(Ordering::Acquire) {
        for ((name, truth_address), compared) in pods.iter().zip(&mut compared) {
            let truth = Counts::from_simulator(*truth_address)?;
            let since = Instant::now();
            loop {
                let told = Counts::from_agent(agent)?.remove(name).unwrap_or_default();
                if told == truth {
                    // The same once more is no other moment.
                    moments += usize::from(truth != *compared);
                    *compared = truth;
                    break;
                }
                if Counts::from_simulator(*truth_address)? != truth {
                    break;
                }
                if since.elapsed() > APART {
                    bail!("{name}: the kernel counted {told:?} and the engine {truth:?}");
                }
            }
        }
    }
    Ok(moments)
}

/// Prints both witnesses pod by pod, and fails if they differ.
pub(super) fn at_the_end(harness: &Harness, moments: usize) -> Result<()> {
    if harness.kernel_counts()?.is_empty() {
        show("  not compared: nothing is counted in the kernel on this machine");
        return Ok(());
    }
    let deadline = Instant::now() + TIMEOUT;
    loop {
        let (rows, equal) = rows(harness)?;
        if !equal && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(20));
            continue;
        }
        show(&format!("  {:<22}   {:<34}   engine", "", "kernel"));
        let header = "started finished aborted in-flight";
        show(&format!("  {:<22}   {header}   {header}", "POD"));
        for row in rows {
            show(&row);
        }
        if moments != 0 {
            show(&format!(
                "  and equal in flight, started, finished and aborted at {moments} moments of the load"
            ));
        }
        if !equal {
            bail!("the kernel and the engines do not agree");
        }
        return Ok(());
    }
}

fn rows(harness: &Harness) -> Result<(Vec<String>, bool)> {
    let told = harness.kernel_counts()?;
    let mut rows = Vec::new();
    let mut all_equal = true;
    for pod in &harness.pods {
        let kernel = told.get(&pod.name).copied().unwrap_or_default();
        let engine = match pod.truth {
            Some(_) => pod.truth()?,
            None => pod.vllm_counts()?,
        };
        let equal = engine == kernel && kernel.in_flight == 0;
        all_equal &= equal;
        rows.push(format!(
            "  {:<22}   {}   {}   {}",
            pod.name,
            columns(&kernel),
            columns(&engine),
            if equal { "equal" } else { "DIFFERENT" }
        ));
    }
    Ok((rows, all_equal))
}

fn columns(counts: &Counts) -> String {
    let Counts { started, finished, aborted, in_flight } = counts;
    format!("{started:>7} {finished:>8} {aborted:>7} {in_flight:>9}")
}
