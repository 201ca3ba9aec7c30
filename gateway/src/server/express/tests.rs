use super::*;
use crate::server::ServerOptions;
use crate::server::pulse::Pulse;

type Parsed = (Method, String, Vec<(String, String)>);

fn parsed(bytes: &str) -> Option<Parsed> {
    with_parsed(bytes.as_bytes(), &Limits::default(), |head| {
        let fields = head.fields.iter();
        Some((
            head.method.clone(),
            head.path.to_owned(),
            fields
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        ))
    })
}

fn get(target: &str, fields: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: nas:9000\r\n{fields}\r\n")
}

#[test]
fn a_plain_head_is_read_as_it_stands() {
    let fields =
        "X-Amz-Date: 20130524T000000Z\r\nUser-Agent:  a client  \r\nConnection: Keep-Alive\r\n";
    let (method, path, fields) = parsed(&get("/b/a%20k", fields)).expect("nothing else is in it");
    assert_eq!((method, path.as_str()), (Method::GET, "/b/a%20k"));
    let expected = [
        ("host", "nas:9000"),
        ("x-amz-date", "20130524T000000Z"),
        ("user-agent", "a client"),
        ("connection", "Keep-Alive"),
    ];
    assert_eq!(
        fields,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert!(parsed("HEAD /b/k HTTP/1.1\r\nhost: n\r\n\r\n").is_some());
}

#[test]
fn a_plain_put_is_read_with_what_it_says_of_its_object() {
    let put = |target: &str, fields: &str, body: &str| {
        let head = format!("PUT {target} HTTP/1.1\r\nhost: nas\r\n{fields}\r\n{body}");
        parsed(&head).map(|(_, _, fields)| fields.len())
    };
    for fields in [
        "Content-Length: 3\r\n",
        "content-length: 3\r\nContent-Type: text/plain\r\nx-amz-meta-a: b\r\nCache-Control: no-cache\r\n",
        "content-length: 0003\r\nExpect: 100-Continue\r\nContent-MD5: x\r\nX-Amz-Tagging: a=b\r\n",
    ] {
        let count = 1 + fields.matches("\r\n").count();
        for body in ["", "ab", "abc"] {
            assert_eq!(put("/b/k", fields, body), Some(count), "{fields:?}");
        }
        assert_eq!(
            put("/b/k", fields, "abcd"),
            None,
            "another request comes behind it"
        );
    }
    for fields in [
        "",
        "Content-Length: 65537\r\n",
        "Content-Length: -3\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 3, 3\r\n",
        "Content-Length: \r\n",
        "Content-Length: 3\r\nContent-Length: 3\r\n",
        "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 3\r\nExpect: a miracle\r\n",
        "Content-Length: 0\r\nExpect: 100-continue\r\n",
        "Content-Length: 3\r\nIf-None-Match: *\r\n",
        "Content-Length: 3\r\nx-amz-copy-source: /b/j\r\n",
        "Content-Length: 3\r\nx-amz-decoded-content-length: 3\r\n",
        "Content-Length: 3\r\nx-amz-server-side-encryption: AES256\r\n",
        "Content-Length: 3\r\nX-Amz-Meta-A: b\r\n",
        "Content-Length: 3\r\nx-amz-meta-a: caf\u{e9}\r\n",
        "Content-Length: 3\r\nConnection: close\r\n",
    ] {
        assert_eq!(put("/b/k", fields, ""), None, "{fields:?}");
    }
    assert_eq!(put("/b/k?partNumber=1", "Content-Length: 3\r\n", ""), None);
}

#[test]
fn whatever_else_is_in_a_head_takes_the_whole_way() {
    for fields in [
        "Range: bytes=0-1\r\n",
        "If-None-Match: \"x\"\r\n",
        "Content-Length: 0\r\n",
        "Transfer-Encoding: chunked\r\n",
        "Expect: 100-continue\r\n",
        "Connection: close\r\n",
        "Connection: keep-alive, upgrade\r\n",
        "Origin: http://x\r\n",
        "X-Forwarded-For: 1.2.3.4\r\n",
        "X-Amz-Security-Token: t\r\n",
        "X-Amz-Expected-Bucket-Owner: o\r\n",
        "x-amz-server-side-encryption-customer-algorithm: AES256\r\n",
        "Date: Fri, 24 May 2013 00:00:00 GMT\r\n",
        "Host: nas:9000\r\n",
        "accept: a\r\nAccept: b\r\n",
        "user-agent: caf\u{e9}\r\n",
        "user-agent: a\tb\r\n",
        "user-agent : a\r\n",
        "user-agent: a\r\n b\r\n",
        "a-name-of-more-than-thirty-two-letters-and-then-some: x\r\n",
    ] {
        assert_eq!(parsed(&get("/b/k", fields)), None, "{fields:?}");
    }
    for target in [
        "/b/k?versionId=null",
        "/b/k?",
        "/b/k#f",
        "http://nas/b/k",
        "*",
        "/b/\u{e9}",
        "/b/a|b",
        "/b/a\\b",
        "/b/a\"b",
    ] {
        assert_eq!(parsed(&get(target, "")), None, "{target:?}");
    }
}

#[test]
fn only_one_whole_head_is_taken() {
    let head = get("/b/k", "");
    assert!(parsed(&head).is_some());
    for cut in 0..head.len() {
        assert_eq!(parsed(&head[..cut]), None, "{cut}");
    }
    for more in [
        head.clone() + &head,
        head.clone() + "x",
        "\r\n".to_owned() + &head,
        head.replace("GET", "PUT"),
        head.replace("GET", "get"),
        head.replace("1.1", "1.0"),
        head.replace("Host: nas:9000\r\n", ""),
        get("/b/k", &"accept: x\r\n".repeat(30)),
        get(
            "/b/k",
            &format!("user-agent: {}\r\n", "x".repeat(MAX_HEAD * 4)),
        ),
    ] {
        assert_eq!(parsed(&more), None, "{more:?}");
    }
}

/// Pieces that heads are made of, and that break them.
const PIECES: [&str; 33] = [
    "PUT /b/k HTTP/1.1\r\n",
    "PUT /b/k HTTP/1.1\r\nContent-Length: 5\r\n",
    "PUT /b/k HTTP/1.1\r\nContent-Length: 65536\r\n",
    "GET /b/k HTTP/1.1\r\n",
    "HEAD /b/a%2Fk HTTP/1.1\r\n",
    "GET /b/k?x=y HTTP/1.1\r\n",
    "GET http://n/b/k HTTP/1.1\r\n",
    "GET /b/k HTTP/1.0\r\n",
    "Host: nas\r\n",
    "host:nas:9000 \r\n",
    "User-Agent: a  b\r\n",
    "Connection: keep-alive\r\n",
    "Connection: close\r\n",
    "Content-Length: 0\r\n",
    "content-length: 5\r\n",
    "Content-Length: 65537\r\n",
    "Content-Length: +5\r\n",
    "Content-Length: 5, 5\r\n",
    "Expect: 100-continue\r\n",
    "x-amz-meta-a: b\r\n",
    "X-Amz-Meta-A: b\r\n",
    "Transfer-Encoding: chunked\r\n",
    "X-Amz-Date: 20130524T000000Z\r\n",
    "Authorization: AWS4-HMAC-SHA256 x\r\n",
    "Accept:\r\n",
    "\r\n",
    "\n",
    "\r",
    " ",
    "\t",
    ":",
    "\u{e9}",
    "/",
];

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4000))]

    /// What goes the express way is one whole request to hyper's parser as well, the same one, and has a body where it
    /// is a PUT, of the same length.
    #[test]
    fn what_is_taken_is_what_the_whole_way_would_read(
        begin in 0..8_usize,
        host in 8..10_usize,
        pieces in proptest::collection::vec(10..PIECES.len(), 0..4),
        strike in proptest::option::of((0..200_usize, proptest::num::u8::ANY)),
    ) {
        use super::super::head::{Framing, Judged, judge};
        let text: String = [begin, host].iter().chain(&pieces).map(|piece| PIECES[*piece]).collect();
        let mut bytes = (text + "\r\n").into_bytes();
        if let Some((at, byte)) = strike && at < bytes.len() {
            bytes[at] = byte;
        }
        let limits = Limits::default();
        let taken = with_parsed(&bytes, &limits, |head| {
            let fields = head.fields.iter().map(|(name, value)| (name.to_string(), value.to_string()));
            let framed = (head.len, head.body);
            Some((head.method.clone(), head.path.to_owned(), framed, fields.collect::<Vec<_>>()))
        });
        if let Some((method, path, (len, body), fields)) = taken {
            let is_put = method == Method::PUT;
            let judged = judge(&bytes, &limits);
            let same = matches!(judged, Judged::Whole { len: l, body: Framing::Length(b) } if (l, b) == (len, body));
            proptest::prop_assert!(same, "{judged:?}");
            let behind = (bytes.len() - len) as u64;
            proptest::prop_assert!(behind <= body && (is_put || body == 0));
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut request = httparse::Request::new(&mut headers);
            proptest::prop_assert!(request.parse(&bytes).is_ok());
            let uri: http::Uri = request.path.unwrap_or_default().parse().expect("hyper takes it");
            proptest::prop_assert_eq!(request.method, Some(method.as_str()));
            proptest::prop_assert_eq!((uri.path(), uri.query(), uri.authority()), (path.as_str(), None, None));
            let read: Vec<(String, String)> = request.headers.iter()
                .map(|field| (field.name.to_lowercase(), String::from_utf8_lossy(field.value).into_owned()))
                .collect();
            proptest::prop_assert_eq!(read, fields);
        }
    }
}

#[test]
fn answers_of_one_second_differ_in_their_id_alone_and_the_next_has_its_own_date() {
    let begun = |id, second| {
        let mut out = b"before".to_vec();
        begin(
            &mut out,
            StatusCode::OK,
            id,
            Timestamp::from_parts(second, 0),
        );
        String::from_utf8(out).expect("it is ASCII")
    };
    let (one, other) = (RequestId::next(), RequestId::next());
    let first = begun(one, 784_111_777);
    let expected = format!(
        "beforeHTTP/1.1 200 OK\r\nx-amz-request-id: {}\r\nx-amz-id-2: {}\r\nserver: twintree\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
        one.as_str(),
        host_id()
    );
    assert_eq!(first, expected);
    let second = begun(other, 784_111_777);
    assert_eq!(second, expected.replace(one.as_str(), other.as_str()));
    let later = begun(other, 784_111_778);
    assert_eq!(later, second.replace(":37 GMT", ":38 GMT"));
}

#[tokio::test]
async fn what_has_come_is_taken_at_once_and_then_nothing_is_ready() {
    let (here, there) = tokio::net::UnixStream::pair().expect("a pair of sockets");
    let pulse = Arc::new(Pulse::new(&ServerOptions::default()));
    let socket = Socket::unix(here, pulse);
    let take = |size: usize| {
        let socket = &socket;
        std::future::poll_fn(move |cx| {
            let mut room = vec![0; size];
            let taken = ready!(socket.poll_take(cx, &mut room));
            Poll::Ready(taken.map(|taken| room[..taken].to_vec()))
        })
    };
    let at_once = |size| now(take(size));
    there.writable().await.expect("it can be written");
    assert!(at_once(4).is_none(), "nothing has come");
    assert_eq!(there.try_write(b"abcdef").expect("there is room"), 6);
    assert_eq!(take(4).await.expect("bytes"), b"abcd");
    assert_eq!(take(4).await.expect("bytes"), b"ef");
    assert!(at_once(4).is_none(), "all of it was taken");
    assert_eq!(there.try_write(b"g").expect("there is room"), 1);
    drop(there);
    assert_eq!(take(4).await.expect("bytes"), b"g");
    assert_eq!(take(4).await.expect("the end"), b"");
}

/// What a future says when it is asked once.
fn now<F: Future>(future: F) -> Option<F::Output> {
    let mut cx = Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut cx) {
        Poll::Ready(said) => Some(said),
        Poll::Pending => None,
    }
}
