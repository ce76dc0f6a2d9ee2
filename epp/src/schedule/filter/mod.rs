//! Filters. Each is one file and one line in the [registry](crate::config).

mod prefix_cache_affinity;

pub use self::prefix_cache_affinity::PrefixCacheAffinity;
