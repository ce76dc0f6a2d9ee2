//! `charts/*/README.md`: the values of the charts.
#![allow(clippy::unwrap_used, reason = "a failure ends the test that it is in")]

use std::fs;
use std::path::Path;

#[test]
fn reference_is_up_to_date() {
    let charts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts");
    for name in ["forebay", "inferencepool"] {
        let values = fs::read_to_string(charts.join(name).join("values.yaml")).unwrap();
        let text = format!(
            "# Values of the chart {name}\n\nGenerated from `values.yaml` by `UPDATE_REFERENCE=1 cargo test --workspace \
             reference`.\n\n{}",
            forebay_reference::chart_values(&values)
        );
        forebay_reference::check(&charts.join(name).join("README.md"), &text);
    }
}
