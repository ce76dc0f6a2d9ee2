//! The objects that a program needs from a cluster.

use std::{collections::BTreeSet, fmt};

use crate::{Kind, LabelSelector, ObjectKey, Snapshot};

/// Objects of one kind that are watched together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Selection {
    pub(super) kind: Kind,
    /// `None` for all namespaces.
    pub(super) namespace: Option<String>,
    pub(super) labels: Option<String>,
    pub(super) fields: Option<String>,
    /// Whether a snapshot may be made without them if the API server refuses to list them.
    pub(super) is_optional: bool,
}

impl Selection {
    /// The kind of the objects.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// `None` for all namespaces.
    pub fn namespace(&self) -> Option<&str> {
        self.namespace.as_deref()
    }

    /// All objects of the kind.
    pub fn all(kind: Kind) -> Self {
        Self { kind, namespace: None, labels: None, fields: None, is_optional: false }
    }

    /// All objects of the kind in a namespace.
    pub fn in_namespace(kind: Kind, namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::all(kind) }
    }

    /// One object. A role that names it with `resourceNames` is enough to watch it.
    pub fn named(kind: Kind, key: &ObjectKey) -> Self {
        let namespace = Some(key.namespace.clone()).filter(|namespace| !namespace.is_empty());
        Self { namespace, ..Self::all(kind) }.fields(format!("metadata.name={}", key.name))
    }

    /// Only objects with these labels: `name=value`, `name!=value`, `name`, comma-separated.
    #[must_use]
    pub fn labels(mut self, selector: impl Into<String>) -> Self {
        self.labels = Some(selector.into());
        self
    }

    /// Works without these objects if the role does not allow to list them. Otherwise the first snapshot
    /// is made after they are listed: a part that cannot read what it needs is not ready.
    #[must_use]
    pub fn optional(mut self) -> Self {
        self.is_optional = true;
        self
    }

    /// Only objects that the selector of a pool selects.
    #[must_use]
    pub fn selected_by(self, selector: &LabelSelector) -> Self {
        let pairs: Vec<String> =
            selector.match_labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
        self.labels(pairs.join(","))
    }

    /// Only objects whose fields have these values: `spec.nodeName=a`, comma-separated.
    #[must_use]
    pub fn fields(mut self, selector: impl Into<String>) -> Self {
        self.fields = Some(selector.into());
        self
    }
}

/// `pods of namespace llm-d with app=qwen`
impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.kind.names().plural)?;
        if let Some(namespace) = &self.namespace {
            write!(f, " of namespace {namespace}")?;
        }
        match (&self.labels, &self.fields) {
            (None, None) => Ok(()),
            (Some(one), None) | (None, Some(one)) => write!(f, " with {one}"),
            (Some(labels), Some(fields)) => write!(f, " with {labels} and {fields}"),
        }
    }
}

type Select = dyn Fn(&Snapshot) -> BTreeSet<Selection> + Send + Sync;

/// All selections that a program needs. They may depend on objects that are known already: on a pool's selector, or
/// on the Secrets that Gateways name.
pub struct Interest {
    select: Box<Select>,
    pub(super) statuses: BTreeSet<Kind>,
}

impl Interest {
    /// `select` is called for each snapshot. Objects of a selection that it does not return any more are dropped once
    /// all its selections of the same kind have been listed.
    pub fn new(select: impl Fn(&Snapshot) -> BTreeSet<Selection> + Send + Sync + 'static) -> Self {
        Self { select: Box::new(select), statuses: BTreeSet::new() }
    }

    /// The selections for a snapshot.
    pub fn selections(&self, snapshot: &Snapshot) -> BTreeSet<Selection> {
        (self.select)(snapshot)
    }

    /// Also keeps the statuses of these kinds, see [`super::Statuses`].
    #[must_use]
    pub fn with_statuses(mut self, kinds: impl IntoIterator<Item = Kind>) -> Self {
        self.statuses = kinds.into_iter().collect();
        self
    }
}

impl fmt::Debug for Interest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interest").field("statuses", &self.statuses).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn displays_selections() {
        let pool = ObjectKey::new("llm-d", "qwen");
        let shown = [
            Selection::all(Kind::HttpRoute),
            Selection::named(Kind::InferencePool, &pool),
            Selection::all(Kind::Pod).labels("app=qwen,tier=gpu").fields("status.phase!=Failed"),
            Selection::named(Kind::GatewayClass, &ObjectKey::new("", "forebay")),
        ]
        .map(|selection| selection.to_string());
        assert_eq!(
            shown,
            [
                "httproutes",
                "inferencepools of namespace llm-d with metadata.name=qwen",
                "pods with app=qwen,tier=gpu and status.phase!=Failed",
                "gatewayclasses with metadata.name=forebay",
            ]
        );
    }
}
