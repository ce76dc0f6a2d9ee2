//! The agents: reports at a fixed interval, with the kernel's view of that moment and the last scrape.

use super::Conditions;
use crate::{
    engine::Engine,
    router::{EngineView, KernelView, Signals, Time},
};

#[derive(Clone, Default)]
struct Pod {
    scraped: Option<EngineView>,
    reports: u64,
    sent: Signals,
}

pub(super) struct Agents {
    pods: Vec<Pod>,
    reports_per_scrape: u64,
}

impl Agents {
    pub(super) fn new(conditions: &Conditions) -> Self {
        let per_scrape =
            conditions.scrape_interval.as_nanos().div_ceil(conditions.report_interval.as_nanos());
        Self {
            pods: vec![Pod::default(); conditions.pods.len()],
            reports_per_scrape: per_scrape.max(1) as u64,
        }
    }

    /// The first report of a pod. Agents on different nodes are not synchronised.
    pub(super) fn first_report(conditions: &Conditions, pod: usize) -> Time {
        Time::ZERO + conditions.report_interval.mul_f64(pod as f64 / conditions.pods.len() as f64)
    }

    /// The report of a pod that is up. `None` if nothing has changed since the last one.
    pub(super) fn report(
        &mut self,
        now: Time,
        index: usize,
        engine: &mut Engine,
        conditions: &Conditions,
    ) -> Option<Signals> {
        let gone = |gone: &super::AgentsGone| gone.from <= now && now < gone.until;
        if conditions.agents_gone.as_ref().is_some_and(gone) {
            self.forget(index);
            return None;
        }
        let pod = &mut self.pods[index];
        if pod.reports.is_multiple_of(self.reports_per_scrape) {
            pod.scraped = Some(engine.scrape(now));
        }
        pod.reports += 1;
        let kernel = conditions.kernel_part.then(|| engine.kernel_view(now));
        let signals = Signals { kernel, engine: pod.scraped };
        let unchanged = signals.engine == pod.sent.engine
            && kernel.map(without_time) == pod.sent.kernel.map(without_time);
        if unchanged {
            return None;
        }
        pod.sent = signals;
        Some(signals)
    }

    /// The agent or the pod starts again: the next report has a new scrape.
    pub(super) fn forget(&mut self, index: usize) {
        self.pods[index] = Pod::default();
    }
}

fn without_time(view: KernelView) -> KernelView {
    KernelView { measured_at: Time::ZERO, ..view }
}
