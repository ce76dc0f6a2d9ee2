//! A Grafana dashboard, and its JSON.

use serde_json::{Value, json};

/// Version of Grafana's dashboard schema. Newer versions of Grafana convert it.
const SCHEMA_VERSION: u32 = 39;
/// Columns of Grafana's grid.
const GRID: usize = 24;
const HEIGHT: usize = 8;

/// A dashboard.
#[derive(Clone, Debug)]
pub struct Dashboard {
    /// Stable identifier, and the name of the file.
    pub uid: &'static str,
    /// Title.
    pub title: &'static str,
    /// What the dashboard shows.
    pub description: &'static str,
    /// Selections at the top.
    pub variables: Vec<Variable>,
    /// In reading order.
    pub panels: Vec<Panel>,
}

/// A selection of label values, of which several or all can be chosen.
#[derive(Clone, Copy, Debug)]
pub struct Variable {
    /// Name, and the label.
    pub label: &'static str,
    /// A metric with the label.
    pub metric: &'static str,
}

/// Unit of the values of a panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    Count,
    Seconds,
    Bytes,
    BytesPerSecond,
    PerSecond,
    /// 0 to 1.
    Ratio,
    Watts,
    Celsius,
    Hertz,
}

impl Unit {
    /// Grafana's name.
    const fn name(self) -> &'static str {
        match self {
            Self::Count => "short",
            Self::Seconds => "s",
            Self::Bytes => "bytes",
            Self::BytesPerSecond => "binBps",
            Self::PerSecond => "cps",
            Self::Ratio => "percentunit",
            Self::Watts => "watt",
            Self::Celsius => "celsius",
            Self::Hertz => "hertz",
        }
    }
}

/// A graph over time.
#[derive(Clone, Debug)]
pub struct Panel {
    /// Title.
    pub title: &'static str,
    /// What the values mean.
    pub description: &'static str,
    /// Unit of all values.
    pub unit: Unit,
    /// Its curves.
    pub queries: Vec<Query>,
    /// Normal operation has no data: the panel shows faults, or features that are off.
    pub may_be_empty: bool,
}

/// The curves of one expression.
#[derive(Clone, Debug)]
pub struct Query {
    /// PromQL.
    pub expression: String,
    /// Name of a curve, with `{{label}}`.
    pub legend: &'static str,
}

impl Panel {
    /// A panel without curves.
    pub fn new(title: &'static str, unit: Unit, description: &'static str) -> Self {
        Self { title, description, unit, queries: Vec::new(), may_be_empty: false }
    }

    /// Adds the curves of an expression.
    pub fn query(mut self, legend: &'static str, expression: impl Into<String>) -> Self {
        self.queries.push(Query { expression: expression.into(), legend });
        self
    }

    /// Adds median and 99th percentile of a histogram. `buckets`: the selected buckets.
    pub fn quantiles(mut self, buckets: &str) -> Self {
        for (quantile, legend) in [("0.5", "p50"), ("0.99", "p99")] {
            let rates = format!("sum by (le) (rate({buckets}[$__rate_interval]))");
            self = self.query(legend, format!("histogram_quantile({quantile}, {rates})"));
        }
        self
    }

    /// Normal operation has no data.
    pub fn may_be_empty(mut self) -> Self {
        self.may_be_empty = true;
        self
    }

    fn json(&self, index: usize) -> Value {
        let source = json!({"type": "prometheus", "uid": "${datasource}"});
        let width = GRID / 2;
        let targets: Vec<Value> = self
            .queries
            .iter()
            .zip('A'..)
            .map(|(query, id)| {
                json!({
                    "refId": id.to_string(),
                    "datasource": source,
                    "expr": query.expression,
                    "legendFormat": query.legend,
                })
            })
            .collect();
        json!({
            "id": index + 1,
            "type": "timeseries",
            "title": self.title,
            "description": self.description,
            "datasource": source,
            "gridPos": {"x": index % 2 * width, "y": index / 2 * HEIGHT, "w": width, "h": HEIGHT},
            "fieldConfig": {
                "defaults": {"unit": self.unit.name(), "min": 0, "custom": {"fillOpacity": 10}},
                "overrides": [],
            },
            "options": {
                "legend": {"displayMode": "list", "placement": "bottom", "showLegend": true},
                "tooltip": {"mode": "multi", "sort": "desc"},
            },
            "targets": targets,
        })
    }
}

impl Dashboard {
    /// Names of the variables.
    pub fn variable_names(&self) -> Vec<&'static str> {
        self.variables.iter().map(|variable| variable.label).collect()
    }

    /// The JSON model that Grafana imports.
    pub fn json(&self) -> String {
        let source = json!({
            "name": "datasource", "label": "Data source", "type": "datasource", "query": "prometheus",
        });
        let variables = self.variables.iter().map(Variable::json);
        let templating: Vec<Value> = std::iter::once(source).chain(variables).collect();
        let panels: Vec<Value> =
            self.panels.iter().enumerate().map(|(index, panel)| panel.json(index)).collect();
        let dashboard = json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["forebay"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": true,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "links": [{
                "title": "Forebay", "type": "dashboards", "tags": ["forebay"], "asDropdown": true,
                "includeVars": true, "keepTime": true,
            }],
            "templating": {"list": templating},
            "panels": panels,
        });
        format!("{dashboard:#}\n")
    }
}

impl Variable {
    fn json(&self) -> Value {
        let Self { label, metric } = self;
        json!({
            "name": label,
            "type": "query",
            "datasource": {"type": "prometheus", "uid": "${datasource}"},
            "query": {"query": format!("label_values({metric}, {label})"), "refId": label},
            "refresh": 2,
            "sort": 1,
            "multi": true,
            "includeAll": true,
            "allValue": ".*",
            "current": {"text": ["All"], "value": ["$__all"]},
        })
    }
}
