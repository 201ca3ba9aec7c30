//! How many connections there are, and how the server leaves.

use std::time::Duration;

use tokio::sync::Notify;

use super::*;

#[tokio::test]
async fn a_full_house_accepts_the_next_connection_when_one_ends() {
    let limits = Limits {
        connections: 1,
        ..Limits::default()
    };
    let server = start(
        limits,
        loopback(),
        answering(|_| async { reply(200, "hello".to_owned()) }),
    );
    let mut first = server.connect().await;
    assert_eq!(get(&mut first, "/").await.status, 200);
    let mut second = server.connect().await; // completed by the kernel, not accepted
    send(&mut second, "GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    assert_eq!(get(&mut first, "/").await.status, 200);
    let early = tokio::time::timeout(Duration::from_millis(50), second.read_u8()).await;
    assert!(early.is_err(), "the second connection waits");
    drop(first);
    assert_eq!(
        read_reply(&mut second).await.expect("a whole reply").body,
        "hello"
    );
}

#[tokio::test]
async fn draining_finishes_what_is_in_flight_and_closes_what_is_idle() {
    let bytes = pattern(8 << 20);
    let (file, arrived, go_on) = (
        file_of(&bytes),
        Arc::new(Notify::new()),
        Arc::new(Notify::new()),
    );
    let (told, released) = (arrived.clone(), go_on.clone());
    let router = answering(move |request| {
        let (file, told, released) = (file.clone(), told.clone(), released.clone());
        async move {
            if request.uri().path() == "/slow" {
                told.notify_one();
                released.notified().await;
            }
            file_reply(&file, 0, 8 << 20)
        }
    });
    let mut server = serve(router);
    let mut idle = server.connect().await;
    assert_eq!(get(&mut idle, "/").await.status, 200);
    let mut busy = server.connect().await;
    send(&mut busy, "GET /slow HTTP/1.1\r\nHost: t\r\n\r\n").await;
    arrived.notified().await;

    server.stop();
    assert!(
        read_to_end(&mut idle).await.is_empty(),
        "the idle connection is closed at once"
    );
    assert!(
        TcpStream::connect(server.address).await.is_err(),
        "nobody listens any more"
    );
    go_on.notify_one();
    let got = read_reply(&mut busy).await.expect("the answer is finished");
    assert!(got.body == bytes);
    assert!(read_to_end(&mut busy).await.is_empty());
    assert_eq!(server.drained().await, Drained::Clean);
}

#[tokio::test]
async fn a_request_that_outlasts_the_deadline_is_cut() {
    let arrived = Arc::new(Notify::new());
    let told = arrived.clone();
    let router = answering(move |_| {
        let told = told.clone();
        async move {
            told.notify_one();
            std::future::pending().await
        }
    });
    let mut server = start(
        Limits {
            drain: Duration::from_millis(50),
            ..Limits::default()
        },
        loopback(),
        router,
    );
    let mut stream = server.connect().await;
    send(&mut stream, "GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    arrived.notified().await;
    server.stop();
    assert_eq!(server.drained().await, Drained::Cut { connections: 1 });
    assert!(read_to_end(&mut stream).await.is_empty());
}
