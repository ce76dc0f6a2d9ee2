//! Durations with exemplars: the newest traced request of each bucket. A request that is not traced costs no more than in a
//! histogram without them, and allocates nothing.

use std::fmt::{self, Write as _};
use std::time::{Duration, SystemTime};

use opentelemetry::trace::{SpanContext, SpanId, TraceId};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::exemplar::HistogramWithExemplars;

/// A histogram of durations. It keeps at most one exemplar per bucket.
pub(crate) type Durations = HistogramWithExemplars<TraceLabels>;

/// The labels of an exemplar.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub(crate) struct TraceLabels {
    trace_id: Id<TraceId>,
    span_id: Id<SpanId>,
}

/// As hexadecimal digits.
#[derive(Clone, Copy, Debug, Hash, PartialEq, Eq)]
struct Id<T>(T);

impl<T: fmt::Display> EncodeLabelValue for Id<T> {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        write!(encoder, "{}", self.0)
    }
}

impl TraceLabels {
    /// `None` if the request is not sampled: its trace cannot be looked at.
    pub(super) fn of(span: &SpanContext) -> Option<Self> {
        let labels = || Self { trace_id: Id(span.trace_id()), span_id: Id(span.span_id()) };
        span.is_sampled().then(labels)
    }
}

/// Records a duration, with the request as exemplar if it is traced.
pub(crate) fn observe(durations: &Durations, duration: Duration, trace: Option<TraceLabels>) {
    durations.observe(duration.as_secs_f64(), trace, trace.map(|_| SystemTime::now()));
}
