use std::time::Duration;

use super::RunError;
use crate::{EngineSpec, router::Time};

/// Pods, replicas of the router, and what disturbs them. Start from [`Conditions::new`] or [`Scenario::conditions`].
#[derive(Clone, Debug)]
pub struct Conditions {
    /// One engine per pod.
    pub pods: Vec<EngineSpec>,
    /// Replicas of the router. Requests are spread over them in turns.
    pub replicas: usize,
    pub replica_restart: Option<ReplicaRestart>,
    /// Share of the requests that clients send to a random pod without asking the router.
    pub foreign_share: f64,
    pub changes: Vec<Change>,
    pub agents_gone: Option<AgentsGone>,
    /// False: the agents report no kernel view.
    pub kernel_part: bool,
    /// Time between two reports of an agent on one pod.
    pub report_interval: Duration,
    /// Time between two scrapes of an engine. Rounded up to whole report intervals.
    pub scrape_interval: Duration,
    /// From node to router, and from router to pod.
    pub network_delay: Duration,
    /// Clients give up after this time without a first byte, or without progress of a frozen engine.
    pub client_timeout: Duration,
}

/// A replica that loses its state. Its requests in flight are not reported to its successor.
#[derive(Clone, Copy, Debug)]
pub struct ReplicaRestart {
    pub replica: usize,
    pub at: Time,
}

#[derive(Clone, Copy, Debug)]
pub struct AgentsGone {
    pub from: Time,
    pub until: Time,
}

#[derive(Clone, Copy, Debug)]
pub struct Change {
    pub at: Time,
    pub pod: usize,
    pub kind: ChangeKind,
}

#[derive(Clone, Copy, Debug)]
pub enum ChangeKind {
    /// Multiplies the pod's original speed, from its next engine step on.
    Speed(f64),
    /// Nothing moves, connections stay open.
    Freeze,
    Thaw,
    /// Requests fail, the cache is lost, and the pod is not a member while it is down.
    Restart {
        down: Duration,
    },
}

impl Conditions {
    /// Undisturbed pods, with one router.
    pub fn new(pods: Vec<EngineSpec>) -> Self {
        Self {
            pods,
            replicas: 1,
            replica_restart: None,
            foreign_share: 0.0,
            changes: Vec::new(),
            agents_gone: None,
            kernel_part: true,
            report_interval: Duration::from_millis(50),
            scrape_interval: Duration::from_millis(500),
            network_delay: Duration::from_millis(1),
            client_timeout: Duration::from_secs(60),
        }
    }

    pub(super) fn check(&self) -> Result<(), RunError> {
        let checks = [
            (self.pods.is_empty(), "pods is empty"),
            (self.replicas == 0, "replicas is 0"),
            (self.report_interval.is_zero(), "report_interval is 0"),
            (!(0.0..=1.0).contains(&self.foreign_share), "foreign_share is not in 0..1"),
            (
                self.changes.iter().any(|change| change.pod >= self.pods.len()),
                "changes names a pod that does not exist",
            ),
            (
                self.replica_restart.is_some_and(|restart| restart.replica >= self.replicas),
                "replica_restart names a replica that does not exist",
            ),
            (
                self.pods.iter().any(|pod| !crate::UNIT_TOKENS.is_multiple_of(pod.block_size.max(1))),
                "block_size of a pod does not divide the prompt unit",
            ),
            (self.pods.iter().any(|pod| pod.block_size == 0), "block_size of a pod is 0"),
        ];
        match checks.into_iter().find(|(wrong, _)| *wrong) {
            Some((_, problem)) => Err(RunError::Conditions(problem)),
            None => Ok(()),
        }
    }
}

/// Twice the clients' timeout, so that all clients of the engine notice, and it is seen whether it gets requests again.
const FROZEN: Duration = Duration::from_secs(120);

/// The named conditions of the benchmark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    Plain,
    TwoReplicas,
    FourReplicas,
    ReplicaRestarted,
    Foreign,
    HalfSpeed,
    MixedSizes,
    Frozen,
    EngineRestarted,
    AgentsGone,
    NoKernelPart,
}

impl Scenario {
    pub const ALL: [Self; 11] = [
        Self::Plain,
        Self::TwoReplicas,
        Self::FourReplicas,
        Self::ReplicaRestarted,
        Self::Foreign,
        Self::HalfSpeed,
        Self::MixedSizes,
        Self::Frozen,
        Self::EngineRestarted,
        Self::AgentsGone,
        Self::NoKernelPart,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::TwoReplicas => "2 replicas",
            Self::FourReplicas => "4 replicas",
            Self::ReplicaRestarted => "replica restarted",
            Self::Foreign => "30 % foreign",
            Self::HalfSpeed => "half speed",
            Self::MixedSizes => "mixed sizes",
            Self::Frozen => "frozen",
            Self::EngineRestarted => "engine restarted",
            Self::AgentsGone => "agents gone",
            Self::NoKernelPart => "no kernel part",
        }
    }

    /// This scenario on `pods` engines. Changes happen at `middle`.
    pub fn conditions(self, engine: &EngineSpec, pods: usize, middle: Time) -> Conditions {
        let mut it = Conditions::new(vec![engine.clone(); pods]);
        let change = |kind| vec![Change { at: middle, pod: 0, kind }];
        match self {
            Self::Plain => {}
            Self::TwoReplicas => it.replicas = 2,
            Self::FourReplicas => it.replicas = 4,
            Self::ReplicaRestarted => {
                it.replicas = 4;
                it.replica_restart = Some(ReplicaRestart { replica: 0, at: middle });
            }
            Self::Foreign => it.foreign_share = 0.3,
            Self::HalfSpeed => it.changes = change(ChangeKind::Speed(0.5)),
            Self::MixedSizes => {
                for pod in it.pods.iter_mut().skip(1).step_by(2) {
                    *pod = engine.scaled(0.5, 0.5);
                }
            }
            Self::Frozen => {
                it.changes = change(ChangeKind::Freeze);
                it.changes.push(Change { at: middle + FROZEN, pod: 0, kind: ChangeKind::Thaw });
            }
            Self::EngineRestarted => {
                it.changes = change(ChangeKind::Restart { down: Duration::from_secs(30) });
            }
            Self::AgentsGone => {
                it.agents_gone = Some(AgentsGone { from: middle, until: middle + Duration::from_secs(30) });
            }
            Self::NoKernelPart => it.kernel_part = false,
        }
        it
    }
}
