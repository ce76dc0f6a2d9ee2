//! What an interest needs of a cluster's RBAC.

/// A rule of a Role or ClusterRole, in its terms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    pub api_groups: &'static [&'static str],
    pub resources: &'static [&'static str],
    pub verbs: &'static [&'static str],
}

/// What it takes to follow objects.
pub const FOLLOW: &[&str] = &["list", "watch"];
