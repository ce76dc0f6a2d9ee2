//! The ext_proc messages and services, generated from `proto/`, in one flat module.

#[allow(
    missing_debug_implementations,
    missing_docs,
    unreachable_pub,
    unused_qualifications,
    clippy::large_enum_variant,
    reason = "generated code"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/ext_proc.rs"));
}

pub use generated::envoy::{
    config::core::v3::{
        HeaderMap, HeaderValue, HeaderValueOption, Metadata, header_value_option::HeaderAppendAction,
    },
    extensions::filters::http::ext_proc::v3::{
        ProcessingMode,
        processing_mode::{BodySendMode, HeaderSendMode},
    },
    service::ext_proc::v3::*,
    r#type::v3::HttpStatus,
};
pub use generated::forebay::ext_proc::v1::Prompt;
pub use prost_types::{Any, ListValue, Struct, Value, value::Kind};
