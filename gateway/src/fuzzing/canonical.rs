//! The canonical request, against the reference, byte for byte and in every reading.

use http::Method;

use super::aws::{HABITS, Habit, Request};
use super::draw::Draw;
use crate::auth::canonical::{self as ours, PathForm, Plus, Reading};

const NAMES: [&str; 5] = [
    "host",
    "range",
    "x-amz-date",
    "x-amz-meta-a",
    "x-amz-meta-b",
];

/// Any method, path, query and headers, whether a client could send them or not.
pub fn canonical(data: &[u8]) {
    let mut draw = Draw::new(data);
    let mut request = Request {
        method: draw.pick(&[Method::GET, Method::PUT, Method::DELETE]),
        path: draw.text(60),
        query: draw.text(80),
        headers: Vec::new(),
    };
    for _ in 0..draw.below(5) {
        let name = draw.pick(&NAMES).to_owned();
        request.headers.push((name, draw.bytes(20).to_vec()));
    }
    let mut signed = NAMES.to_vec();
    signed.retain(|_| draw.flag());
    let without = draw.flag().then_some("X-Amz-Signature");
    let payload = draw.text(20);
    let Some(headers) = request.header_map() else {
        return;
    };
    let head = request.head(&headers);
    let canonical = |reading| ours::request(&head, reading, &signed, &payload, without);
    for habit in HABITS {
        let expected = request.canonical(habit, &signed, &payload, without);
        assert_eq!(canonical(reading(habit)), expected, "{habit:?}");
    }
    let readings: Vec<Reading> = Reading::all(&head).collect();
    assert_eq!(readings.first(), Some(&reading(HABITS[0])));
    let tried: Vec<_> = readings.into_iter().map(canonical).collect();
    let missing = HABITS.map(|habit| canonical(reading(habit)));
    assert!(missing.iter().all(|canonical| tried.contains(canonical)));
    parameters(&request.query);
}

/// Parameters are found under the names that are signed.
fn parameters(query: &str) {
    let pairs = super::aws::parameters(query, HABITS[1]);
    for (name, _) in &pairs {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        let of_name = pairs.iter().filter(|(found, _)| found == name.as_bytes());
        assert_eq!(ours::occurrences(query, name), of_name.clone().count());
        let first = of_name
            .map(|(_, value)| String::from_utf8_lossy(value))
            .next();
        assert_eq!(ours::parameter(query, name).as_deref(), first.as_deref());
    }
}

fn reading(habit: Habit) -> Reading {
    Reading {
        path: match habit.path_as_sent {
            true => PathForm::Verbatim,
            false => PathForm::Encoded,
        },
        plus: match habit.plus_is_plus {
            true => Plus::Plus,
            false => Plus::Space,
        },
    }
}
