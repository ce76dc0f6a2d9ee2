//! Sums with costs.

use forebay_usage::ReportRow;

use super::prices::Prices;

/// Requests with the same values.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Summary {
    pub(super) row: ReportRow,
    /// Without the requests for models that have no price.
    pub(super) cost: f64,
    /// Tokens were used of a model that has no price.
    pub(super) has_unpriced: bool,
}

/// Joins rows whose first `dimensions` values are the same. With prices, two more values follow: model and base model.
pub(super) fn summarize(rows: Vec<ReportRow>, dimensions: usize, prices: Option<&Prices>) -> Vec<Summary> {
    let mut all: Vec<Summary> = Vec::new();
    for mut row in rows {
        let models = row.values.split_off(dimensions.min(row.values.len()));
        let [model, base] = [0, 1].map(|at| models.get(at).and_then(Option::as_deref));
        let cost = prices.map_or(Some(0.0), |prices| prices.cost(model, base, &row));
        let has_unpriced = cost.is_none() && row.prompt_tokens + row.completion_tokens > 0;
        let next = Summary { row, cost: cost.unwrap_or(0.0), has_unpriced };
        match all.iter_mut().find(|known| known.row.values == next.row.values) {
            Some(known) => add(known, &next),
            None => all.push(next),
        }
    }
    all.sort_by_key(|it| std::cmp::Reverse(it.row.prompt_tokens + it.row.completion_tokens));
    all
}

/// The sum of all rows.
pub(super) fn total(rows: &[Summary]) -> Summary {
    let mut total = Summary { row: ReportRow::default(), cost: 0.0, has_unpriced: false };
    rows.iter().for_each(|row| add(&mut total, row));
    total
}

fn add(sum: &mut Summary, next: &Summary) {
    let (to, from) = (&mut sum.row, &next.row);
    to.requests += from.requests;
    to.failed += from.failed;
    to.without_usage += from.without_usage;
    to.prompt_tokens += from.prompt_tokens;
    to.cached_tokens += from.cached_tokens;
    to.completion_tokens += from.completion_tokens;
    to.reasoning_tokens += from.reasoning_tokens;
    to.duration_seconds += from.duration_seconds;
    sum.cost += next.cost;
    sum.has_unpriced |= next.has_unpriced;
}
