//! Documents whose making may take long: the status waits a while for the outcome; after that the
//! answer has begun, white space keeps the connection alive, and a failure is an `Error` inside 200.
//!
//! Semantics: S3 does so for CompleteMultipartUpload and the copies, and SDKs look for it ("CompleteMultipartUpload",
//! S3 API reference). White space may stand only behind the XML declaration.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Response};
use http_body::{Body, Frame};
use tokio::time::{Interval, MissedTickBehavior, timeout};

use super::answer;
use crate::call::{Call, Reply, blocking};
use crate::error::{Origin, S3Error, S3Result};
use crate::reply::ReplyBody;
use crate::server::host_id;
use crate::xml::{DECLARATION, Writer};

/// How long the status waits, and how often a byte is sent after that. Proxies give up after 30 to 60 s of silence.
const PATIENCE: Duration = Duration::from_secs(10);

/// Makes a document on the blocking pool, and answers it whenever it is there. It is made to the end, also where the
/// client goes away meanwhile.
///
/// # Errors
/// What `work` says, if it says so early.
pub(super) async fn document(
    call: &Call,
    work: impl FnOnce() -> S3Result<Writer> + Send + 'static,
) -> S3Result<Reply> {
    let asked = Asked {
        resource: call.parts.uri.path().to_owned(),
        request_id: call.request_id.clone(),
    };
    document_within(PATIENCE, asked, work).await
}

/// The work on the blocking pool: begun at the first look at it, and from then on not ended by dropping this.
type Work = Pin<Box<dyn Future<Output = S3Result<Writer>> + Send>>;

/// What a late error says about its request.
struct Asked {
    resource: String,
    request_id: String,
}

async fn document_within(
    patience: Duration,
    asked: Asked,
    work: impl FnOnce() -> S3Result<Writer> + Send + 'static,
) -> S3Result<Reply> {
    let mut work: Work = Box::pin(blocking(work));
    if let Ok(outcome) = timeout(patience, &mut work).await {
        return outcome.map(answer::document);
    }
    let mut ticks = tokio::time::interval(patience);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let body = axum::body::Body::new(LateBody {
        work,
        ticks,
        asked,
        stage: Stage::Declaration,
    });
    let mut reply = Response::new(ReplyBody::Stream(body));
    reply
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    Ok(reply)
}

/// The declaration, white space while the work lasts, and the rest of the document.
struct LateBody {
    work: Work,
    ticks: Interval,
    asked: Asked,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Declaration,
    Waiting,
    Ended,
}

impl LateBody {
    fn error(&self, error: &S3Error) -> Vec<u8> {
        let Asked {
            resource,
            request_id,
        } = &self.asked;
        tracing::warn!(request_id, "failed after its answer had begun: {error}");
        error.to_xml(&Origin {
            resource,
            request_id,
            host_id: host_id(),
        })
    }
}

impl Body for LateBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let bytes = match self.stage {
            Stage::Declaration => {
                self.stage = Stage::Waiting;
                Bytes::from_static(DECLARATION)
            }
            Stage::Ended => return Poll::Ready(None),
            Stage::Waiting => {
                if let Poll::Ready(outcome) = self.work.as_mut().poll(context) {
                    self.stage = Stage::Ended;
                    let document = match outcome {
                        Ok(xml) => xml.finish(),
                        Err(error) => self.error(&error),
                    };
                    Bytes::from(document).slice(DECLARATION.len()..)
                } else {
                    std::task::ready!(self.ticks.poll_tick(context));
                    Bytes::from_static(b" ")
                }
            }
        };
        Poll::Ready(Some(Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        self.stage == Stage::Ended
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use http_body_util::BodyExt as _;

    use super::*;
    use crate::error::Code;

    const SHORT: Duration = Duration::from_millis(5);

    fn asked() -> Asked {
        Asked {
            resource: "/b/k".to_owned(),
            request_id: "REQ".to_owned(),
        }
    }

    fn run<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        runtime.expect("a runtime").block_on(test)
    }

    /// The body of work that ends only once three bytes of white space were sent.
    async fn late_body(outcome: S3Result<Writer>) -> String {
        let (release, wait) = mpsc::channel::<()>();
        let work = move || {
            wait.recv().expect("the test lets it go on");
            outcome
        };
        let reply = document_within(SHORT, asked(), work)
            .await
            .expect("the status is there");
        assert_eq!(reply.status(), 200);
        let ReplyBody::Stream(mut body) = reply.into_body() else {
            panic!("not late")
        };
        let mut text = String::new();
        while let Some(frame) = body.frame().await {
            let bytes = frame.expect("no error").into_data().expect("data");
            text.push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
            if text.ends_with("   ") {
                release.send(()).expect("the work still waits");
            }
        }
        text
    }

    #[test]
    fn what_is_soon_there_has_its_length_and_its_own_status() {
        let reply = run(document_within(Duration::from_secs(60), asked(), || {
            Ok(Writer::document("A"))
        }));
        assert!(matches!(
            reply.expect("a reply").into_body(),
            ReplyBody::Bytes(_)
        ));
        let failed = run(document_within(Duration::from_secs(60), asked(), || {
            Err(Code::InvalidPart.into())
        }));
        assert_eq!(failed.expect_err("an error").code(), Code::InvalidPart);
    }

    #[test]
    fn white_space_stands_between_the_declaration_and_a_late_document() {
        let text = run(late_body(Ok(Writer::document("A"))));
        let rest = text
            .strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")
            .expect("the declaration is first");
        assert!(rest.starts_with("   "));
        assert_eq!(rest.trim_start(), "<A></A>");
    }

    #[test]
    fn a_late_failure_is_an_error_document_inside_200() {
        let text = run(late_body(Err(Code::InvalidPart.into())));
        assert!(
            text.contains("   <Error><Code>InvalidPart</Code>"),
            "{text}"
        );
        assert!(text.contains("<RequestId>REQ</RequestId>"));
    }
}
