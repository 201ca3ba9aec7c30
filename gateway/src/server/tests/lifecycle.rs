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
async fn a_request_that_is_on_its_way_when_the_server_leaves_is_answered() {
    let mut server = serve(answering(|_| async { reply(200, "hello".to_owned()) }));
    let (mut fresh, mut half) = (server.connect().await, server.connect().await);
    send(&mut half, "GET / HT").await;
    let mut idle = server.connect().await;
    assert_eq!(get(&mut idle, "/").await.status, 200);

    server.stop();
    assert!(
        read_to_end(&mut idle).await.is_empty(),
        "the server leaves, and has accepted the others before"
    );
    send(&mut fresh, "GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    send(&mut half, "TP/1.1\r\nHost: t\r\n\r\n").await;
    for stream in [&mut fresh, &mut half] {
        let got = read_reply(stream).await.expect("a whole answer");
        assert_eq!(got.body, "hello");
        assert!(read_to_end(stream).await.is_empty(), "and then it closes");
    }
    assert_eq!(server.drained().await, Drained::Clean);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_nothing_does_not_keep_the_server() {
    let mut server = serve(answering(|_| async { reply(200, "hello".to_owned()) }));
    let mut silent = server.connect().await;
    let mut idle = server.connect().await;
    assert_eq!(get(&mut idle, "/").await.status, 200);
    server.stop();
    assert!(read_to_end(&mut silent).await.is_empty());
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

/// Set in the process that the test below starts, because a limit holds for a whole process.
const FEW_DESCRIPTORS: &str = "TWINTREE_TEST_FEW_DESCRIPTORS";

#[test]
fn running_out_of_descriptors_never_ends_the_server() {
    const NAME: &str = "server::tests::lifecycle::running_out_of_descriptors_never_ends_the_server";
    if std::env::var_os(FEW_DESCRIPTORS).is_some() {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        return runtime.block_on(run_out_of_descriptors());
    }
    let this = std::env::current_exe().expect("the test binary has a path");
    let output = std::process::Command::new(this)
        .args(["--exact", NAME])
        .env(FEW_DESCRIPTORS, "1")
        .output();
    let output = output.expect("the test binary starts again");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
    assert!(
        String::from_utf8_lossy(&output.stdout).contains("1 passed"),
        "the test has another name"
    );
}

async fn run_out_of_descriptors() {
    use rustix::process::{Resource, Rlimit, setrlimit};
    let server = serve(answering(|_| async { reply(200, "hello".to_owned()) }));
    let mut kept = server.connect().await;
    assert_eq!(get(&mut kept, "/").await.status, 200);
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(64),
            maximum,
        },
    )
    .expect("limits can be lowered");
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect(server.address).await {
        clients.push(client);
        assert!(clients.len() < 64, "the limit holds");
    }
    // The kernel completed connections that the server had no descriptor for: it must come back to them.
    assert_eq!(get(&mut kept, "/").await.status, 200);
    let mut last = clients.pop().expect("some connections were possible");
    drop(clients);
    assert_eq!(get(&mut last, "/").await.body, "hello");
}
