//! What passes a screen, against what came, in pieces of any size, read into buffers of any size; and what hyper makes
//! of it, against what hyper makes of the same bytes without a screen.

use std::convert::Infallible;
use std::future::poll_fn;
use std::mem::MaybeUninit;

use http::header::{CONNECTION, HeaderValue};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::service::service_fn;
use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// Brings bytes in given pieces, and then the end.
struct Pieces(Vec<Vec<u8>>);

impl Read for Pieces {
    fn poll_read(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let pieces = &mut self.get_mut().0;
        if let Some(piece) = pieces.first_mut() {
            let count = piece.len().min(cursor.remaining());
            cursor.put_slice(&piece[..count]);
            piece.drain(..count);
            pieces.retain(|piece| !piece.is_empty());
        }
        Poll::Ready(Ok(()))
    }
}

/// What is answered, kept for whoever looks.
type Answered = Arc<Mutex<Vec<u8>>>;

/// A client that says what it has to say whatever is answered.
struct Client(Pieces, Answered);

impl Read for Client {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, cursor)
    }
}

impl Write for Client {
    fn poll_write(
        self: Pin<&mut Self>,
        _cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.1.lock().extend_from_slice(buf);
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A request as a service is given it: its first line, and its body if that was whole.
type Given = (String, Option<Vec<u8>>);

/// What hyper gives its service of what a client says, and whether a head was refused.
async fn given(io: impl Read + Write + Unpin, refusals: Refusals) -> (Vec<Given>, bool) {
    let log = Arc::new(Mutex::new((Vec::new(), false)));
    let service = service_fn(|request: http::Request<Incoming>| {
        let (log, refusal) = (log.clone(), refusals.take());
        async move {
            let mut response = http::Response::new(Empty::<bytes::Bytes>::new());
            if refusal.is_some() {
                log.lock().1 = true;
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
                return Ok::<_, Infallible>(response);
            }
            let line = format!("{} {}", request.method(), request.uri());
            let body = request.into_body().collect().await;
            let body = body.ok().map(|body| body.to_bytes().to_vec());
            log.lock().0.push((line, body));
            Ok(response)
        }
    });
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder.half_close(true).max_headers(256);
    // How it ends says nothing here: the requests and answers do.
    let _ = builder.serve_connection(io, service).await;
    std::mem::take(&mut *log.lock())
}

fn pieces(bytes: &[u8], cuts: &[Index]) -> Pieces {
    let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    at.extend([0, bytes.len()]);
    at.sort_unstable();
    let piece = |ends: &[usize]| bytes[ends[0]..ends[1]].to_vec();
    let pieces = at.windows(2).map(piece);
    Pieces(pieces.filter(|piece| !piece.is_empty()).collect())
}

/// All that hyper would read, and what each turn of the service would be told when it has read so far.
async fn passed(io: Pieces, step: usize) -> (Vec<u8>, Option<usize>) {
    let refusals = Refusals::default();
    let mut screen = Screen::new(io, BytesMut::new(), Limits::default(), refusals.clone());
    let (mut all, mut refused_at) = (Vec::new(), None);
    loop {
        let mut memory = vec![MaybeUninit::uninit(); step];
        let mut buf = ReadBuf::uninit(&mut memory);
        let read = poll_fn(
            |cx| match Pin::new(&mut screen).poll_read(cx, buf.unfilled()) {
                Poll::Pending => Poll::Ready(None), // only where nothing more is ever read
                Poll::Ready(read) => Poll::Ready(Some(read)),
            },
        );
        match read.await {
            Some(read) => read.expect("the pieces bring no error"),
            None => return (all, refused_at),
        }
        if refusals.take().is_some() {
            refused_at = Some(all.len());
        }
        if buf.filled().is_empty() {
            return (all, refused_at);
        }
        all.extend_from_slice(buf.filled());
    }
}

/// A request, whole.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let body = || proptest::collection::vec(any::<u8>(), 0..300);
    let head = |line: String| format!("PUT /b/k HTTP/1.1\r\nhost: t\r\n{line}\r\n").into_bytes();
    let none = Just(b"GET / HTTP/1.1\r\nhost: t\r\n\r\n".to_vec());
    let length = body()
        .prop_map(move |body| [head(format!("Content-Length: {}\r\n", body.len())), body].concat());
    let chunked = proptest::collection::vec(body(), 0..4).prop_map(move |chunks| {
        let mut all = head("transfer-encoding: chunked\r\n".to_owned());
        for chunk in chunks.iter().filter(|chunk| !chunk.is_empty()) {
            all.extend(format!("{:x};a=b\r\n", chunk.len()).bytes());
            all.extend(chunk);
            all.extend(b"\r\n");
        }
        all.extend(b"0\r\nx-a: b\r\n\r\n");
        all
    });
    prop_oneof![none, length, chunked]
}

/// Something like a request.
fn messy() -> impl Strategy<Value = Vec<u8>> {
    let first = proptest::sample::select(vec![
        "PUT /b/k HTTP/1.1",
        "PUT /b/k HTTP/1.0",
        "HEAD http://t/ HTTP/1.1",
        "CONNECT t:1 HTTP/1.1",
        "PUT /\"b HTTP/1.1",
        "P@T  / HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ]);
    let line = proptest::sample::select(vec![
        "Content-Length: 3",
        "content-length: 03",
        "content-length: 0",
        "content-length: 3, 3",
        "content-length: 18446744073709551614",
        "transfer-encoding: chunked",
        "Transfer-Encoding: gzip, Chunked",
        "transfer-encoding: chunked, gzip",
        "transfer-encoding : chunked",
        "transfer-encoding:\tchunked,",
        "transfer-encoding: \u{e9}, chunked",
        "connection: close",
        "connection: keep-alive",
        "expect: 100-continue",
        "upgrade: h2c",
        " folded",
        "x\nx: y",
        "x: \r",
        "no colon",
    ]);
    let body = proptest::sample::select(vec![
        &b""[..],
        b"abc",
        b"3\r\nabc\r\n0\r\n\r\n",
        b"0\r\nx: y\r\n\r\n",
        b"2;x\r\nabc\r\n",
        b"\r\n\n",
    ]);
    let lines = proptest::collection::vec(line, 0..3);
    (first, lines, body).prop_map(|(first, lines, body)| {
        let mut all = format!("{first}\r\nhost: t\r\n").into_bytes();
        lines
            .iter()
            .for_each(|line| all.extend(format!("{line}\r\n").bytes()));
        [&all, &b"\r\n"[..], body].concat()
    })
}

fn now<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.expect("a runtime").block_on(future)
}

proptest! {
    #[test]
    fn requests_pass_as_they_came(
        messages in proptest::collection::vec(message(), 0..6),
        cuts in proptest::collection::vec(any::<Index>(), 0..40),
        step in 1_usize..600,
    ) {
        let sent = messages.concat();
        prop_assert_eq!(now(passed(pieces(&sent, &cuts), step)), (sent, None));
    }

    #[test]
    fn nothing_passes_behind_a_refused_head_and_it_is_told_with_the_head_in_its_place(
        before in proptest::collection::vec(message(), 0..4),
        cuts in proptest::collection::vec(any::<Index>(), 0..40),
        step in 1_usize..600,
    ) {
        let before = before.concat();
        let refused = "PUT /b/k HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n";
        let sent = [&before, refused.as_bytes(), b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"].concat();
        let (all, refused_at) = now(passed(pieces(&sent, &cuts), step));
        prop_assert_eq!(refused_at, Some(before.len()));
        prop_assert!(all.starts_with(&before));
        prop_assert_eq!(&all[before.len()..], b"GET / HTTP/1.1\r\nhost: refused\r\n\r\n");
    }

    #[test]
    fn hyper_reads_behind_a_screen_what_it_reads_without_and_refuses_nothing_more(
        said in proptest::collection::vec(prop_oneof![messy(), message()], 1..6),
        flips in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..2),
        cuts in proptest::collection::vec(any::<Index>(), 0..20),
    ) {
        let mut sent = said.concat();
        for (at, with) in flips {
            let at = at.index(sent.len());
            sent[at] = with;
        }
        let (bare, screened) = (Answered::default(), Answered::default());
        let client = Client(pieces(&sent, &cuts), bare.clone());
        let (expected, _) = now(given(client, Refusals::default()));
        let refusals = Refusals::default();
        let client = Client(pieces(&sent, &cuts), screened.clone());
        let screen = Screen::new(client, BytesMut::new(), Limits::default(), refusals.clone());
        let (seen, refused) = now(given(screen, refusals));
        let text = String::from_utf8_lossy(&sent);
        prop_assert!(expected.starts_with(&seen), "{:?}: {:?} {:?}", text, seen, expected);
        prop_assert!(refused || seen == expected, "{:?}: {:?} {:?}", text, seen, expected);
        let own = |answers: &Answered| {
            let text = String::from_utf8_lossy(&answers.lock()).into_owned();
            text.lines().any(|line| line.starts_with("HTTP/1.") && line.contains(" 4"))
        };
        prop_assert!(!own(&screened), "hyper refused what was let through: {:?}", text);
        prop_assert!(refused || !own(&bare), "hyper refuses what was let through: {:?}", text);
    }

    #[test]
    fn whatever_comes_never_panics_and_passes_as_it_came_up_to_a_refusal(
        noise in proptest::collection::vec(prop_oneof![message(), proptest::collection::vec(any::<u8>(), 0..60), Just(b"\r\n\n".to_vec())], 0..5),
        cuts in proptest::collection::vec(any::<Index>(), 0..20),
        step in 1_usize..600,
    ) {
        let sent = noise.concat();
        let (all, refused_at) = now(passed(pieces(&sent, &cuts), step));
        let kept = refused_at.unwrap_or(all.len());
        prop_assert!(without_empty_lines(&sent).starts_with(&without_empty_lines(&all[..kept])));
    }
}

/// Empty lines ahead of a head may be dropped, or not.
fn without_empty_lines(bytes: &[u8]) -> Vec<u8> {
    let kept = bytes.iter().filter(|byte| !matches!(byte, b'\r' | b'\n'));
    kept.copied().collect()
}

#[tokio::test]
async fn a_head_that_has_no_end_is_held_up_to_its_bound_only() {
    let endless = vec![b"GET / HTTP/1.1\r\nx: ".to_vec(), vec![b'y'; 1 << 20]];
    let refusals = Refusals::default();
    let mut screen = Screen::new(
        Pieces(endless),
        BytesMut::new(),
        Limits::default(),
        refusals.clone(),
    );
    let mut memory = [MaybeUninit::uninit(); 4096];
    let mut buf = ReadBuf::uninit(&mut memory);
    poll_fn(|cx| Pin::new(&mut screen).poll_read(cx, buf.unfilled()))
        .await
        .expect("the pieces bring no error");
    assert!(refusals.take().is_some());
    let left: usize = screen.io.0.iter().map(Vec::len).sum();
    assert!(
        left > (1 << 20) - (80 << 10),
        "{left} bytes were left unread"
    );
}

#[tokio::test]
async fn an_empty_line_that_comes_alone_ends_nothing() {
    let request = b"GET / HTTP/1.1\r\nhost: t\r\n\r\n";
    let said: [&[u8]; 6] = [b"\r\n", request, b"\r\n", b"\n", b"\r\n", request];
    let (all, refused) = passed(Pieces(said.map(<[u8]>::to_vec).to_vec()), 600).await;
    assert_eq!(
        without_empty_lines(&all),
        without_empty_lines(&request.repeat(2))
    );
    assert_eq!(refused, None);
}
