//! What an operator has to find from `forebay top` alone, in terminals of two sizes, without a key.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints its measurements and fails by panicking"
)]

use std::{
    fs,
    time::{Duration, Instant},
};

use forebay_e2e::{
    eventually,
    harness::{GpuFault, Harness, HarnessOptions, PoolOptions, QWEN, TINYLLAMA},
    load::{Client, Shape},
};
use forebay_test_terminal::{Tmux, is_installed};
use tokio::task::{JoinSet, block_in_place};

const POOL: &str = "vllm-qwen3-06b";
const OTHER_POOL: &str = "vllm-tinyllama-11b";
const SIZES: [(u16, u16); 2] = [(80, 24), (160, 50)];
/// Maximum time until the fault is on the screen.
const WITHIN: Duration = Duration::from_secs(20);

/// `forebay top` in terminals, in front of three pods of one model and one of another.
struct Drill {
    // Dropped first.
    terminals: Vec<Tmux>,
    harness: Harness,
}

impl Drill {
    /// `None` if this machine cannot run it; the reason is printed.
    fn start() -> Option<Self> {
        if !is_installed() {
            return None;
        }
        let pools = vec![
            PoolOptions { name: POOL, model: QWEN, pods: 3 },
            PoolOptions { name: OTHER_POOL, model: TINYLLAMA, pods: 1 },
        ];
        let options = HarnessOptions { pools, gpus: true, ..HarnessOptions::default() };
        let harness = Harness::start(options).unwrap();
        harness.unavailable.iter().for_each(|reason| println!("skipped: {reason}"));
        if !harness.unavailable.is_empty() {
            return None;
        }
        let terminals = SIZES.map(|(width, height)| Tmux::start(width, height));
        for tmux in &terminals {
            tmux.command(&format!(
                "{} top --resources {}",
                harness.program("forebay").display(),
                harness.resources().display()
            ));
            tmux.wait_for("all pods are alive", |screen| {
                screen.lines().filter(|line| line.starts_with("vllm-") && line.contains("alive")).count() == 4
            });
        }
        Some(Self { terminals: terminals.into(), harness })
    }

    /// Waits until all screens have a line of the pod with the text, and checks that no other pod has a problem.
    fn find(&self, pod: usize, text: &str) {
        let since = Instant::now();
        let name = self.harness.pods[pod].name.as_str();
        for tmux in &self.terminals {
            let screen = tmux.wait_for(text, |screen| {
                screen.lines().any(|line| line.starts_with(name) && line.contains(text))
            });
            let others = screen.lines().filter(|line| line.starts_with("vllm-") && !line.starts_with(name));
            let others: Vec<&str> = others.collect();
            assert!(others.len() >= 3 && others[..3].iter().all(|line| line.contains("alive")), "{screen}");
        }
        println!("{name}: {text} on the screen after {:.1} s", since.elapsed().as_secs_f64());
        assert!(since.elapsed() < WITHIN);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throttled_gpu_is_on_the_screen() {
    let Some(drill) = block_in_place(Drill::start) else { return };
    drill.harness.break_gpu(1, GpuFault::Hot).unwrap();
    block_in_place(|| drill.find(1, "throttled hw_"));
    // Two keys further is the GPU, with its clock and its temperature.
    block_in_place(|| {
        for tmux in &drill.terminals {
            tmux.press("Down");
            tmux.press("Enter");
            tmux.wait_for("the pod", |screen| screen.contains("pod llm-d/vllm-qwen3-06b-1"));
            tmux.press("Enter");
            tmux.wait_for("the GPU", |screen| {
                ["hw_thermal_slowdown", "990", "97"].iter().all(|text| screen.contains(text))
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_engine_is_on_the_screen() {
    let Some(drill) = block_in_place(Drill::start) else { return };
    let mut open = JoinSet::new();
    for _ in 0..4 {
        let address = drill.harness.pods[2].address;
        open.spawn(async move {
            // Ends with the test.
            let _ = Client::new(address).chat(QWEN, &Shape::Stream { tokens: 1_000_000 }).await;
        });
    }
    let name = &drill.harness.pods[2].name;
    block_in_place(|| {
        for tmux in &drill.terminals {
            tmux.wait_for("four requests with a pace", |screen| {
                screen.contains("4 in flight")
                    && screen.lines().any(|line| line.starts_with(name.as_str()) && line.contains("ms"))
            });
        }
        drill.harness.pods[2].process.freeze().unwrap();
        drill.find(2, "stalled");
        drill.harness.pods[2].process.thaw().unwrap();
        drill.find(2, "alive");
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_label_is_on_the_screen() {
    let Some(drill) = block_in_place(Drill::start) else { return };
    let file = drill.harness.resources().join("pods.yaml");
    let pods = fs::read_to_string(&file).unwrap();
    let replace = |text: &str| {
        let fresh = file.with_extension("fresh");
        fs::write(&fresh, text).unwrap();
        fs::rename(fresh, &file).unwrap();
    };
    block_in_place(|| {
        let since = Instant::now();
        replace(&pods.replace(&format!("app: {OTHER_POOL}"), "app: vllm-tinylama-11b"));
        let expected = format!("InferencePool llm-d/{OTHER_POOL}: no pod has the labels");
        for tmux in &drill.terminals {
            tmux.wait_for("the pool without a pod", |screen| {
                screen.contains(&expected) && !screen.lines().any(|line| line.starts_with(OTHER_POOL))
            });
        }
        assert!(drill.terminals[1].screen().contains(&format!("app={OTHER_POOL} (see `forebay check`)")));
        println!("{expected}: on the screen after {:.1} s", since.elapsed().as_secs_f64());
        replace(&pods);
        eventually("the pod is back", || {
            drill.terminals.iter().all(|tmux| {
                let screen = tmux.screen();
                !screen.contains(&expected) && screen.lines().any(|line| line.starts_with(OTHER_POOL))
            })
        });
    });
}
