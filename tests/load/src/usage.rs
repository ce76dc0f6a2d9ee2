//! CPU time and memory of processes, from procfs.

use std::{
    fs,
    iter::Sum,
    ops::{Add, Sub},
    time::Duration,
};

use anyhow::{Context as _, Result};

/// Clock ticks of `/proc` per second: `USER_HZ`, 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const KIB: u64 = 1024;

/// CPU time. The sum is exact. The kernel divides it into user and system time by sampling at each clock tick (4 ms on
/// many machines), so the parts are accurate only over hundreds of ticks.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cpu {
    /// Time in user mode.
    pub user: Duration,
    /// Time in kernel mode.
    pub system: Duration,
}

impl Cpu {
    pub fn total(self) -> Duration {
        self.user + self.system
    }
}

impl Add for Cpu {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { user: self.user + other.user, system: self.system + other.system }
    }
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self { user: self.user.saturating_sub(other.user), system: self.system.saturating_sub(other.system) }
    }
}

impl Sum for Cpu {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), Add::add)
    }
}

/// A process and all its descendants.
#[derive(Clone, Copy, Debug)]
pub struct Tree(pub u32);

impl Tree {
    /// CPU time of all processes that are still running.
    pub fn cpu(self) -> Result<Cpu> {
        self.members()?.into_iter().map(|pid| Ok(Stat::read(pid)?.cpu)).sum()
    }

    /// Resident memory now.
    pub fn rss_bytes(self) -> Result<u64> {
        self.sum_of_status("VmRSS:")
    }

    /// Peak resident memory since [`Tree::reset_peak`].
    pub fn peak_bytes(self) -> Result<u64> {
        self.sum_of_status("VmHWM:")
    }

    pub fn reset_peak(self) -> Result<()> {
        for pid in self.members()? {
            // proc(5): writing 5 resets the peak to the current value.
            fs::write(format!("/proc/{pid}/clear_refs"), "5").context("cannot reset the peak memory")?;
        }
        Ok(())
    }

    fn sum_of_status(self, field: &str) -> Result<u64> {
        let mut sum = 0;
        for pid in self.members()? {
            let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
            let line = status.lines().find_map(|line| line.strip_prefix(field));
            let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
            sum += kib.with_context(|| format!("/proc/{pid}/status has no {field}"))? * KIB;
        }
        Ok(sum)
    }

    fn members(self) -> Result<Vec<u32>> {
        let parents: Vec<(u32, u32)> = fs::read_dir("/proc")?
            .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
            // Skip processes that have ended in the meantime.
            .filter_map(|pid| Some((pid, Stat::read(pid).ok()?.parent)))
            .collect();
        let mut members = vec![self.0];
        let mut at = 0;
        while let Some(&member) = members.get(at) {
            members.extend(parents.iter().filter(|(_, parent)| *parent == member).map(|(pid, _)| pid));
            at += 1;
        }
        Ok(members)
    }
}

/// CPU time of all threads of this process.
pub fn of_this_process() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// CPU time of the calling thread.
pub fn of_this_thread() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0))
}

struct Stat {
    parent: u32,
    cpu: Cpu,
}

impl Stat {
    fn read(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))
            .with_context(|| format!("process {pid} has ended"))?;
        // The process name before it may contain blanks and brackets.
        let (_, fields) = text.rsplit_once(')').context("/proc/PID/stat has an unknown format")?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let number = |at: usize| -> Result<u64> {
            Ok(fields.get(at).context("/proc/PID/stat is too short")?.parse()?)
        };
        // proc(5) numbers the fields from 1; the first one here is 3 (state). ppid is 4, utime 14, stime 15.
        let time = |at: usize| -> Result<Duration> {
            Ok(Duration::from_secs_f64(number(at)? as f64 / TICKS_PER_SECOND))
        };
        Ok(Self { parent: number(1)?.try_into()?, cpu: Cpu { user: time(11)?, system: time(12)? } })
    }
}
