//! Compares the counts of the kernel with those of the engines, during the load and at its end.

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

/// Maximum time for which the counts may differ while those of the engine do not change. The kernel sees a byte when it
/// arrives, the engine when it is scheduled, and the agent reports with a delay.
const MAX_LAG: Duration = Duration::from_secs(2);

/// A thread that compares during the load.
pub(super) struct Comparison {
    stopped: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<usize>>>,
}

/// Starts the comparison. Each pod is compared whenever the counts of its engine are stable. Does nothing if kernel
/// counts or exact engine counts are not available.
pub(super) fn start(harness: &Harness) -> Comparison {
    let stopped = Arc::new(AtomicBool::new(false));
    let agent = harness.network.agent_http();
    let pods: Option<Vec<(String, SocketAddr)>> =
        harness.pods.iter().map(|pod| Some((pod.name.clone(), pod.truth?))).collect();
    let counted = harness.kernel_counts().is_ok_and(|counts| !counts.is_empty());
    let thread = pods.filter(|_| counted).map(|pods| {
        let stopped = Arc::clone(&stopped);
        thread::spawn(move || sample(agent, &pods, &stopped))
    });
    Comparison { stopped, thread }
}

impl Comparison {
    /// Stops the thread. Returns the number of equal comparisons; consecutive comparisons with the same counts are counted
    /// once. Fails if a comparison was not equal.
    pub(super) fn stop(self) -> Result<usize> {
        self.stopped.store(true, Ordering::Release);
        match self.thread.map(JoinHandle::join) {
            None => Ok(0),
            Some(Ok(result)) => result,
            Some(Err(_panic)) => bail!("the comparison thread panicked"),
        }
    }
}

fn sample(agent: SocketAddr, pods: &[(String, SocketAddr)], stopped: &AtomicBool) -> Result<usize> {
    let mut moments = 0;
    let mut compared = vec![Counts::default(); pods.len()];
    while !stopped.load(Ordering::Acquire) {
        for ((name, truth_address), compared) in pods.iter().zip(&mut compared) {
            let truth = Counts::from_simulator(*truth_address)?;
            let since = Instant::now();
            loop {
                let counted = Counts::from_agent(agent)?.remove(name).unwrap_or_default();
                if counted == truth {
                    // Do not count the same values twice.
                    moments += usize::from(truth != *compared);
                    *compared = truth;
                    break;
                }
                if Counts::from_simulator(*truth_address)? != truth {
                    break;
                }
                if since.elapsed() > MAX_LAG {
                    bail!("{name}: the kernel counted {counted:?} and the engine {truth:?}");
                }
            }
        }
    }
    Ok(moments)
}

/// Prints both counts for each pod. Fails if they differ.
pub(super) fn at_the_end(harness: &Harness, moments: usize) -> Result<()> {
    if harness.kernel_counts()?.is_empty() {
        show("  not compared: kernel measurement is not available on this machine");
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
                "  during the load: in flight, started, finished and aborted were equal in {moments} comparisons"
            ));
        }
        if !equal {
            bail!("the counts of kernel and engines differ");
        }
        return Ok(());
    }
}

fn rows(harness: &Harness) -> Result<(Vec<String>, bool)> {
    let counted = harness.kernel_counts()?;
    let mut rows = Vec::new();
    let mut all_equal = true;
    for pod in &harness.pods {
        let kernel = counted.get(&pod.name).copied().unwrap_or_default();
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
