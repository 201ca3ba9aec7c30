//! What a client may take from us, and what it gets when it takes more.

use std::time::Duration;

use http_body_util::BodyExt;

use super::*;

fn hello() -> axum::Router {
    answering(|_| async { reply(200, "hello".to_owned()) })
}

/// Reads the whole request body and says how long it was, or how it failed.
fn counting() -> axum::Router {
    answering(|request| async {
        match request.into_body().collect().await {
            Ok(body) => reply(200, body.to_bytes().len().to_string()),
            Err(error) => reply(400, format!("{error:?}")),
        }
    })
}

/// Answers without looking at the request body.
fn refusing() -> axum::Router {
    answering(|_| async { reply(403, "refused".to_owned()) })
}

#[tokio::test]
async fn every_reply_has_ids_date_and_server() {
    let server = serve(hello());
    let mut stream = server.connect().await;
    let (first, second) = (get(&mut stream, "/").await, get(&mut stream, "/").await);
    let id = |got: &Got| got.header("x-amz-request-id").expect("an id").to_owned();
    assert!(id(&first).len() == 16 && id(&first) != id(&second));
    assert_eq!(first.header("x-amz-id-2"), Some(crate::server::host_id()));
    assert_eq!(first.header("server"), Some("twintree"));
    assert!(
        first
            .header("date")
            .is_some_and(|date| date.ends_with(" GMT"))
    );
}

#[tokio::test]
async fn odd_targets_reach_the_service() {
    let server = serve(answering(|request| async move {
        reply(200, request.uri().path().to_owned())
    }));
    let mut stream = server.connect().await;
    for (line, path) in [
        ("GET // HTTP/1.1", "//"),
        ("OPTIONS * HTTP/1.1", "*"),
        ("GET http://b.s3.test/a/../b HTTP/1.1", "/a/../b"),
        ("DELETE /b/%2e%2E//x?uploads HTTP/1.1", "/b/%2e%2E//x"),
    ] {
        send(&mut stream, &format!("{line}\r\nHost: t\r\n\r\n")).await;
        let got = read_reply(&mut stream).await.expect("a whole reply");
        assert_eq!(got.body, path.as_bytes(), "{line}");
    }
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_a_400_document_and_the_connection_goes_on() {
    let server = serve(hello());
    let mut stream = server.connect().await;
    send(
        &mut stream,
        &format!(
            "GET / HTTP/1.1\r\nHost: t\r\nx-long: {}\r\n\r\n",
            "y".repeat(17 << 10)
        ),
    )
    .await;
    let got = read_reply(&mut stream).await.expect("a whole reply");
    let document = String::from_utf8(got.body.to_vec()).expect("XML is UTF-8");
    assert_eq!(
        (
            got.status,
            document.contains("<Code>RequestHeaderSectionTooLarge</Code>")
        ),
        (400, true)
    );
    let id = got.header("x-amz-request-id").expect("an id");
    assert!(
        document.contains(&format!("<RequestId>{id}</RequestId>")),
        "{document}"
    );
    assert_eq!(get(&mut stream, "/").await.body, "hello");

    let many: String = (0..200)
        .map(|n| format!("x-amz-meta-{n}: {n}\r\n"))
        .collect();
    send(
        &mut stream,
        &format!("GET / HTTP/1.1\r\nHost: t\r\n{many}\r\n"),
    )
    .await;
    assert_eq!(
        read_reply(&mut stream).await.expect("a whole reply").status,
        200
    );
}

#[tokio::test]
async fn a_head_that_does_not_end_ends_the_connection() {
    let limits = Limits {
        header_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = start(limits, loopback(), hello());
    let mut stream = server.connect().await;
    send(&mut stream, "GET / HTTP/1.1\r\nHost:").await;
    assert!(read_to_end(&mut stream).await.is_empty());
    // A whole request first: the limit then runs from the first byte of the next one.
    let mut stream = server.connect().await;
    assert_eq!(get(&mut stream, "/").await.status, 200);
    send(&mut stream, "GET /").await;
    assert!(read_to_end(&mut stream).await.is_empty());
}

#[tokio::test]
async fn an_idle_connection_is_closed_after_its_own_limit() {
    let idle = Duration::from_millis(100);
    let server = start(
        Limits {
            keep_alive_idle: idle,
            ..Limits::default()
        },
        loopback(),
        hello(),
    );
    let mut stream = server.connect().await;
    assert_eq!(get(&mut stream, "/").await.status, 200);
    let since = std::time::Instant::now();
    assert!(read_to_end(&mut stream).await.is_empty());
    assert!(since.elapsed() >= idle / 2);
}

#[tokio::test]
async fn a_body_that_falls_silent_fails_for_its_reader() {
    let limits = Limits {
        body_idle: Duration::from_millis(100),
        ..Limits::default()
    };
    let server = start(limits, loopback(), counting());
    let mut stream = server.connect().await;
    send(
        &mut stream,
        "PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\nabc",
    )
    .await;
    let got = read_reply(&mut stream).await.expect("a whole reply");
    assert_eq!(got.status, 400);
    assert!(
        String::from_utf8_lossy(&got.body).contains("Idle"),
        "{got:?}"
    );
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut() {
    let bytes = pattern(32 << 20);
    let file = file_of(&bytes);
    let limits = Limits {
        body_idle: Duration::from_millis(200),
        ..Limits::default()
    };
    let router = answering(move |_| {
        let body = lend(&file, 0, 32 << 20);
        async move { reply(200, body) }
    });
    let mut server = start(limits, loopback(), router);
    let mut stream = server.connect().await;
    send(&mut stream, "GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    stream
        .read_exact(&mut [0; 100])
        .await
        .expect("the reply begins");
    // Nothing is read from here: only the cut lets the server drain before its deadline of 30 s.
    server.stop();
    assert_eq!(server.drained().await, Drained::Clean);
    assert!(read_to_end(&mut stream).await.len() < bytes.len());
}

#[tokio::test]
async fn a_short_body_left_unread_is_skipped_and_the_connection_goes_on() {
    let server = serve(refusing());
    let mut stream = server.connect().await;
    for len in [1, 5000, 200_000] {
        let head = format!("PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: {len}\r\n\r\n");
        send(&mut stream, &(head + &"z".repeat(len))).await;
        let got = read_reply(&mut stream).await.expect("a whole reply");
        assert_eq!((got.status, got.header("connection")), (403, None));
    }
    send(
        &mut stream,
        "PUT / HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    )
    .await;
    assert_eq!(
        read_reply(&mut stream).await.expect("a whole reply").status,
        403
    );
    assert_eq!(get(&mut stream, "/").await.status, 403);
}

#[tokio::test]
async fn a_client_that_sends_a_long_body_first_still_reads_why_it_was_refused() {
    let server = serve(refusing());
    let mut stream = server.connect().await;
    send(
        &mut stream,
        "PUT / HTTP/1.1\r\nHost: t\r\nContent-Length: 33554432\r\n\r\n",
    )
    .await;
    for _ in 0..32 {
        // Without lingering this meets a reset, and the reply is lost.
        stream
            .write_all(&vec![0; 1 << 20])
            .await
            .expect("the server takes the body");
    }
    let got = read_reply(&mut stream).await.expect("a whole reply");
    assert_eq!((got.status, got.header("connection")), (403, Some("close")));
    assert!(read_to_end(&mut stream).await.is_empty());
}

#[tokio::test]
async fn a_client_that_sends_an_endless_head_first_still_reads_why_it_was_refused() {
    let server = serve(hello());
    let mut stream = server.connect().await;
    send(&mut stream, "GET / HTTP/1.1\r\nHost: t\r\n").await;
    for _ in 0..32 {
        // Without lingering this meets a reset, and the reply is lost.
        stream
            .write_all("x-many: y\r\n".repeat(100_000).as_bytes())
            .await
            .expect("the server takes the head");
    }
    let got = read_reply(&mut stream).await.expect("a whole reply");
    assert_eq!((got.status, got.header("connection")), (400, Some("close")));
    let document = String::from_utf8_lossy(&got.body);
    assert!(document.contains("<Code>RequestHeaderSectionTooLarge</Code>"));
}

#[tokio::test]
async fn a_request_names_one_host() {
    let server = serve(hello());
    let mut stream = server.connect().await;
    for (hosts, status) in [
        ("", 400),
        ("Host: t\r\nHost: t\r\n", 400),
        ("Host: t\r\nHost: other\r\n", 400),
        ("Host: t\r\n", 200),
    ] {
        send(&mut stream, &format!("GET / HTTP/1.1\r\n{hosts}\r\n")).await;
        let got = read_reply(&mut stream).await.expect("a whole reply");
        assert_eq!(got.status, status, "{hosts:?}");
        let document = String::from_utf8_lossy(&got.body);
        assert_eq!(document.contains("<Code>BadRequest</Code>"), status == 400);
    }
    send(&mut stream, "GET / HTTP/1.0\r\n\r\n").await;
    let got = read_reply(&mut stream).await.expect("a whole reply");
    assert_eq!(got.status, 200, "HTTP/1.0 knew no Host");
}

#[tokio::test]
async fn a_refused_expectation_is_answered_without_asking_for_the_body() {
    let server = serve(refusing());
    let mut stream = server.connect().await;
    send(
        &mut stream,
        "PUT / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    )
    .await;
    let got = read_reply(&mut stream).await.expect("a whole reply");
    assert_eq!((got.status, got.header("connection")), (403, Some("close")));

    let server = serve(counting());
    let mut stream = server.connect().await;
    send(
        &mut stream,
        "PUT / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    )
    .await;
    assert_eq!(read_head(&mut stream).await.expect("a head").0, 100);
    send(&mut stream, "12345").await;
    assert_eq!(
        read_reply(&mut stream).await.expect("a whole reply").body,
        "5"
    );
}

#[tokio::test]
async fn an_expectation_without_a_body_ends_the_connection_with_its_answer() {
    let server = serve(counting());
    let mut stream = server.connect().await;
    send(
        &mut stream,
        "PUT / HTTP/1.1\r\nHost: t\r\nExpect: 100-continue\r\nContent-Length: 0\r\n\r\n",
    )
    .await;
    let got = read_reply(&mut stream).await.expect("a whole reply");
    assert_eq!((got.status, got.header("connection")), (200, Some("close")));
    assert!(read_to_end(&mut stream).await.is_empty());
}

#[tokio::test]
async fn a_panic_is_a_500_document_and_costs_nobody_else() {
    let server = serve(answering(|request| async move {
        assert_ne!(request.uri().path(), "/panic", "asked for");
        reply(200, "hello".to_owned())
    }));
    let mut stream = server.connect().await;
    let got = get(&mut stream, "/panic").await;
    assert_eq!(got.status, 500);
    assert!(String::from_utf8_lossy(&got.body).contains("<Code>InternalError</Code>"));
    assert_eq!(get(&mut stream, "/").await.body, "hello");
}
