//! Messages of Envoy's rate limit service: `envoy/service/ratelimit/v3/rls.proto` and
//! `envoy/extensions/common/ratelimit/v3/ratelimit.proto`, without the members that are not used.

use std::time::Duration;

/// `RateLimitRequest`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Request {
    #[prost(string, tag = "1")]
    pub(super) domain: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) descriptors: Vec<Descriptor>,
}

/// `RateLimitDescriptor`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Descriptor {
    #[prost(message, repeated, tag = "1")]
    pub(super) entries: Vec<Entry>,
    /// What is added. Absent: 1. With 0 the limit is only read.
    #[prost(message, optional, tag = "3")]
    pub(super) hits: Option<Hits>,
}

/// `RateLimitDescriptor.Entry`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Entry {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

/// `google.protobuf.UInt64Value`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Hits {
    #[prost(uint64, tag = "1")]
    pub(super) value: u64,
}

/// `RateLimitResponse`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Response {
    #[prost(enumeration = "Code", tag = "1")]
    pub(super) overall_code: i32,
    /// One for each descriptor, in their order.
    #[prost(message, repeated, tag = "2")]
    pub(super) statuses: Vec<Status>,
}

/// `RateLimitResponse.Code`
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Code {
    Unknown = 0,
    Ok = 1,
    OverLimit = 2,
}

/// `RateLimitResponse.DescriptorStatus`
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Status {
    #[prost(enumeration = "Code", tag = "1")]
    pub(super) code: i32,
    /// Absent if the server has no limit for the descriptor.
    #[prost(message, optional, tag = "2")]
    pub(super) current_limit: Option<CurrentLimit>,
    #[prost(uint32, tag = "3")]
    pub(super) limit_remaining: u32,
    #[prost(message, optional, tag = "4")]
    pub(super) until_reset: Option<Span>,
}

/// `RateLimitResponse.RateLimit`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct CurrentLimit {
    #[prost(uint32, tag = "1")]
    pub(super) requests_per_unit: u32,
}

/// `google.protobuf.Duration`
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct Span {
    #[prost(int64, tag = "1")]
    seconds: i64,
    #[prost(int32, tag = "2")]
    nanos: i32,
}

impl Span {
    /// 0 if it is negative.
    pub(super) fn duration(self) -> Duration {
        let (seconds, nanos) = (u64::try_from(self.seconds), u32::try_from(self.nanos));
        Duration::new(seconds.unwrap_or(0), 0) + Duration::from_nanos(nanos.unwrap_or(0).into())
    }
}
