//! Lines of requests, for people and for programs.

use std::{
    io::IsTerminal as _,
    time::{Duration, SystemTime},
};

use forebay_telemetry::{
    requests::ReceivedRequests,
    v1::{EndedRequest, EndpointKey},
};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::{
    format::{fit_end, or_dash, short},
    json::API_VERSION,
};

/// Width of all columns but POD, with the spaces between them.
const OTHER_COLUMNS: usize = 60;
/// Bounds of the width of POD in a terminal.
const POD_WIDTHS: std::ops::RangeInclusive<usize> = 10..=63;
/// Width of POD outside of a terminal, where longer names are not cut.
const POD_WIDTH: usize = 32;

/// A request, and where and when it ended.
#[derive(Debug)]
pub(super) struct Row<'a> {
    pub(super) node: &'a str,
    pub(super) ended_at: OffsetDateTime,
    pub(super) request: &'a EndedRequest,
}

impl<'a> Row<'a> {
    /// A request of a frame. `now`: at this machine, which the agent's clock is compared with.
    pub(super) fn new(
        node: &'a str,
        received: &ReceivedRequests,
        request: &'a EndedRequest,
        now: SystemTime,
    ) -> Self {
        let age = received.at.elapsed() + received.age_at_sending(request.ended_boottime_ns);
        let ended_at = OffsetDateTime::from(now.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH));
        Self { node, ended_at, request }
    }
}

/// What was lost since the last line about it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) over_rate: u64,
    pub(super) unread: u64,
    /// `None`: not known.
    pub(super) kernel_events: Option<u64>,
    /// The stream ended, and a later one began.
    pub(super) interrupted: bool,
}

/// Columns of fixed width: a line is printed before the next request is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Table {
    pod_width: usize,
    cuts_pods: bool,
}

impl Table {
    /// As wide as the terminal.
    pub(super) fn for_stdout() -> Self {
        let columns = std::io::stdout().is_terminal().then(ratatui::crossterm::terminal::size);
        match columns {
            Some(Ok((columns, _rows))) => Self::with_width(columns.into()),
            _ => Self { pod_width: POD_WIDTH, cuts_pods: false },
        }
    }

    pub(super) fn with_width(columns: usize) -> Self {
        let pod_width = columns.saturating_sub(OTHER_COLUMNS).clamp(*POD_WIDTHS.start(), *POD_WIDTHS.end());
        Self { pod_width, cuts_pods: true }
    }

    pub(super) fn header(self) -> String {
        self.line(["TIME", "POD", "STATUS", "TTFT", "DURATION", "BYTES", "CHUNKS"].map(str::to_owned))
    }

    pub(super) fn row(self, row: &Row<'_>) -> String {
        let request = row.request;
        let pod = request.key.as_ref().map(|key| key.pod.clone());
        let duration = |nanoseconds: Option<u64>| or_dash(nanoseconds.map(Duration::from_nanos).map(short));
        self.line([
            clock(row.ended_at),
            or_dash(pod),
            if request.aborted { "aborted".into() } else { or_dash(request.status) },
            duration(request.ttft_ns),
            duration(request.duration_ns),
            or_dash(request.response_bytes),
            or_dash(request.response_chunks),
        ])
    }

    fn line(self, [time, pod, status, ttft, duration, bytes, chunks]: [String; 7]) -> String {
        let width = self.pod_width;
        let pod = if self.cuts_pods { fit_end(&pod, width) } else { pod };
        let line = format!(
            "{time:<12}  {pod:<width$}  {status:<7}  {ttft:>6}  {duration:>8}  {bytes:>9}  {chunks:>6}"
        );
        format!("{}\n", line.trim_end())
    }
}

/// The time of day, with milliseconds.
fn clock(at: OffsetDateTime) -> String {
    let (hour, minute, second, millisecond) = at.to_hms_milli();
    format!("{hour:02}:{minute:02}:{second:02}.{millisecond:03}")
}

/// One line of JSON.
pub(super) fn document(row: &Row<'_>) -> String {
    line(&value(row))
}

/// One JSON document.
pub(super) fn value(row: &Row<'_>) -> Value {
    let request = row.request;
    let EndpointKey { namespace, pod, uid, ip, port } = request.key.clone().unwrap_or_default();
    let seconds = |nanoseconds: Option<u64>| nanoseconds.map(|it| Duration::from_nanos(it).as_secs_f64());
    json!({
        "apiVersion": API_VERSION,
        "kind": "Request",
        "time": format!("{}T{}Z", row.ended_at.date(), clock(row.ended_at)),
        "node": row.node,
        "namespace": namespace,
        "pod": pod,
        "uid": uid,
        "ip": ip,
        "port": port,
        "status": request.status,
        "aborted": request.aborted,
        "ttftSeconds": seconds(request.ttft_ns),
        "durationSeconds": seconds(request.duration_ns),
        "responseBytes": request.response_bytes,
        "responseChunks": request.response_chunks,
    })
}

impl Lost {
    pub(super) fn is_nothing(self) -> bool {
        self.over_rate == 0 && self.unread == 0 && self.kernel_events.unwrap_or(0) == 0 && !self.interrupted
    }

    /// One line of JSON.
    pub(super) fn document(self, node: &str) -> String {
        line(&json!({
            "apiVersion": API_VERSION,
            "kind": "RequestsDropped",
            "node": node,
            "overRate": self.over_rate,
            "unread": self.unread,
            "kernelEvents": self.kernel_events,
            "interrupted": self.interrupted,
        }))
    }

    /// One sentence.
    pub(super) fn sentence(self, rate: u32) -> String {
        let mut parts = Vec::new();
        if self.over_rate != 0 {
            parts.push(format!("{} over --rate {rate}", self.over_rate));
        }
        if self.unread != 0 {
            parts.push(format!("{} because this output was read too slowly", self.unread));
        }
        if let Some(events) = self.kernel_events.filter(|events| *events != 0) {
            parts.push(format!("up to {events} because the kernel's event ring was full"));
        }
        if self.interrupted {
            parts.push("an unknown number while there was no connection".into());
        }
        format!("requests not shown: {}", parts.join(", "))
    }
}

fn line(document: &Value) -> String {
    format!("{document}\n")
}
