//! Names of objects.

use std::{fmt, str::FromStr};

/// Namespace and name of an object, displayed as `namespace/name`. The namespace of a cluster-scoped object is empty;
/// it is displayed as `name`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Empty for cluster-scoped objects.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl ObjectKey {
    /// A key of these parts.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

/// Parses `namespace/name`.
impl FromStr for ObjectKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('/') {
            Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => {
                Ok(Self::new(namespace, name))
            }
            _ => Err("must be NAMESPACE/NAME".into()),
        }
    }
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.namespace.is_empty() {
            f.write_str(&self.name)
        } else {
            write!(f, "{}/{}", self.namespace, self.name)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_a_namespace_and_a_name() {
        assert_eq!("a/b".parse(), Ok(ObjectKey::new("a", "b")));
        for invalid in ["", "a", "/", "a/", "/b", "a/b/c"] {
            assert_eq!(invalid.parse::<ObjectKey>(), Err("must be NAMESPACE/NAME".into()), "{invalid}");
        }
    }

    #[test]
    fn displays_namespace_only_if_present() {
        assert_eq!(ObjectKey::new("llm-d", "qwen").to_string(), "llm-d/qwen");
        assert_eq!(ObjectKey::new("", "forebay").to_string(), "forebay");
    }
}
