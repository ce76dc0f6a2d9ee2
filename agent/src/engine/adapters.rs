//! Reads the labels of `vllm:lora_requests_info`: the adapters of the requests in an engine.

use super::labels::label;
use forebay_telemetry::v1::Adapters;

/// Maximum names kept per list.
const MAX_NAMES: usize = 64;
/// Maximum bytes of a name.
const MAX_NAME_BYTES: usize = 256;

pub(super) fn parse(labels: &str) -> Adapters {
    let mut adapters = Adapters {
        slots: label(labels, "max_lora").and_then(|it| it.parse().ok()).unwrap_or_default(),
        ..Adapters::default()
    };
    adapters.running = names(labels, "running_lora_adapters", &mut adapters.omitted);
    adapters.waiting = names(labels, "waiting_lora_adapters", &mut adapters.omitted);
    adapters
}

/// A list with commas. Names over a limit are counted.
fn names(labels: &str, list: &str, omitted: &mut u32) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    let all = label(labels, list).unwrap_or_default().split(',').map(str::trim).filter(|it| !it.is_empty());
    for name in all {
        if names.len() < MAX_NAMES && name.len() <= MAX_NAME_BYTES {
            names.push(name.to_owned());
        } else {
            *omitted = omitted.saturating_add(1);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists_of_names() {
        let labels = r#"max_lora="2",running_lora_adapters="sql, chat",waiting_lora_adapters="chat""#;
        let expected = Adapters {
            running: vec!["sql".into(), "chat".into()],
            waiting: vec!["chat".into()],
            slots: 2,
            omitted: 0,
        };
        assert_eq!(parse(labels), expected);
        let idle = r#"max_lora="2",running_lora_adapters="",waiting_lora_adapters="""#;
        assert_eq!(parse(idle), Adapters { slots: 2, ..Adapters::default() });
    }

    #[test]
    fn names_over_the_limits_are_counted() {
        let many: Vec<String> = (0..MAX_NAMES + 3).map(|n| n.to_string()).collect();
        let labels = format!(
            r#"max_lora="2",running_lora_adapters="{}",waiting_lora_adapters="{}""#,
            many.join(","),
            "x".repeat(MAX_NAME_BYTES + 1)
        );
        let adapters = parse(&labels);
        assert_eq!((adapters.running.len(), adapters.waiting.len(), adapters.omitted), (MAX_NAMES, 0, 4));
    }
}
