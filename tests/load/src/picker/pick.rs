//! Time and allocations of a pick.

use std::{hint::black_box, time::Instant};

use forebay_bench::report::{Section, median, say};
use forebay_epp::schedule::{PickRequest, Prompt, Scheduler};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region};

use crate::{
    fixture::{prompt, scheduler},
    naive,
};

const SIZES: [u16; 3] = [100, 1000, 10_000];
const PROMPTS: u64 = 64;
/// Picks of one run.
const PICKS: u32 = 500;

pub(crate) fn measure(runs: u32) -> Section {
    let mut section = Section::new(
        "Pick and release, prompt of 8,192 tokens whose first half all endpoints have in their caches (median)",
    );
    section.line(format_args!(
        "{:>9}  {:>10}  {:>10}  {:>10}  {:>7}  {:>12}",
        "endpoints", "no prompt", "prompt", "baseline", "ratio", "allocations"
    ));
    for size in SIZES {
        say(&format!("pick among {size} endpoints"));
        section.line(row(size, runs));
    }
    section.line("ratio: pick with prompt / baseline (a lock per endpoint, all scores sorted, no prompts)");
    section.line("allocations: per pick with prompt, in the steady state");
    section
}

fn row(size: u16, runs: u32) -> String {
    let scheduler = scheduler(size);
    let prompts: Vec<Prompt> = (1..=PROMPTS).map(prompt).collect();
    // Every endpoint gets the first half at least once.
    for n in 0..u64::from(size) * 4 {
        std::mem::forget(pick(&scheduler, Some(&prompts[(n % PROMPTS) as usize])));
    }
    let mut next = 0;
    let mut with_prompt = || {
        next = (next + 1) % prompts.len();
        drop(black_box(pick(&scheduler, Some(&prompts[next]))));
    };
    // The steady state: the memory of this thread has its size.
    (0..PICKS).for_each(|_| with_prompt());
    let region = Region::new(&INSTRUMENTED_SYSTEM);
    (0..PICKS).for_each(|_| with_prompt());
    let allocations = region.change().allocations as f64 / f64::from(PICKS);

    let naive = naive::Pool::new(size);
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..runs {
        times[0].push(nanoseconds(|| drop(black_box(pick(&scheduler, None)))));
        times[1].push(nanoseconds(&mut with_prompt));
        times[2].push(nanoseconds(|| drop(black_box(naive.pick()))));
    }
    let [without, with, baseline] = times.map(|times| median(times) / 1e3);
    let ratio = with / baseline;
    format!(
        "{size:>9}  {without:>7.2} µs  {with:>7.2} µs  {baseline:>7.2} µs  {ratio:>7.3}  {allocations:>12.3}"
    )
}

fn pick(scheduler: &Scheduler, prompt: Option<&Prompt>) -> forebay_epp::schedule::Pick {
    let request = PickRequest { takes_list: true, prompt, ..PickRequest::default() };
    match scheduler.pick(&request) {
        Ok(pick) => pick,
        Err(error) => unreachable!("the pool has endpoints: {error}"),
    }
}

/// Of one call, in the mean of [`PICKS`] calls.
fn nanoseconds(mut call: impl FnMut()) -> f64 {
    let began = Instant::now();
    (0..PICKS).for_each(|_| call());
    began.elapsed().as_nanos() as f64 / f64::from(PICKS)
}
