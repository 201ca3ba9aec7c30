//! Connections between the express way and hyper.

use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::reply::Noted;
use crate::server::connection::LAST_HEAD;
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

/// What a fault would make us wait for in vain.
async fn soon<F: Future>(future: F) -> F::Output {
    let within = tokio::time::timeout(Duration::from_secs(20), future);
    within.await.expect("it comes soon")
}

const PUT: &str = "PUT /b/k HTTP/1.1\r\nhost: t\r\ncontent-length: 5\r\n\r\n";

#[tokio::test]
async fn a_put_that_nobody_answers_fails() {
    let service = performing(|_, answering| drop(answering), after_a_while());
    let server = start(Limits::default(), loopback(), service);
    let mut stream = server.connect().await;
    for _ in 0..2 {
        send(&mut stream, &format!("{PUT}hello")).await;
        let got = soon(read_reply(&mut stream)).await.expect("a whole reply");
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
            soon(stream.peek(&mut [0])).await.expect("an answer");
            send(&mut stream, &format!("{PUT}{next}")).await;
        }
        let got = soon(read_reply(&mut stream)).await.expect("a whole reply");
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
    soon(is_called.recv()).await.expect("hyper has it");
    send(&mut stream, "lo").await;
    let got = soon(read_reply(&mut stream)).await.expect("a whole reply");
    assert_eq!((got.status, &got.body[..]), (200, &b"hello"[..]));
}

#[tokio::test]
async fn a_server_that_leaves_waits_for_a_put_and_for_no_longer() {
    static CALLED: Semaphore = Semaphore::const_new(0);
    static GO: OnceLock<()> = OnceLock::new();
    let perform = |_: Bytes, answering: Answering| {
        CALLED.add_permits(1);
        GO.wait();
        answering.answer(Noted::default(), Ok(Response::new(Bytes::new())));
    };
    let service = performing(perform, after_a_while());
    let long = Duration::from_secs(60);
    let limits = Limits {
        header_timeout: long,
        body_idle: long,
        keep_alive_idle: long,
        drain: long,
        ..Limits::default()
    };
    let mut server = start(limits, loopback(), service);
    let mut stream = server.connect().await;
    send(&mut stream, &format!("{PUT}hello")).await;
    let called = soon(CALLED.acquire()).await;
    called.expect("it is open").forget();
    server.stop();
    // Longer than a head would be waited for: from then on only the answer wakes the connection.
    tokio::time::sleep(LAST_HEAD + Duration::from_millis(200)).await;
    GO.set(()).expect("once");
    let got = soon(read_reply(&mut stream)).await.expect("a whole reply");
    assert_eq!(got.status, 200);
    assert_eq!(soon(server.drained()).await, Drained::Clean);
    drop(stream);
}
