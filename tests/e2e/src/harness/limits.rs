//! The memory limits of the charts.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use serde_yaml_ng::Value;

use super::{Harness, Process};
use crate::pod::MemoryLimit;

/// Memory has settled after so many samples without growth.
const SETTLED_AFTER: u32 = 15;
const SAMPLE_INTERVAL: Duration = Duration::from_millis(100);

/// A process with the memory limit that its chart sets.
#[derive(Debug)]
pub struct Limited<'a> {
    pub process: &'a mut Process,
    pub limit: &'a MemoryLimit,
}

impl Limited<'_> {
    /// The largest resident memory of the process so far.
    pub fn peak_bytes(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let peak = status.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()
        });
        Ok(peak.context("no VmHWM in /proc/PID/status")? << 10)
    }

    /// Waits until the process needs no more memory than before, or has ended.
    pub async fn settle(&mut self) {
        let mut peak = 0;
        let mut unchanged = 0;
        while unchanged < SETTLED_AFTER && self.process.ended().is_ok_and(|status| status.is_none()) {
            let now = self.peak_bytes().unwrap_or(0);
            unchanged = if now > peak + (1 << 20) { 0 } else { unchanged + 1 };
            peak = peak.max(now);
            tokio::time::sleep(SAMPLE_INTERVAL).await;
        }
    }

    /// Fails if the process has ended or was killed.
    pub fn lives(&mut self) -> Result<()> {
        let kills = self.limit.kills()?;
        if let Some(status) = self.process.ended()? {
            anyhow::bail!(
                "{} ended with {status}, {kills} kills by the kernel:\n{}",
                self.process.name,
                self.process.log_tail()
            );
        }
        anyhow::ensure!(kills == 0, "the kernel killed {}", self.process.name);
        Ok(())
    }
}

impl Harness {
    /// The gateway, if memory is limited.
    pub fn limited_gateway(&mut self) -> Option<Limited<'_>> {
        Some(Limited { process: &mut self.gateway, limit: self.limits.get("forebay-gateway")? })
    }

    /// The first picker, if memory is limited.
    pub fn limited_picker(&mut self) -> Option<Limited<'_>> {
        Some(Limited { process: &mut self.epps.first_mut()?.process, limit: self.limits.get("forebay-epp")? })
    }

    /// The agent, if memory is limited.
    pub fn limited_agent(&mut self) -> Option<Limited<'_>> {
        Some(Limited { process: &mut self.agent, limit: self.limits.get("forebay-agent")? })
    }
}

/// `values.yaml` of a chart, and the names of the values above `resources`.
const AGENT: (&str, &[&str]) = ("charts/forebay/values.yaml", &["agent"]);
const GATEWAY: (&str, &[&str]) = ("charts/forebay/values.yaml", &["gateway"]);
const PICKER: (&str, &[&str]) = ("charts/inferencepool/values.yaml", &["inferenceExtension"]);

/// Limits by program.
pub(super) type Limits = BTreeMap<&'static str, MemoryLimit>;

pub(super) fn create() -> Result<Limits> {
    let create = |(program, chart)| Ok((program, MemoryLimit::new(of_chart(chart)?)?));
    [("forebay-agent", AGENT), ("forebay-gateway", GATEWAY), ("forebay-epp", PICKER)]
        .into_iter()
        .map(create)
        .collect()
}

fn of_chart((file, names): (&str, &[&str])) -> Result<u64> {
    let path = repository().join(file);
    let values = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let values: Value = serde_yaml_ng::from_str(&values)?;
    let names = names.iter().chain(&["resources", "limits", "memory"]);
    let limit = names.fold(&values, |value, name| &value[name]).as_str();
    let limit = limit.with_context(|| format!("{file} has no memory limit"))?;
    let (number, unit) = limit.split_at(limit.find(|it: char| !it.is_ascii_digit()).unwrap_or(limit.len()));
    let unit = match unit {
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        unit => anyhow::bail!("{file}: unknown unit `{unit}` of a memory limit"),
    };
    Ok(number.parse::<u64>()? * unit)
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
