//! Each bound on memory is reached by an attack on a program that runs with the memory limit of its chart.
//!
//! The tests print the largest resident memory. Sockets' buffers are the kernel's and are not in it.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test prints its measurements and fails by panicking"
)]

mod agent;
mod attack;
mod client_heads;
mod gateway;
mod picker;

use std::{
    ops::{Deref, DerefMut},
    sync::MutexGuard,
};

use forebay_e2e::harness::{Harness, HarnessOptions, Limited, PoolOptions, QWEN};

/// Pool of all tests here.
const POOL: &str = "vllm-qwen3-06b";

/// The programs of one test. Tests run one after the other: each uses all cores and a large part of the memory.
struct Attacked {
    harness: Harness,
    _alone: MutexGuard<'static, ()>,
}

impl Deref for Attacked {
    type Target = Harness;

    fn deref(&self) -> &Harness {
        &self.harness
    }
}

impl DerefMut for Attacked {
    fn deref_mut(&mut self) -> &mut Harness {
        &mut self.harness
    }
}

/// All programs with limited memory, and this many simulators. `None` if memory cannot be limited here.
fn start(pods: u32) -> Option<Attacked> {
    let alone = forebay_e2e::alone();
    let options = HarnessOptions {
        memory_limits: true,
        kernel: false,
        pools: vec![PoolOptions { name: POOL, model: QWEN, pods }],
        ..HarnessOptions::default()
    };
    match Harness::start(options) {
        Ok(harness) => Some(Attacked { harness, _alone: alone }),
        Err(error) if error.downcast_ref::<std::io::Error>().is_some() => {
            println!("skipped: memory cannot be limited: {error:#}");
            None
        }
        Err(error) => panic!("{error:#}"),
    }
}

/// Fails if the program was killed. Prints its peak.
fn survived(attack: &str, program: Option<Limited<'_>>) -> u64 {
    let mut program = program.expect("its memory is limited");
    program.lives().unwrap();
    let peak = program.peak_bytes().unwrap();
    println!(
        "{attack}: {} used at most {} MiB of {} MiB",
        program.process.name,
        peak >> 20,
        program.limit.bytes() >> 20
    );
    peak
}
