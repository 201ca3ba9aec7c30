//! The S3 face behind the server: what an unsigned or unknown request gets, on the wire.

use super::*;
use crate::auth::Credentials;
use crate::call::{Gateway, Settings};

fn gateway(root: &std::path::Path) -> Arc<Gateway> {
    let store = twintree_store::Store::open(twintree_store::StoreOptions {
        root: root.to_owned(),
        durability: twintree_store::Durability::Relaxed,
        keys: twintree_store::KeyPolicy::Any,
        read_only: true,
        hide: Vec::new(),
        verify_mtime_only: false,
        etags: Default::default(),
        buckets: Default::default(),
        more_roots: Vec::new(),
    });
    let (store, credentials) = (store.expect("a directory"), Arc::new(Credentials::new([])));
    Arc::new(Gateway {
        store,
        credentials,
        settings: Settings::default(),
        console: Default::default(),
    })
}

#[tokio::test]
async fn an_unsigned_request_is_a_403_document_with_the_ids_of_its_headers() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = serve(crate::service::router(gateway(dir.path())));
    let mut stream = server.connect().await;
    let got = get(&mut stream, "/b/a%20b").await;
    let document = String::from_utf8(got.body.to_vec()).expect("XML is UTF-8");
    assert_eq!(
        (got.status, got.header("content-type")),
        (403, Some("application/xml"))
    );
    for part in [
        "<Code>AccessDenied</Code>".to_owned(),
        "<Resource>/b/a b</Resource>".to_owned(),
        format!(
            "<RequestId>{}</RequestId>",
            got.header("x-amz-request-id").expect("an id")
        ),
        format!(
            "<HostId>{}</HostId>",
            got.header("x-amz-id-2").expect("an id")
        ),
    ] {
        assert!(document.contains(&part), "{part} in {document}");
    }
}

#[tokio::test]
async fn refusals_keep_the_connection_in_step_whatever_the_method() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = serve(crate::service::router(gateway(dir.path())));
    let mut stream = server.connect().await;
    for (request, status) in [
        ("HEAD /b/k HTTP/1.1\r\nHost: t\r\n\r\n", 403),
        (
            "PUT /b/k HTTP/1.1\r\nHost: t\r\nContent-Length: 4\r\n\r\nbody",
            403,
        ),
        ("DELETE /b/k HTTP/1.1\r\nHost: t\r\n\r\n", 403),
        (
            "POST / HTTP/1.1\r\nHost: t\r\nContent-Length: 0\r\n\r\n",
            405,
        ),
        (
            "OPTIONS /b HTTP/1.1\r\nHost: t\r\nOrigin: http://o.test\r\n\r\n",
            403,
        ),
        ("GET /b/%zz HTTP/1.1\r\nHost: t\r\n\r\n", 400),
        ("GET // HTTP/1.1\r\nHost: t\r\n\r\n", 403),
    ] {
        send(&mut stream, request).await;
        let (found, head) = read_head(&mut stream).await.expect("a head");
        assert_eq!(found, status, "{request}");
        let len = Got {
            status,
            head,
            body: Bytes::new(),
        };
        let len = len
            .header("content-length")
            .map_or(0, |text| text.parse().expect("a length"));
        let len = if request.starts_with("HEAD") { 0 } else { len };
        stream
            .read_exact(&mut vec![0; len])
            .await
            .expect("the whole body");
    }
}

#[tokio::test]
async fn a_service_that_fails_does_not_answer() {
    for (status, answers) in [(200, true), (403, true), (500, false), (503, false)] {
        let router = answering(move |_| async move { reply(status, String::new()) });
        assert_eq!(Service::from(router).answers().await, answers, "{status}");
    }
}
