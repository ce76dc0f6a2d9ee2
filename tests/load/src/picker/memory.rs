//! Memory of the prefix index under prompts that never repeat.

use anyhow::Result;
use forebay_bench::{
    report::{Section, mib, say},
    usage::Tree,
};
use forebay_epp::schedule::{PickRequest, Scheduler};

use crate::fixture::{scheduler, unique_prompt};

/// Pods of the pool.
const ENDPOINTS: u16 = 64;

pub(crate) fn measure(prompts: u64) -> Result<Section> {
    let title = format!("Memory of this process, {ENDPOINTS} endpoints, unique prompts of 8,192 tokens");
    let mut section = Section::new(title);
    let scheduler = scheduler(ENDPOINTS);
    let this = Tree(std::process::id());
    let before = this.rss_bytes()?;
    let mut sent = 0;
    for until in [prompts / 100, prompts / 10, prompts] {
        say(&format!("{until} unique prompts"));
        send(&scheduler, sent..until);
        sent = until;
        let growth = this.rss_bytes()?.saturating_sub(before);
        section.line(format_args!("{until:>9} prompts: {:>6.1} MiB more than at the start", mib(growth)));
    }
    Ok(section)
}

fn send(scheduler: &Scheduler, numbers: std::ops::Range<u64>) {
    for n in numbers {
        let prompt = unique_prompt(n);
        let request = PickRequest { prompt: Some(&prompt), ..PickRequest::default() };
        drop(scheduler.pick(&request));
    }
}
