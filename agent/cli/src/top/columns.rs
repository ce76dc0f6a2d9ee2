//! The columns of the table of pods.

use std::{cmp::Ordering, time::Duration};

use crate::{
    fleet::Row,
    format::{self, count, latency, or_dash, percent, short, sparkline},
};

/// A column.
#[derive(Clone, Copy, Debug)]
pub(super) struct Column {
    pub(super) id: Id,
    pub(super) header: &'static str,
    /// Width, or the least width of a column that grows.
    pub(super) width: usize,
    /// Columns with the lowest numbers are shown where not all fit.
    pub(super) priority: u8,
    pub(super) help: &'static str,
    text: fn(&Row) -> String,
    order: fn(&Row) -> Key,
    is_stale: fn(&Row) -> bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Id {
    Pod,
    Node,
    Model,
    Pool,
    InFlight,
    Load,
    Waiting,
    Oldest,
    TtftP50,
    TtftP99,
    TtftTrend,
    Itl,
    Tokens,
    Queue,
    Kv,
    PrefixHits,
    Gpu,
    GpuMemory,
    Power,
    Clock,
    Throttled,
    Age,
    Verdict,
}

/// A value by which rows are sorted.
enum Key {
    Number(Option<f64>),
    Text(String),
}

/// Width of a sparkline.
const TREND: usize = 12;

const fn column(id: Id, header: &'static str, width: usize, priority: u8) -> Column {
    Column {
        id,
        header,
        width,
        priority,
        help: "",
        text: |_| String::new(),
        order: |_| Key::Number(None),
        is_stale: |_| false,
    }
}

macro_rules! columns {
    ($($id:ident $header:literal $width:literal $priority:literal $help:literal $text:expr, $order:expr, $stale:expr;)*) => {
        &[$(Column {
            help: $help,
            text: $text,
            order: $order,
            is_stale: $stale,
            ..column(Id::$id, $header, $width, $priority)
        }),*]
    };
}

/// All columns, from left to right.
#[rustfmt::skip]
pub(super) const COLUMNS: &[Column] = columns! {
    Pod "POD" 20 0 "name, with the namespace or the port where there are several" |row| row.pod.clone(), |row| Key::Text(row.pod.clone()), |row| row.is_lost;
    Node "NODE" 12 18 "node" |row| name(&row.node), |row| Key::Text(row.node.clone()), |row| row.is_lost;
    Model "MODEL" 18 19 "base model that the engine serves" |row| or_dash(row.model.as_ref()), |row| Key::Text(or_dash(row.model.as_ref())), Row::is_engine_stale;
    Pool "POOL" 12 20 "InferencePools of the pod, from a cluster or --resources" |row| name(&row.pools.join(",")), |row| Key::Text(row.pools.join(",")), |_| false;
    InFlight "IN-FLIGHT" 9 2 "requests in flight, counted in the kernel" |row| or_dash(row.in_flight), |row| integer(row.in_flight), Row::is_kernel_stale;
    Load "LOAD" 12 10 "requests in flight over the last seconds" |row| sparkline(&row.in_flight_history, TREND), |row| integer(row.in_flight), Row::is_kernel_stale;
    Waiting "WAITING" 7 11 "of these, without content of the response yet" |row| or_dash(row.waiting), |row| integer(row.waiting), Row::is_kernel_stale;
    Oldest "OLDEST" 6 5 "age of the oldest request in flight" |row| or_dash(row.oldest.map(short)), |row| duration(row.oldest), Row::is_kernel_stale;
    TtftP50 "TTFT-P50" 8 9 "time to first token, median of about a minute" |row| latency(row.ttft, |it| it.p50_ns), |row| integer(row.ttft.map(|it| it.p50_ns)), Row::is_kernel_stale;
    TtftP99 "TTFT-P99" 8 4 "time to first token, 99th percentile" |row| latency(row.ttft, |it| it.p99_ns), |row| integer(row.ttft.map(|it| it.p99_ns)), Row::is_kernel_stale;
    TtftTrend "TTFT-TREND" 12 16 "TTFT-P99 over the last seconds" |row| sparkline(&row.ttft_history, TREND), |row| integer(row.ttft.map(|it| it.p99_ns)), Row::is_kernel_stale;
    Itl "ITL-P50" 7 12 "time between two tokens, median" |row| latency(row.itl, |it| it.p50_ns), |row| integer(row.itl.map(|it| it.p50_ns)), Row::is_kernel_stale;
    Tokens "TOK/S" 5 6 "generated tokens per second" |row| or_dash(row.tokens_per_second.map(count)), |row| Key::Number(row.tokens_per_second), Row::is_engine_stale;
    Queue "QUEUE" 5 8 "requests waiting in the engine (its own number)" |row| or_dash(row.queue), |row| integer(row.queue), Row::is_engine_stale;
    Kv "KV" 4 7 "use of the engine's KV cache" |row| or_dash(row.kv_usage.map(percent)), |row| Key::Number(row.kv_usage), Row::is_engine_stale;
    PrefixHits "PREFIX" 6 13 "prompt tokens found in the prefix cache, of the last minute" |row| or_dash(row.prefix_hits.map(percent)), |row| Key::Number(row.prefix_hits), Row::is_engine_stale;
    Gpu "GPU" 4 8 "mean utilisation of the pod's GPUs" |row| or_dash(row.gpu.utilization.map(percent)), |row| Key::Number(row.gpu.utilization), |row| row.gpu.is_stale;
    GpuMemory "GPU-MEM" 7 14 "memory in use on these GPUs" |row| or_dash(row.gpu.memory.map(|(used, total)| percent(used as f64 / total as f64))), |row| Key::Number(row.gpu.memory.map(|(used, total)| used as f64 / total as f64)), |row| row.gpu.is_stale;
    Power "POWER" 6 14 "power of these GPUs" |row| or_dash(row.gpu.power_mw.map(|milliwatts| format!("{}W", milliwatts / 1000))), |row| integer(row.gpu.power_mw), |row| row.gpu.is_stale;
    Clock "CLOCK" 7 15 "clock of the slowest of these GPUs" |row| or_dash(row.gpu.clock_mhz.map(|mhz| format!("{mhz}MHz"))), |row| integer(row.gpu.clock_mhz.map(u64::from)), |row| row.gpu.is_stale;
    Throttled "THROTTLED" 20 17 "why the clocks are throttled" |row| name(&row.gpu.throttled.join(",")), |row| Key::Text(row.gpu.throttled.join(",")), |row| row.gpu.is_stale;
    Age "AGE" 4 3 "age of the older of the kernel's and the engine's values" |row| or_dash(row.age().map(format::age)), |row| duration(row.age()), Row::has_stale;
    Verdict "VERDICT" 14 1 "whether it works, and why not" |row| row.verdict.text.clone(), |row| Key::Number(Some(row.verdict.level as u8 as f64)), |row| row.is_lost;
};

fn name(text: &str) -> String {
    or_dash(Some(text).filter(|text| !text.is_empty()))
}

fn integer(value: Option<u64>) -> Key {
    Key::Number(value.map(|value| value as f64))
}

fn duration(value: Option<Duration>) -> Key {
    Key::Number(value.map(|value| value.as_secs_f64()))
}

impl Id {
    pub(super) fn column(self) -> &'static Column {
        // The table has each of them: see the test.
        COLUMNS.iter().find(|column| column.id == self).unwrap_or(&COLUMNS[0])
    }
}

impl Column {
    pub(super) fn text(&self, row: &Row) -> String {
        (self.text)(row)
    }

    pub(super) fn is_stale(&self, row: &Row) -> bool {
        (self.is_stale)(row)
    }

    /// Text is aligned to the left, numbers to the right.
    pub(super) fn is_text(&self) -> bool {
        matches!(self.id, Id::Pod | Id::Node | Id::Model | Id::Pool | Id::Throttled | Id::Verdict)
    }

    /// Which of two rows is first. Unknown is last, in both directions.
    pub(super) fn compare(&self, one: &Row, other: &Row, is_descending: bool) -> Ordering {
        let direct = |order: Ordering| if is_descending { order.reverse() } else { order };
        match ((self.order)(one), (self.order)(other)) {
            (Key::Number(Some(one)), Key::Number(Some(other))) => direct(one.total_cmp(&other)),
            (Key::Number(one), Key::Number(other)) => other.is_some().cmp(&one.is_some()),
            (Key::Text(one), Key::Text(other)) => direct(one.cmp(&other)),
            _ => Ordering::Equal,
        }
    }
}

/// Columns that grow to their longest text, the most important first.
const GROWING: [Id; 6] = [Id::Verdict, Id::Pod, Id::Model, Id::Node, Id::Pool, Id::Throttled];
/// Columns of this priority and less get their space before others grow.
const IMPORTANT: u8 = 7;
/// A mark for old values, and a space to the next column.
const AROUND: usize = 2;

/// The columns that fit, with their widths. A column is shown completely or not at all. The most important ones get their
/// space first, then pods and verdicts grow, then the other columns follow.
pub(super) fn fit(width: usize, rows: &[Row]) -> Vec<(&'static Column, usize)> {
    let longest = |column: &Column| rows.iter().map(|row| column.text(row).chars().count()).max();
    let mut by_priority: Vec<&Column> = COLUMNS.iter().collect();
    by_priority.sort_by_key(|column| column.priority);
    // There is no space after the last column.
    let mut left = width + 1;
    let mut widths: Vec<(Id, usize)> = Vec::new();
    let (important, others): (Vec<&Column>, Vec<&Column>) =
        by_priority.into_iter().partition(|column| column.priority <= IMPORTANT);
    for (columns, growing) in [(important, &GROWING[..2]), (others, &GROWING[2..])] {
        for column in columns {
            let width = match column.id {
                // Names are often shorter.
                Id::Pod => longest(column).unwrap_or(column.width).clamp(column.header.len(), column.width),
                _ => column.width,
            };
            if width + AROUND <= left {
                left -= width + AROUND;
                widths.push((column.id, width));
            }
        }
        for id in growing {
            if let Some((_, width)) = widths.iter_mut().find(|(known, _)| known == id) {
                let more = longest(id.column()).unwrap_or_default().saturating_sub(*width).min(left);
                *width += more;
                left -= more;
            }
        }
    }
    let width = |id| widths.iter().find(|(known, _)| *known == id).map(|(_, width)| *width);
    COLUMNS.iter().filter_map(|column| Some((column, width(column.id)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_or_are_dropped() {
        for width in 1..300 {
            let fitted = fit(width, &[]);
            let used: usize = fitted.iter().map(|(_, width)| width + 2).sum();
            assert!(used <= width + 1, "{width}: {used}");
        }
        assert_eq!(fit(400, &[]).len(), COLUMNS.len());
        let headers = |width| fit(width, &[]).iter().map(|(column, _)| column.header).collect::<Vec<_>>();
        assert_eq!(headers(80), ["POD", "IN-FLIGHT", "OLDEST", "TTFT-P99", "TOK/S", "AGE", "VERDICT"]);
        assert_eq!(headers(25), ["POD"]);
    }

    #[test]
    fn an_age_is_old_if_the_older_source_is() {
        let mut row = crate::fleet::scene::scene().fleet().rows.swap_remove(1);
        let is_stale = |id: Id, row: &Row| id.column().is_stale(row);
        assert!(!is_stale(Id::Age, &row));
        row.engine_age = Some(Duration::from_secs(60));
        assert!(is_stale(Id::Age, &row) && is_stale(Id::Queue, &row) && !is_stale(Id::InFlight, &row));
        assert_eq!(Id::Age.column().text(&row), "60s");
        row.engine_age = None;
        assert!(!is_stale(Id::Age, &row), "there is no second source");
    }

    #[test]
    fn headers_fit_and_are_unique() {
        for (at, column) in COLUMNS.iter().enumerate() {
            assert!(column.header.len() <= column.width && !column.help.is_empty(), "{}", column.header);
            assert!(
                COLUMNS[at + 1..].iter().all(|other| other.id != column.id && other.header != column.header)
            );
        }
    }
}
