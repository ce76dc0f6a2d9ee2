//! Finding a request's route among few and among many: it must not take longer with their number.
#![allow(clippy::unwrap_used, reason = "a failure ends the test or benchmark that it is in")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use forebay_routing::bench::ManyRoutes;

fn find(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("route");
    for count in [1, 100, 5_000] {
        let routes = ManyRoutes::new(count).unwrap();
        assert!(routes.find(), "the request has no route");
        group.bench_function(BenchmarkId::from_parameter(count), |bencher| {
            bencher.iter(|| black_box(&routes).find());
        });
    }
}

criterion_group!(benches, find);
criterion_main!(benches);
