//! What to do about a finding.

use std::fmt;

/// A fix. It is a command only if the command cannot break what works: it reads, it creates an object and fails if the
/// object exists, or it changes only what the finding has found not to work. Anything else is text that names the
/// candidates, because only the operator knows which one is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Advice {
    /// For a shell.
    Command(String),
    /// For people.
    Text(String),
}

impl Advice {
    pub(super) fn command(&self) -> Option<&str> {
        match self {
            Self::Command(command) => Some(command),
            Self::Text(_) => None,
        }
    }
}

impl fmt::Display for Advice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(text) | Self::Text(text) => f.write_str(text),
        }
    }
}

impl From<&str> for Advice {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Advice {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

/// `kubectl` with these arguments.
pub(super) fn kubectl(arguments: &[&str]) -> Advice {
    let words: Vec<String> = arguments.iter().map(|word| quote(word)).collect();
    Advice::Command(format!("kubectl {}", words.join(" ")))
}

/// A word of a shell command. Objects of a folder may have any text where a cluster has checked names.
pub(super) fn quote(word: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_one_word_of_the_shell_each() {
        let command = kubectl(&["get", "pod", "it's; rm -rf $HOME", "-l", "a=b"]);
        assert_eq!(command.command(), Some(r"kubectl get pod 'it'\''s; rm -rf $HOME' -l a=b"));
        assert_eq!((quote(""), quote("a b").as_str()), ("''".to_owned(), "'a b'"));
    }
}
