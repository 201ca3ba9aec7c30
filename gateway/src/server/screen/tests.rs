//! What passes a screen, against what came: in pieces of any size, read into buffers of any size.

use std::future::poll_fn;
use std::mem::MaybeUninit;

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
    let mut screen = Screen::new(io, Limits::default(), refusals.clone());
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
    let mut screen = Screen::new(Pieces(endless), Limits::default(), refusals.clone());
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
