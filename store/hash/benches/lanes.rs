//! MD5 by kernel and number of messages at once, beside the md-5 crate; throughput is that of all messages together.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use md5::{Digest as _, Md5};
use twintree_hash::lanes::{Kernel, START};

/// Bytes of each message: those of a body that wait for a turn.
const MESSAGE: usize = 64 << 10;

fn lanes(criterion: &mut Criterion) {
    let bodies: Vec<Vec<u8>> = (0..16).map(|index| vec![index; MESSAGE]).collect();
    let mut group = criterion.benchmark_group("MD5");
    group.throughput(Throughput::Bytes(MESSAGE as u64));
    group.bench_function("the md-5 crate", |bencher| {
        bencher.iter(|| Md5::digest(black_box(&bodies[0])));
    });
    for kernel in Kernel::all() {
        for count in [1, 4, 8, 16] {
            let messages: Vec<&[u8]> = bodies[..count].iter().map(Vec::as_slice).collect();
            group.throughput(Throughput::Bytes((count * MESSAGE) as u64));
            let id = BenchmarkId::new(format!("{kernel:?}"), count);
            group.bench_with_input(id, &messages, |bencher, messages| {
                let mut states = vec![START; count];
                bencher.iter(|| kernel.compress(black_box(&mut states), messages));
            });
        }
    }
    group.finish();
}

criterion_group!(benches, lanes);
criterion_main!(benches);
