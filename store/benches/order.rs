//! Key order: a directory's names sorted, and the place found where a page begins.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twintree_store::benching::Sorted;

const NAMES: usize = 100_000;

fn order(criterion: &mut Criterion) {
    // As a hashed directory gives them: all of one length and beginning, in no order.
    let names: Vec<String> = (0..NAMES)
        .map(|index| format!("file-{:015}.bin", index * 7919 % NAMES))
        .collect();
    let mut group = criterion.benchmark_group("key order");
    group.throughput(Throughput::Elements(NAMES as u64));
    group.sample_size(20);
    group.bench_function("sort 100,000 names", |bencher| {
        bencher.iter(|| Sorted::of(black_box(&names).iter().map(String::as_str)));
    });
    group.finish();
    let sorted = Sorted::of(names.iter().map(String::as_str)).expect("there is room for them");
    criterion.bench_function("key order/find a page of 100,000 names", |bencher| {
        bencher.iter(|| sorted.after(black_box("file-000000000054321.bin")));
    });
}

criterion_group!(benches, order);
criterion_main!(benches);
