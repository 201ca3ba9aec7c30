//! A page of a listing, from its entries to the bytes of its XML.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use twintree_gateway::benching::page_as_xml;
use twintree_store::{ETag, ListEntry, ListPage, Timestamp};

const KEYS: u64 = 1000;

fn page(key: impl Fn(u64) -> String) -> ListPage {
    let mut page = ListPage::default();
    for index in 0..KEYS {
        page.push(&ListEntry {
            key: &key(index),
            size: index * 4096,
            modified: Timestamp::from_parts(1_700_000_000 + index as i64, 0),
            etag: ETag::Md5((u128::from(index) << 64 | 0x1234_5678).to_be_bytes()),
            checksum: None,
        });
    }
    page
}

fn listing(criterion: &mut Criterion) {
    let plain = page(|index| format!("folder/file-{index:015}.bin"));
    let escaped = page(|index| format!("größer & <kleiner> {index:04}"));
    let mut group = criterion.benchmark_group("a page of 1,000 keys as XML");
    group.throughput(Throughput::Elements(KEYS));
    for (name, query, page) in [
        ("plain keys", "", &plain),
        ("keys that need escapes", "", &escaped),
        ("the same, encoding-type=url", "encoding-type=url", &escaped),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter(|| page_as_xml(query, black_box(page)));
        });
    }
    group.finish();
}

criterion_group!(benches, listing);
criterion_main!(benches);
