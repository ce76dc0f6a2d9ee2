//! kubectl's label selectors, without sets.

use std::{collections::BTreeMap, fmt, str::FromStr};

/// All of these must be true.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Labels(Vec<Requirement>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Requirement {
    Equals(String, String),
    /// Also true without the label, as in kubectl.
    Differs(String, String),
    Exists(String),
    Absent(String),
}

impl Labels {
    pub(crate) fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        let value = |name: &String| labels.and_then(|labels| labels.get(name));
        self.0.iter().all(|requirement| match requirement {
            Requirement::Equals(name, wanted) => value(name) == Some(wanted),
            Requirement::Differs(name, unwanted) => value(name) != Some(unwanted),
            Requirement::Exists(name) => value(name).is_some(),
            Requirement::Absent(name) => value(name).is_none(),
        })
    }
}

impl FromStr for Labels {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains('(') {
            return Err(
                "sets (in, notin) are not supported; use name=value, name!=value, name or !name".into()
            );
        }
        let all: Result<Vec<_>, _> = text.split(',').map(|part| requirement(part.trim())).collect();
        Ok(Self(all?))
    }
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let pair = |name: &str, value: &str| (name.trim().to_owned(), value.trim().to_owned());
    let (requirement, name) = if let Some((name, value)) = text.split_once("!=") {
        let (name, value) = pair(name, value);
        (Requirement::Differs(name.clone(), value), name)
    } else if let Some((name, value)) = text.split_once("==").or_else(|| text.split_once('=')) {
        let (name, value) = pair(name, value);
        (Requirement::Equals(name.clone(), value), name)
    } else if let Some(name) = text.strip_prefix('!') {
        (Requirement::Absent(name.trim().to_owned()), name.trim().to_owned())
    } else {
        (Requirement::Exists(text.to_owned()), text.to_owned())
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("{text:?} is not name=value, name!=value, name or !name"));
    }
    Ok(requirement)
}

impl fmt::Display for Labels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, requirement) in self.0.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "," })?;
            match requirement {
                Requirement::Equals(name, value) => write!(f, "{name}={value}"),
                Requirement::Differs(name, value) => write!(f, "{name}!={value}"),
                Requirement::Exists(name) => f.write_str(name),
                Requirement::Absent(name) => write!(f, "!{name}"),
            }?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn selects_as_kubectl() {
        let pod = BTreeMap::from([("app".to_owned(), "qwen".to_owned()), ("tier".into(), "a".into())]);
        let table = [
            ("app=qwen", true),
            ("app==qwen,tier=a", true),
            ("app=qwen,tier=b", false),
            ("app!=qwen", false),
            ("other!=x", true),
            ("tier", true),
            ("!tier", false),
            ("!other, app = qwen", true),
        ];
        for (text, expected) in table {
            let labels: Labels = text.parse().unwrap();
            assert_eq!(labels.matches(Some(&pod)), expected, "{text}");
            assert_eq!(labels.to_string().parse::<Labels>().unwrap(), labels);
        }
        assert!(!"app=qwen".parse::<Labels>().unwrap().matches(None));
        for text in ["", "=a", "app in (a,b)", "a b", "a=b,"] {
            assert!(text.parse::<Labels>().is_err(), "{text}");
        }
    }
}
