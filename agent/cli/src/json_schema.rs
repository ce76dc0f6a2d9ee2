//! `forebay schema`: the JSON Schema of what `-o json` prints.
//!
//! Signals come from the tables of which the documents are made. Each document has exactly the members of its kind, so a member
//! that is added without the schema fails the tests that validate documents.

use std::io::{self, Write as _};

use clap::ValueEnum as _;
use forebay_telemetry::signals::{LATENCIES, SIGNALS, Source};
use forebay_usage::Dimension;
use serde_json::{Map, Value, json};

use crate::{json::API_VERSION, usage};

/// Prints the schema.
pub(crate) fn print() -> anyhow::Result<()> {
    Ok(io::stdout().lock().write_all(text().as_bytes())?)
}

fn text() -> String {
    format!("{:#}\n", schema())
}

/// JSON Schema 2020-12: one of all kinds.
pub(crate) fn schema() -> Value {
    let kinds = [
        list("NodeList", node()),
        list("PodList", pod()),
        list("GpuList", gpu()),
        request(),
        requests_dropped(),
        list("FindingList", finding()),
        explanation(),
        list("ApiKeyList", object(api_key())),
        document("ApiKey", api_key()),
        usage_report(),
    ];
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": format!("Documents of the forebay command line, {API_VERSION}"),
        "description": "A value that is not known is null. Numbers have their unit in the name.",
        "oneOf": kinds,
    })
}

type Members = Vec<(&'static str, Value)>;

/// An object with exactly these members.
fn object(members: Members) -> Value {
    let names: Vec<&str> = members.iter().map(|(name, _)| *name).collect();
    let properties: Map<String, Value> =
        members.iter().map(|(name, schema)| ((*name).to_owned(), schema.clone())).collect();
    json!({ "type": "object", "properties": properties, "required": names, "additionalProperties": false })
}

fn document(kind: &str, mut members: Members) -> Value {
    members.insert(0, ("apiVersion", json!({ "const": API_VERSION })));
    members.insert(1, ("kind", json!({ "const": kind })));
    let mut document = object(members);
    document["title"] = json!(kind);
    document
}

fn list(kind: &str, item: Value) -> Value {
    document(kind, vec![("items", array(item))])
}

fn array(item: Value) -> Value {
    json!({ "type": "array", "items": item })
}

fn of(r#type: &str) -> Value {
    json!({ "type": r#type })
}

fn or_null(r#type: &str) -> Value {
    json!({ "type": [r#type, "null"] })
}

fn object_or_null(mut object: Value) -> Value {
    object["type"] = json!(["object", "null"]);
    object
}

fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = json!(description);
    schema
}

fn node() -> Value {
    object(vec![
        ("name", described(or_null("string"), "Node. Null until its agent has answered.")),
        ("agent", described(of("string"), "Pod or address of the agent.")),
        ("agentVersion", or_null("string")),
        ("endpoints", or_null("integer")),
        ("gpus", or_null("integer")),
        ("kernelOff", described(or_null("string"), "Why nothing is measured in the kernel.")),
        ("gpuOff", described(or_null("string"), "Why no GPUs are measured.")),
    ])
}

fn pod() -> Value {
    object(vec![
        ("namespace", of("string")),
        ("name", of("string")),
        ("uid", of("string")),
        ("node", of("string")),
        ("ip", of("string")),
        ("port", of("integer")),
        ("kernel", described(object_or_null(signals(Source::Kernel)), "Measured in the kernel.")),
        ("kernelOff", described(or_null("string"), "Why it is not measured in the kernel.")),
        ("engine", described(object_or_null(signals(Source::Engine)), "Of the engine's own metrics.")),
        ("engineOff", described(or_null("string"), "Why the engine's metrics are not known.")),
        ("liveness", object_or_null(liveness())),
        ("gpuUuids", array(of("string"))),
    ])
}

fn liveness() -> Value {
    object(vec![
        ("state", of("string")),
        ("reason", or_null("string")),
        ("message", or_null("string")),
        ("seconds", described(or_null("number"), "Time in this state.")),
    ])
}

fn signals(source: Source) -> Value {
    let mut members: Members = vec![("ageSeconds", described(or_null("number"), "Age of the values."))];
    for signal in SIGNALS.iter().filter(|signal| signal.source == source) {
        let r#type = json!({ "type": ["number", "boolean", "null"] });
        let help = signal.metric.map(|metric| metric.help);
        members.push((signal.json, help.map_or(r#type.clone(), |help| described(r#type, help))));
    }
    match source {
        Source::Kernel => {
            let latency = |it: &forebay_telemetry::signals::LatencySignal| {
                (it.json, described(object_or_null(latency()), it.help))
            };
            members.extend(LATENCIES.iter().map(latency));
        }
        Source::Engine => {
            let model = object(vec![("id", of("string")), ("parent", or_null("string"))]);
            members.push(("models", array(model)));
        }
    }
    object(members)
}

fn latency() -> Value {
    let seconds = ["sumSeconds", "p50Seconds", "p95Seconds", "p99Seconds"];
    let mut members: Members = vec![("count", of("integer"))];
    members.extend(seconds.map(|name| (name, of("number"))));
    let bucket = object(vec![
        ("fromSeconds", of("number")),
        ("toSeconds", of("number")),
        ("count", described(of("integer"), "Durations of at least `fromSeconds`, below `toSeconds`.")),
    ]);
    let mut buckets = described(array(bucket), "Ascending. Null: the agent does not send them.");
    buckets["type"] = json!(["array", "null"]);
    members.push(("buckets", buckets));
    object(members)
}

fn gpu() -> Value {
    let numbers = [
        "utilizationPercent",
        "memoryUsedBytes",
        "memoryTotalBytes",
        "temperatureCelsius",
        "powerMilliwatts",
        "powerLimitMilliwatts",
        "smClockMhz",
        "smClockMaxMhz",
    ];
    let mut members: Members = vec![("index", of("integer")), ("uuid", of("string")), ("name", of("string"))];
    members.extend(numbers.map(|name| (name, or_null("number"))));
    members.extend([
        ("throttleReasons", array(of("string"))),
        ("xidErrors", or_null("integer")),
        ("lastXid", or_null("integer")),
        ("node", of("string")),
        ("ageSeconds", or_null("number")),
        ("health", json!({ "enum": ["ok", "degraded", "lost", null] })),
        ("healthReason", or_null("string")),
    ]);
    object(members)
}

fn request() -> Value {
    document(
        "Request",
        vec![
            ("time", described(json!({ "type": "string", "format": "date-time" }), "End of the request.")),
            ("node", of("string")),
            ("namespace", of("string")),
            ("pod", of("string")),
            ("uid", of("string")),
            ("ip", of("string")),
            ("port", of("integer")),
            ("status", or_null("integer")),
            ("aborted", of("boolean")),
            ("ttftSeconds", or_null("number")),
            ("durationSeconds", or_null("number")),
            ("responseBytes", or_null("integer")),
            ("responseChunks", or_null("integer")),
        ],
    )
}

fn requests_dropped() -> Value {
    document(
        "RequestsDropped",
        vec![
            ("node", of("string")),
            ("overRate", described(of("integer"), "Above --rate.")),
            ("unread", described(of("integer"), "The output was read too slowly.")),
            ("kernelEvents", described(or_null("integer"), "The kernel's ring of events was full.")),
            ("interrupted", described(of("boolean"), "The stream of the agent was interrupted.")),
        ],
    )
}

fn finding() -> Value {
    object(vec![
        ("level", of("string")),
        ("kind", of("string")),
        ("namespace", or_null("string")),
        ("name", or_null("string")),
        ("reason", described(or_null("string"), "Of the condition.")),
        ("message", of("string")),
        ("fix", or_null("string")),
        ("command", described(or_null("string"), "Only where it cannot break what works.")),
    ])
}

fn explanation() -> Value {
    document(
        "Explanation",
        vec![
            ("status", of("integer")),
            ("error", or_null("string")),
            ("explanation", described(of("object"), "As the gateway sent it.")),
        ],
    )
}

fn api_key() -> Members {
    let text = ["owner", "groups", "models", "createdAt", "expiresAt"];
    let mut members: Members = vec![("name", of("string")), ("secret", of("string"))];
    // Whatever is in the entry's metadata.
    members.extend(text.map(|name| (name, json!({}))));
    members.extend([("state", of("string")), ("problem", or_null("string")), ("metadata", of("object"))]);
    members
}

fn usage_report() -> Value {
    let time = || json!({ "type": "string", "format": "date-time" });
    let dimensions: Vec<String> =
        Dimension::value_variants().iter().map(|by| usage::json_name(by.name())).collect();
    let mut item = object(vec![
        ("durationSeconds", described(of("number"), "Sum over the requests.")),
        ("cost", described(or_null("number"), "Null without --prices, and if no model has a price.")),
        ("costIsComplete", described(or_null("boolean"), "Every model with tokens has a price.")),
    ]);
    for name in usage::COUNTS.map(usage::json_name) {
        item["properties"][&name] = of("integer");
        item["required"].as_array_mut().into_iter().for_each(|required| required.push(json!(name)));
    }
    for name in &dimensions {
        item["properties"][name] =
            described(or_null("string"), "Only if `by` has it. Null: requests without one.");
    }
    document(
        "UsageReport",
        vec![
            ("since", described(time(), "Requests that ended at this time or later.")),
            ("until", described(time(), "Requests that ended before this time.")),
            ("by", array(json!({ "enum": dimensions }))),
            ("currency", described(or_null("string"), "Of the file of prices.")),
            ("items", array(item)),
        ],
    )
}

/// Fails with all deviations of a document from the schema.
#[cfg(test)]
pub(crate) fn validate(document: &Value) -> Result<(), String> {
    let validator = jsonschema::validator_for(&of_kind(document)?).map_err(|error| error.to_string())?;
    let deviations: Vec<String> =
        validator.iter_errors(document).map(|error| format!("{}: {error}", error.instance_path())).collect();
    if deviations.is_empty() { Ok(()) } else { Err(deviations.join("\n")) }
}

/// The schema of the document's kind: what fails in one of many kinds is not told.
#[cfg(test)]
fn of_kind(document: &Value) -> Result<Value, String> {
    let all = schema();
    let kinds = all["oneOf"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found = kinds.iter().find(|it| it["title"] == document["kind"]);
    found.cloned().ok_or_else(|| format!("unknown kind {}", document["kind"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_is_up_to_date() {
        let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("schema.json");
        forebay_reference::check(&file, &text());
    }

    #[test]
    fn it_is_a_schema_that_rejects_what_it_does_not_know() {
        jsonschema::meta::validate(&schema()).unwrap();
        let empty = json!({ "apiVersion": API_VERSION, "kind": "PodList", "items": [] });
        assert!(jsonschema::is_valid(&schema(), &empty));
        assert_eq!(validate(&empty), Ok(()));
        for (member, value) in [("kind", json!("Pods")), ("apiVersion", json!("v1")), ("more", json!(1))] {
            let mut other = empty.clone();
            other[member] = value;
            assert!(!jsonschema::is_valid(&schema(), &other), "{member}");
        }
    }
}
