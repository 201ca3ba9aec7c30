//! TLS, HTTP/2 over it, and the promise that no marker ever leaves by either.

use std::sync::Arc;

use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::client::TlsStream;

use super::*;
use crate::server::connection_io::{GuardedIo, Pieces, PlainIo};
use crate::server::marker::SendBuf;
use crate::server::pulse::Pulse;
use crate::server::socket::Socket;
use crate::server::tls::{TlsError, from_pem_files};

struct Tls {
    server: Arc<rustls::ServerConfig>,
    certificate: CertificateDer<'static>,
}

/// A fresh certificate, read back through PEM files as the daemon reads them.
fn tls() -> Tls {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])
        .expect("a certificate can be made");
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (certificate, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let pem = |label: &str, der: &[u8]| {
        let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, der);
        format!("-----BEGIN {label}-----\n{base64}\n-----END {label}-----\n")
    };
    std::fs::write(&certificate, pem("CERTIFICATE", made.cert.der())).expect("a file");
    std::fs::write(&key, pem("PRIVATE KEY", &made.signing_key.serialize_der())).expect("a file");
    let server = from_pem_files(&certificate, &key).expect("certificate and key go together");
    assert!(matches!(
        from_pem_files(&key, &key),
        Err(TlsError::NoCertificate(_))
    ));
    assert!(matches!(
        from_pem_files(&certificate, &certificate),
        Err(TlsError::Pem { .. })
    ));
    let other = rcgen::KeyPair::generate().expect("a key can be made");
    let other = PrivateKeyDer::try_from(other.serialize_der()).expect("PKCS#8");
    let strange = crate::server::tls::server_config(vec![made.cert.der().clone()], other);
    assert!(matches!(strange, Err(TlsError::Rejected(_))));
    Tls {
        server,
        certificate: made.cert.der().clone(),
    }
}

async fn connect(server: &Running, tls: &Tls, alpn: &[u8]) -> TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots
        .add(tls.certificate.clone())
        .expect("our own certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has them")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    let name = ServerName::try_from("localhost").expect("a name");
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    connector
        .connect(name, server.connect().await)
        .await
        .expect("the handshake succeeds")
}

fn bodies() -> (Vec<u8>, axum::Router) {
    let bytes = pattern((5 << 20) + 1);
    let file = file_of(&bytes);
    let router = answering(move |request| {
        let offset: u64 = request.uri().path()[1..].parse().expect("a number");
        let response = file_reply(&file, offset, (5 << 20) + 1 - offset);
        async move { response }
    });
    (bytes, router)
}

#[tokio::test]
async fn http1_over_tls_serves_files_by_copies() {
    let (tls, (bytes, router)) = (tls(), bodies());
    let server = start(
        Limits::default(),
        loopback().with_tls(tls.server.clone()),
        router,
    );
    let mut stream = connect(&server, &tls, b"http/1.1").await;
    for offset in [0, 4097, 5 << 20] {
        let got = get(&mut stream, &format!("/{offset}")).await;
        assert!(got.body == bytes[offset..]);
    }
}

#[tokio::test]
async fn http2_over_tls_serves_files_by_copies_on_streams_at_once() {
    let (tls, (bytes, router)) = (tls(), bodies());
    let server = start(
        Limits::default(),
        loopback().with_tls(tls.server.clone()),
        router,
    );
    let io = TokioIo::new(connect(&server, &tls, b"h2").await);
    let (sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
        .await
        .expect("HTTP/2 is spoken");
    let driver = tokio::spawn(connection);
    let fetch = |offset: usize| {
        let mut sender = sender.clone();
        async move {
            let request =
                Request::get(format!("https://localhost/{offset}")).body(Empty::<Bytes>::new());
            let response = sender
                .send_request(request.expect("a request"))
                .await
                .expect("a response");
            assert_eq!(
                response.headers()["content-length"],
                ((5 << 20) + 1 - offset).to_string()
            );
            response
                .into_body()
                .collect()
                .await
                .expect("a whole body")
                .to_bytes()
        }
    };
    let (a, b, c) = tokio::join!(fetch(0), fetch(70_001), fetch(5 << 20));
    assert!(a == bytes && b == bytes[70_001..] && c == bytes[5 << 20..]);
    drop(sender);
    driver
        .await
        .expect("no panic")
        .expect("the connection ends cleanly");
}

#[tokio::test]
async fn a_file_that_changes_is_cut_over_tls_as_well() {
    let bytes = pattern(24 << 20);
    let file = file_of(&bytes);
    let served = file.clone();
    let router = answering(move |_| {
        let response = file_reply(&served, 0, 24 << 20);
        async move { response }
    });
    let tls = tls();
    let server = start(
        Limits::default(),
        loopback().with_tls(tls.server.clone()),
        router,
    );
    let mut stream = connect(&server, &tls, b"http/1.1").await;
    send(&mut stream, "GET / HTTP/1.1\r\nHost: t\r\n\r\n").await;
    read_head(&mut stream).await.expect("a head");
    file.set_len(1 << 20).expect("our own file");
    assert!(read_to_end(&mut stream).await.len() < bytes.len());
}

#[tokio::test]
async fn a_marker_fails_every_write_that_cannot_send_a_file() {
    use hyper::rt::Write;
    let marker = SendBuf::File(1000);
    let marker = bytes::Buf::chunk(&marker);
    let is_refused = |poll: std::task::Poll<io::Result<usize>>| matches!(poll, std::task::Poll::Ready(Err(error)) if error.to_string().contains("marker"));
    let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());

    let (near, _far) = tokio::io::duplex(64);
    let mut guarded = GuardedIo(near);
    assert!(is_refused(
        std::pin::Pin::new(&mut guarded).poll_write(cx, marker)
    ));
    let bufs = [io::IoSlice::new(b"head"), io::IoSlice::new(marker)];
    assert!(is_refused(
        std::pin::Pin::new(&mut guarded).poll_write_vectored(cx, &bufs)
    ));

    let (near, _far) = tokio::net::UnixStream::pair().expect("a pair of sockets");
    let socket = Socket::unix(near, Arc::new(Pulse::new(&ServerOptions::default())));
    near_ready(&socket).await;
    let mut plain = PlainIo::new(socket, Pieces::default());
    assert!(is_refused(
        std::pin::Pin::new(&mut plain).poll_write(cx, marker)
    ));
    // A marker without its piece: out of step, never zeros.
    let bufs = [io::IoSlice::new(marker)];
    assert!(is_refused(
        std::pin::Pin::new(&mut plain).poll_write_vectored(cx, &bufs)
    ));
}

async fn near_ready(socket: &Socket) {
    std::future::poll_fn(|cx| socket.poll_write_ready(cx))
        .await
        .expect("a fresh socket takes bytes");
}

#[tokio::test]
async fn a_connection_that_is_given_a_marker_by_mistake_sends_none_of_it() {
    // The mistake: pieces offered to a connection whose IO is guarded, as if TLS could send files.
    let bytes = pattern(100_000);
    let file = file_of(&bytes);
    let router = answering(move |_| {
        let response = file_reply(&file, 0, 100_000);
        async move { response }
    });
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let served = tokio::spawn(crate::server::connection::serve_guarded_with_pieces(
        GuardedIo(near),
        router,
        false,
    ));
    let request = "GET / HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n";
    send(&mut far, request).await;
    let sent = read_to_end(&mut far).await;
    assert!(
        !sent.ends_with(&[0; 16]) && sent.len() < 1000,
        "{} bytes came",
        sent.len()
    );
    assert!(
        served
            .await
            .expect("no panic")
            .is_err_and(|error| error.contains("marker"))
    );
}

#[tokio::test]
async fn a_marker_of_any_length_fails_its_http2_stream_although_short_frames_are_copied() {
    // h2 copies what is shorter than 256 bytes into a buffer of its own: the connection would see no marker there.
    for size in [1, 255, 256, 4096, 100_000] {
        let file = file_of(&pattern(size));
        let router = answering(move |_| {
            let response = file_reply(&file, 0, size as u64);
            async move { response }
        });
        let (near, far) = tokio::io::duplex(1 << 20);
        tokio::spawn(crate::server::connection::serve_guarded_with_pieces(
            GuardedIo(near),
            router,
            true,
        ));
        let (mut sender, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(far))
                .await
                .expect("HTTP/2 is spoken");
        tokio::spawn(connection);
        let request = Request::get("http://localhost/").body(Empty::<Bytes>::new());
        let got = match sender.send_request(request.expect("a request")).await {
            Ok(response) => response.into_body().collect().await,
            Err(error) => Err(error),
        };
        assert!(got.is_err(), "{size} bytes that are not the file's");
    }
}
