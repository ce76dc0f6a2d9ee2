//! Filters. Each is one file and one line in the [registry](crate::config).

mod by_label;
mod endpoint_attribute;
mod header_based_testing;
mod label_selector;
mod prefix_cache_affinity;
mod session_affinity;
mod utilization;

pub use self::{
    by_label::ByLabel, endpoint_attribute::EndpointAttributeFilter, header_based_testing::HeaderBasedTesting,
    label_selector::LabelSelector, prefix_cache_affinity::PrefixCacheAffinity, utilization::Utilization,
};
