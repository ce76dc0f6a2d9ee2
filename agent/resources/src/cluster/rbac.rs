//! RBAC rules that programs need.

/// A rule of a Role or ClusterRole (`PolicyRule`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `apiGroups`; `""` is the core group.
    pub api_groups: &'static [&'static str],
    /// `resources`, plural names.
    pub resources: &'static [&'static str],
    /// `verbs`.
    pub verbs: &'static [&'static str],
}

/// Verbs for watching objects.
pub const FOLLOW: &[&str] = &["list", "watch"];
