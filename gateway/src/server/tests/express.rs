//! Connections between the express way and hyper.

use std::time::Duration;

use crate::reply::Noted;
use crate::server::{Answering, Express, ExpressHead, Expressed, Intent, Service};

use super::*;

/// Answers nothing itself.
struct Declines;

impl Express for Declines {
    fn answer(&self, _head: &ExpressHead<'_>, _out: &mut Vec<u8>) -> Option<Expressed> {
        None
    }

    fn intend(&self, _head: &ExpressHead<'_>) -> Option<Box<dyn Intent>> {
        None
    }
}

/// Answers after a while, in which hyper is polled in vain.
fn after_a_while() -> axum::Router {
    answering(|_| async {
        for _ in 0..4 {
            // The slow disk that this stands for, not a synchronisation.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        reply(200, "at last".to_owned())
    })
}

#[tokio::test]
async fn an_answer_that_takes_a_while_arrives_though_the_connection_wants_back() {
    let service = Service {
        router: after_a_while(),
        express: Some(Arc::new(Declines)),
    };
    let server = start(Limits::default(), loopback(), service);
    let mut stream = server.connect().await;
    // Declined at the first, it may go back after the fourth, which is not answered yet when hyper waits again.
    for turn in 0..9 {
        let got = get(&mut stream, "/bucket/key").await;
        assert_eq!(got.body, b"at last"[..], "turn {turn}");
    }
}

/// Takes every PUT, and does this with it.
struct Performs(fn(Bytes, Answering));

struct Performing(fn(Bytes, Answering));

impl Express for Performs {
    fn answer(&self, _head: &ExpressHead<'_>, _out: &mut Vec<u8>) -> Option<Expressed> {
        None
    }

    fn intend(&self, _head: &ExpressHead<'_>) -> Option<Box<dyn Intent>> {
        Some(Box::new(Performing(self.0)))
    }
}

impl Intent for Performing {
    fn perform(self: Box<Self>, body: Bytes, answering: Answering) {
        std::thread::spawn(move || (self.0)(body, answering));
    }
}

fn performing(perform: fn(Bytes, Answering), router: axum::Router) -> Service {
    Service {
        router,
        express: Some(Arc::new(Performs(perform))),
    }
}

const PUT: &str = "PUT /b/k HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\n";

#[tokio::test]
async fn a_put_that_nobody_answers_fails() {
    let service = performing(|_, answering| drop(answering), after_a_while());
    let server = start(Limits::default(), loopback(), service);
    let mut stream = server.connect().await;
    for _ in 0..2 {
        send(&mut stream, &format!("{PUT}hello")).await;
        let got = read_reply(&mut stream).await.expect("a whole reply");
        assert_eq!(got.status, 500);
        let text = String::from_utf8_lossy(&got.body).into_owned();
        assert!(
            text.contains("<Code>InternalError</Code>")
                && text.contains("<Resource>/b/k</Resource>")
        );
    }
}

#[tokio::test]
async fn an_answer_of_a_put_that_is_read_late_arrives_whole() {
    const LONG: usize = 32 << 20;
    let perform = |body: Bytes, answering: Answering| {
        let mut long = vec![b'x'; LONG];
        long[LONG - 5..].copy_from_slice(&body);
        let reply = Response::builder().header("content-length", LONG);
        let reply = reply.body(Bytes::from(long)).expect("a reply");
        answering.answer(Noted::default(), Ok(reply));
    };
    let server = start(
        Limits::default(),
        loopback(),
        performing(perform, after_a_while()),
    );
    let mut stream = server.connect().await;
    // The second waits in the socket until the first is answered.
    send(&mut stream, &format!("{PUT}first")).await;
    for (body, next) in [(b"first", "other"), (b"other", "")] {
        if !next.is_empty() {
            // Its answer has begun: more of it than the sockets hold, and nobody has read any.
            stream.peek(&mut [0]).await.expect("an answer");
            send(&mut stream, &format!("{PUT}{next}")).await;
        }
        let got = read_reply(&mut stream).await.expect("a whole reply");
        assert_eq!((got.status, got.body.len()), (200, LONG));
        assert!(got.body.ends_with(body));
    }
}

#[tokio::test]
async fn a_body_that_lags_has_its_time_with_hyper() {
    let (called, is_called) = tokio::sync::mpsc::unbounded_channel();
    let router = answering(move |request| {
        let called = called.clone();
        async move {
            called.send(()).expect("somebody waits");
            let body = axum::body::to_bytes(request.into_body(), 99).await;
            reply(200, body.expect("a whole body"))
        }
    });
    let limits = Limits {
        header_timeout: Duration::from_millis(200),
        ..Limits::default()
    };
    let service = performing(|_, _| unreachable!("it is not whole in time"), router);
    let server = start(limits, loopback(), service);
    let mut stream = server.connect().await;
    send(&mut stream, &format!("{PUT}hel")).await;
    let mut is_called = is_called;
    is_called.recv().await.expect("hyper has it");
    send(&mut stream, "lo").await;
    let got = read_reply(&mut stream).await.expect("a whole reply");
    assert_eq!((got.status, &got.body[..]), (200, &b"hello"[..]));
}
