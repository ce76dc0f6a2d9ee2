//! Suggestions for mistyped names.

/// The one of `names` that is most similar to `name`.
pub(crate) fn nearest<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names.into_iter().min_by_key(|candidate| distance(name, candidate))
}

/// [`nearest`], if it is similar enough to be a typo.
pub(crate) fn typo<'a>(name: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let limit = (name.chars().count() / 4).max(2);
    nearest(name, names).filter(|candidate| distance(name, candidate) <= limit)
}

/// Levenshtein distance, ignoring case.
fn distance(one: &str, other: &str) -> usize {
    let (one, other): (Vec<char>, Vec<char>) =
        (one.to_lowercase().chars().collect(), other.to_lowercase().chars().collect());
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (at, c) in one.iter().enumerate() {
        let mut diagonal = row[0];
        row[0] = at + 1;
        for (to, d) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(c != d);
            diagonal = row[to + 1];
            row[to + 1] = replaced.min(diagonal + 1).min(row[to] + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_typos_only() {
        let names = ["Qwen/Qwen3-0.6B", "TinyLlama/TinyLlama-1.1B-Chat-v1.0"];
        for name in ["qwen/qwen3-0.6b", "Qwen/Qwen3-0.6", "Qwen/Qwen-0.6B"] {
            assert_eq!(typo(name, names), Some(names[0]), "{name}");
        }
        assert_eq!(typo("mistral", names), None);
        assert_eq!(nearest("mistral", []), None);
        assert_eq!([distance("abc", "abd"), distance("", "ab"), distance("kitten", "sitting")], [1, 2, 3]);
    }
}
