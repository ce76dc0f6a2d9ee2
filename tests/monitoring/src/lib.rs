//! Alert rules and Grafana dashboards. `UPDATE_REFERENCE=1 cargo test -p forebay-monitoring reference` writes them into
//! the chart `charts/forebay`.

mod alerts;
mod dashboard;
mod dashboards;
mod query;

pub use alerts::{Alert, Sample, alerts, rules_file};
pub use dashboard::{Dashboard, Panel, Query, Unit, Variable};
pub use dashboards::dashboards;
pub use query::{metric_names, with_values};
