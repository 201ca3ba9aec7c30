//! What arrives is what the file holds, by every way that a body takes in the clear.

use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;

const SIZES: [usize; 8] = [
    0,
    1,
    65_535,
    65_536,
    65_537,
    1 << 20,
    (2 << 20) + 4096,
    (5 << 20) + 1,
];

/// Answers `/OFFSET/LEN` with that run of the file.
fn runs_of(file: Arc<File>) -> axum::Router {
    answering(move |request| {
        let file = file.clone();
        async move {
            let numbers: Vec<u64> = request.uri().path()[1..]
                .split('/')
                .filter_map(|n| n.parse().ok())
                .collect();
            file_reply(&file, numbers[0], numbers[1])
        }
    })
}

#[tokio::test]
async fn every_size_arrives_whole_and_from_an_offset_on_one_kept_connection() {
    let bytes = pattern(6 << 20);
    let server = serve(runs_of(file_of(&bytes)));
    let mut stream = server.connect().await;
    for size in SIZES {
        for offset in [0, 1, 4097, 70_001] {
            let got = get(&mut stream, &format!("/{offset}/{size}")).await;
            assert_eq!(got.status, 200);
            assert_eq!(got.header("content-length"), Some(&*size.to_string()));
            assert!(
                got.body == bytes[offset..offset + size],
                "{size} bytes from {offset}"
            );
        }
    }
}

#[tokio::test]
async fn a_unix_socket_serves_files_alike() {
    let bytes = pattern(3 << 20);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let path = dir.path().join("s3.sock");
    let listener = Listener::unix(&path).expect("the socket binds");
    let (stop, stopped) = oneshot::channel::<()>();
    let done = tokio::spawn(run(
        vec![listener],
        runs_of(file_of(&bytes)),
        ServerOptions::default(),
        async {
            stopped.await.expect("the test sends it");
        },
    ));
    let mut stream = tokio::net::UnixStream::connect(&path)
        .await
        .expect("the server listens");
    let got = get(&mut stream, &format!("/3/{}", (3 << 20) - 3)).await;
    assert!(got.body == bytes[3..]);
    drop(stream);
    stop.send(()).expect("the server waits");
    assert_eq!(
        done.await.expect("no panic").expect("it started"),
        Drained::Clean
    );
    assert!(!path.exists());
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let bytes = pattern(3 << 20);
    let server = serve(runs_of(file_of(&bytes)));
    let mut stream = server.connect().await;
    let runs = [(0, 200_000), (5, 1), (9, 3_000_000), (0, 0), (77, 5000)];
    let requests: String = runs
        .iter()
        .map(|(offset, len)| format!("GET /{offset}/{len} HTTP/1.1\r\nHost: t\r\n\r\n"))
        .collect();
    send(&mut stream, &requests).await;
    for (offset, len) in runs {
        let got = read_reply(&mut stream).await.expect("a whole reply");
        assert!(
            got.body == bytes[offset..offset + len],
            "{len} bytes from {offset}"
        );
    }
}

#[tokio::test]
async fn a_slow_reader_gets_every_byte() {
    let bytes = pattern((5 << 20) + 1);
    let server = serve(runs_of(file_of(&bytes)));
    let mut stream = server.connect().await;
    rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 128 << 10).expect("our own socket");
    send(
        &mut stream,
        &format!("GET /0/{} HTTP/1.1\r\nHost: t\r\n\r\n", bytes.len()),
    )
    .await;
    read_head(&mut stream).await.expect("a head");
    let mut body = vec![0; bytes.len()];
    for chunk in body.chunks_mut(1777) {
        stream.read_exact(chunk).await.expect("the body goes on");
        tokio::task::yield_now().await;
    }
    assert!(body == bytes);
}

#[tokio::test]
async fn a_client_that_leaves_mid_body_costs_the_next_one_nothing() {
    let bytes = pattern(5 << 20);
    let server = serve(runs_of(file_of(&bytes)));
    for _ in 0..20 {
        let mut stream = server.connect().await;
        send(
            &mut stream,
            &format!("GET /0/{} HTTP/1.1\r\nHost: t\r\n\r\n", bytes.len()),
        )
        .await;
        stream
            .read_exact(&mut [0; 1000])
            .await
            .expect("the reply begins");
    }
    let got = get(&mut server.connect().await, "/1/4000000").await;
    assert!(got.body == bytes[1..4_000_001]);
}

#[tokio::test]
async fn a_cold_file_is_loaded_by_the_pool_and_arrives_whole() {
    let bytes = pattern((5 << 20) + 1);
    let file = file_of(&bytes);
    file.sync_all().expect("the bytes reach the disk");
    rustix::fs::fadvise(&*file, 0, None, rustix::fs::Advice::DontNeed).expect("a hint");
    // tmpfs keeps its pages; everywhere else the file is cold now.
    let server = serve(runs_of(file));
    let got = get(&mut server.connect().await, &format!("/0/{}", bytes.len())).await;
    assert!(got.body == bytes);
}

#[tokio::test]
async fn a_file_that_shrinks_or_changes_cuts_the_connection_and_is_never_padded() {
    let bytes = pattern(24 << 20);
    let shrink = |file: &File| file.set_len(1 << 20).expect("our own file");
    let rewrite = |file: &File| file.write_all_at(b"x", 23 << 20).expect("our own file");
    for change in [shrink as fn(&File), rewrite] {
        let file = file_of(&bytes);
        let server = serve(runs_of(file.clone()));
        let mut stream = server.connect().await;
        send(
            &mut stream,
            &format!("GET /0/{} HTTP/1.1\r\nHost: t\r\n\r\n", bytes.len()),
        )
        .await;
        read_head(&mut stream).await.expect("a head");
        // More than the sockets' buffers is left to send: the change meets the body half-way.
        change(&file);
        let body = read_to_end(&mut stream).await;
        assert!(body.len() < bytes.len(), "the body is cut");
        assert!(body.iter().zip(&bytes).take(1 << 20).all(|(a, b)| a == b));
    }
}

#[tokio::test]
async fn a_change_under_the_last_long_run_still_cuts() {
    let bytes = pattern(100_000);
    let file = file_of(&bytes);
    let router = answering(move |_| {
        let asked = AtomicU32::new(0);
        // Unchanged before the long run, changed before the tail, whatever the timing.
        let body = FileBody::new(file.clone(), 0, 100_000, move || {
            Ok(asked.fetch_add(1, Ordering::Relaxed) == 0)
        });
        async move { reply(200, body) }
    });
    let server = serve(router);
    let mut stream = server.connect().await;
    send(&mut stream, "GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    read_head(&mut stream).await.expect("a head");
    assert!(read_to_end(&mut stream).await.len() < 100_000);
}

#[tokio::test]
async fn a_remote_file_is_copied_by_the_pool() {
    let bytes = pattern((1 << 20) + 7);
    let file = file_of(&bytes);
    let router = answering(move |_| {
        let body = lend(&file, 1, (1 << 20) + 6).on_remote_filesystem(true);
        async move { reply(200, body) }
    });
    let server = serve(router);
    let got = get(&mut server.connect().await, "/").await;
    assert!(got.body == bytes[1..]);
}

#[tokio::test]
async fn head_and_304_send_no_byte_and_keep_the_connection_in_step() {
    let bytes = pattern(300_000);
    let file = file_of(&bytes);
    let router = answering(move |request| {
        let status = if request.uri().path() == "/304" {
            304
        } else {
            200
        };
        let mut response = file_reply(&file, 0, 300_000);
        *response.status_mut() = status.try_into().expect("a status");
        async move { response }
    });
    let server = serve(router);
    let mut stream = server.connect().await;
    send(
        &mut stream,
        "HEAD / HTTP/1.1\r\nHost: t\r\n\r\nGET /304 HTTP/1.1\r\nHost: t\r\n\r\n",
    )
    .await;
    let (status, head) = read_head(&mut stream).await.expect("a head");
    assert!(
        status == 200 && head.contains("content-length: 300000"),
        "{head}"
    );
    let (status, head) = read_head(&mut stream).await.expect("a head");
    assert!(status == 304 && !head.contains("content-length"), "{head}");
    assert!(get(&mut stream, "/").await.body == bytes);
}
