//! Values of a Helm chart.

use std::collections::HashMap;
use std::fmt::Write as _;

use serde_yaml_ng::{Mapping, Value};

/// A table of all values in a `values.yaml`: name, default, and the comment above it.
///
/// # Panics
/// If the text is not a YAML mapping.
pub fn chart_values(yaml: &str) -> String {
    let values: Mapping = serde_yaml_ng::from_str(yaml).expect("values.yaml is a mapping");
    let mut text = String::from("| value | default | meaning |\n|---|---|---|\n");
    write_rows(&values, "", &comments(yaml), &mut text);
    text
}

/// The comment of each key that has a line of its own. Keys in braces have none.
fn comments(yaml: &str) -> HashMap<String, String> {
    let mut comments = HashMap::new();
    // The keys above the current line, with their indentation.
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut comment = Vec::new();
    for line in yaml.lines() {
        let content = line.trim_start();
        let indent = line.len() - content.len();
        if let Some(text) = content.strip_prefix('#') {
            comment.push(text.trim());
            continue;
        }
        let lines = std::mem::take(&mut comment);
        let Some((key, _)) = content.split_once(':').filter(|_| !content.starts_with('-')) else { continue };
        while path.last().is_some_and(|(of_parent, _)| *of_parent >= indent) {
            path.pop();
        }
        path.push((indent, key));
        let keys: Vec<&str> = path.iter().map(|(_, key)| *key).collect();
        comments.insert(keys.join("."), lines.join(" "));
    }
    comments
}

fn write_rows(values: &Mapping, parent: &str, comments: &HashMap<String, String>, text: &mut String) {
    for (key, value) in values {
        let key = key.as_str().expect("keys are texts");
        let name = if parent.is_empty() { key.to_owned() } else { format!("{parent}.{key}") };
        let comment = comments.get(&name).map_or("", String::as_str).replace('|', "\\|");
        let is_group = |children: &Mapping| {
            children
                .keys()
                .any(|child| comments.contains_key(&format!("{name}.{}", child.as_str().unwrap_or("-"))))
        };
        match value {
            Value::Mapping(children) if is_group(children) => {
                if !comment.is_empty() {
                    let _ = writeln!(text, "| `{name}` | | {comment} |");
                }
                write_rows(children, &name, comments, text);
            }
            value => {
                let default = serde_json::to_string(value).expect("a YAML value is a JSON value");
                let _ = writeln!(text, "| `{name}` | `{}` | {comment} |", default.replace('|', "\\|"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_value_has_its_default_and_its_comment() {
        let yaml = "\
# A group
# of two.
group:
  one: 1
  # Either a | or b.
  two: \"\"

  deep:
    # Peers.
    list:
      - name: x
        y: 1
free: {a: {b: 2}}
";
        let expected = "\
| value | default | meaning |
|---|---|---|
| `group` | | A group of two. |
| `group.one` | `1` |  |
| `group.two` | `\"\"` | Either a \\| or b. |
| `group.deep.list` | `[{\"name\":\"x\",\"y\":1}]` | Peers. |
| `free` | `{\"a\":{\"b\":2}}` |  |
";
        assert_eq!(chart_values(yaml), expected);
    }
}
