//! Whether policies have the same order in both worlds.

use forebay_routing_sim::report::PolicyRow;

/// The orders by TTFT p90, and Spearman's rank correlation of them.
pub(super) fn compared(real: &[PolicyRow], virtual_time: &[PolicyRow]) -> String {
    let (first, second) = (ranks(real), ranks(virtual_time));
    let correlation = match correlation(&first, &second) {
        Some(correlation) => format!("{correlation:.2}"),
        None => "- (one policy)".to_owned(),
    };
    format!(
        "order by TTFT p90\n  real processes: {}\n  virtual time:   {}\n  rank correlation: {correlation}\n",
        order(real, &first),
        order(virtual_time, &second),
    )
}

/// Position of each row among all, from 0.
fn ranks(rows: &[PolicyRow]) -> Vec<usize> {
    let p90 = |row: &PolicyRow| row.summary.ttft_p90_ms.median;
    let mut order: Vec<usize> = (0..rows.len()).collect();
    order.sort_by(|&a, &b| p90(&rows[a]).total_cmp(&p90(&rows[b])));
    let mut ranks = vec![0; rows.len()];
    for (rank, row) in order.into_iter().enumerate() {
        ranks[row] = rank;
    }
    ranks
}

fn order(rows: &[PolicyRow], ranks: &[usize]) -> String {
    let mut named: Vec<_> = ranks.iter().zip(rows).collect();
    named.sort_by_key(|(rank, _)| **rank);
    named.into_iter().map(|(_, row)| row.policy.as_str()).collect::<Vec<_>>().join(" < ")
}

/// `None` for fewer than two ranks.
fn correlation(first: &[usize], second: &[usize]) -> Option<f64> {
    let count = first.len() as f64;
    let squares: f64 = first.iter().zip(second).map(|(&a, &b)| (a as f64 - b as f64).powi(2)).sum();
    (first.len() > 1).then(|| 1.0 - 6.0 * squares / (count * (count * count - 1.0)))
}

#[cfg(test)]
mod tests {
    use super::correlation;

    #[test]
    fn correlation_is_one_for_equal_and_minus_one_for_opposite_orders() {
        assert_eq!(correlation(&[0, 1, 2, 3], &[0, 1, 2, 3]), Some(1.0));
        assert_eq!(correlation(&[0, 1, 2, 3], &[3, 2, 1, 0]), Some(-1.0));
        assert_eq!(correlation(&[0, 1, 2, 3], &[1, 0, 2, 3]), Some(0.8));
        assert_eq!(correlation(&[0], &[0]), None);
    }
}
