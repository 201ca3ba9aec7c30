//! The pages of the admin listener: `/health/live`, `/health/ready`, `/metrics`, and the console where it is wanted here;
//! everything else is refused.
//!
//! They ask for no key and show nothing that is worth one: no object, no key, no path but those of the roots, of mapped
//! buckets and of the mount, and of buckets only the name of a mapped one whose directory is in trouble: whoever looks
//! after the machine must know which disk to bring back. What they say comes from an [`Admin`], which may wait for a disk that does not answer:
//! that is bounded here.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::console::{self, Page, Pages, State};
use crate::meter::Exposition;
use crate::route::named_host;
use crate::server::{Limits, ServerOptions};

/// How long the disk is given to answer.
const PATIENCE: Duration = Duration::from_secs(5);
const TEXT: &str = "text/plain; charset=utf-8";
/// Prometheus' own name for its text form.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Who knows how the daemon fares. Both may wait.
pub trait Admin: Send + Sync + 'static {
    /// Why no request should be sent here now, one sentence each; nothing: all is well.
    fn unready(&self) -> Vec<String>;

    /// Writes all metrics.
    fn metrics(&self, out: &mut Exposition);

    /// How it fares, for the console.
    fn state(&self) -> State;
}

/// How the server of these pages treats its clients: a scraper or two and a load balancer, with short heads.
pub fn options() -> ServerOptions {
    ServerOptions {
        limits: Limits {
            connections: 64,
            header_timeout: Duration::from_secs(5),
            header_bytes: 4 << 10,
            headers: 64,
            body_idle: Duration::from_secs(10),
            drain: Duration::from_secs(1),
            ..Limits::default()
        },
        quiet: true,
        ..ServerOptions::default()
    }
}

/// The pages; `console`: with these, too.
pub fn router(admin: Arc<dyn Admin>, console: Option<Pages>) -> Router {
    patient_router(admin, console, PATIENCE)
}

fn patient_router(admin: Arc<dyn Admin>, console: Option<Pages>, patience: Duration) -> Router {
    let (turn, console) = (Arc::new(Mutex::new(())), Arc::new(console));
    Router::new().fallback(move |request: Request<Body>| {
        let (admin, turn) = (Arc::clone(&admin), Turn(Arc::clone(&turn), patience));
        let console = Arc::clone(&console);
        let (head, _) = request.into_parts();
        async move {
            match (*console).as_ref().and_then(|console| find(console, &head)) {
                Some(Page::Whole(page)) => page,
                Some(Page::State) => match in_time(turn, move || admin.state()).await {
                    Ok(state) => console::state_page(&state),
                    Err(text) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text),
                },
                None => answer(admin, turn, &head.method, head.uri.path()).await,
            }
        }
    })
}

fn find(console: &Pages, head: &Parts) -> Option<Page> {
    console.page(&head.method, head.uri.path(), named_host(head))
}

async fn answer(admin: Arc<dyn Admin>, turn: Turn, method: &Method, path: &str) -> Response<Body> {
    if !matches!(path, "/health/live" | "/health/ready" | "/metrics") {
        return page(StatusCode::NOT_FOUND, TEXT, "no such page\n".to_owned());
    }
    if !matches!(*method, Method::GET | Method::HEAD) {
        let text = "this page is only read\n".to_owned();
        let mut refused = page(StatusCode::METHOD_NOT_ALLOWED, TEXT, text);
        let allow = HeaderValue::from_static("GET, HEAD");
        refused.headers_mut().insert(ALLOW, allow);
        return refused;
    }
    match path {
        "/health/live" => page(StatusCode::OK, TEXT, "alive\n".to_owned()),
        "/health/ready" => match in_time(turn, move || admin.unready()).await {
            Ok(causes) if causes.is_empty() => page(StatusCode::OK, TEXT, "ready\n".to_owned()),
            Ok(causes) => {
                let lines: String = causes.iter().map(|cause| format!("{cause}\n")).collect();
                page(StatusCode::SERVICE_UNAVAILABLE, TEXT, lines)
            }
            Err(text) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text),
        },
        _ => {
            let metrics = move || {
                let mut out = Exposition::default();
                admin.metrics(&mut out);
                out.into_text()
            };
            match in_time(turn, metrics).await {
                Ok(text) => page(StatusCode::OK, METRICS, text),
                Err(text) => page(StatusCode::SERVICE_UNAVAILABLE, TEXT, text),
            }
        }
    }
}

/// Who may ask, one at a time, and how long he is waited for.
struct Turn(Arc<Mutex<()>>, Duration);

/// Asks on a thread that may wait, one at a time: a disk that never answers keeps one thread, and no more.
async fn in_time<T: Send + 'static>(
    Turn(turn, patience): Turn,
    ask: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let asked = async {
        let mine: OwnedMutexGuard<()> = turn.lock_owned().await;
        // Not counted with the works of requests, which it is asked about.
        tokio::task::spawn_blocking(move || {
            let told = ask();
            drop(mine);
            told
        })
        .await
    };
    match tokio::time::timeout(patience, asked).await {
        Ok(Ok(told)) => Ok(told),
        Ok(Err(_panicked)) => Err("the question failed: see the log\n".to_owned()),
        Err(_elapsed) => Err(format!(
            "the disk has not answered for {} s\n",
            patience.as_secs_f32()
        )),
    }
}

fn page(status: StatusCode, kind: &'static str, text: String) -> Response<Body> {
    let mut page = Response::new(Body::from(text));
    *page.status_mut() = status;
    let headers = page.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    page
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
    use std::sync::mpsc;

    use http_body_util::BodyExt;
    use parking_lot::Mutex as Slot;
    use tower_service::Service;

    use super::*;

    /// Says what it is told to; waits for a word first where it has a line for one.
    struct Told {
        causes: Slot<Vec<String>>,
        word: Option<Slot<mpsc::Receiver<()>>>,
        asked: AtomicUsize,
    }

    impl Admin for Told {
        fn unready(&self) -> Vec<String> {
            self.asked.fetch_add(1, Relaxed);
            if let Some(word) = &self.word {
                // It ends with an error when nobody speaks any more, and then all is well again.
                let _ = word.lock().recv();
            }
            self.causes.lock().clone()
        }

        fn metrics(&self, out: &mut Exposition) {
            out.one(crate::meter::Kind::Gauge, "a", "Words.", 1);
        }

        fn state(&self) -> State {
            let troubles = self.unready();
            State {
                troubles,
                ..State::default()
            }
        }
    }

    async fn ask(router: &Router, method: &str, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path);
        let request = request.body(Body::empty()).expect("a request");
        let answer = router.clone().call(request).await.expect("an answer");
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body");
        (
            status,
            String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        )
    }

    #[tokio::test]
    async fn three_pages_are_shown_and_nothing_else() {
        let told = Arc::new(Told {
            causes: Slot::default(),
            word: None,
            asked: AtomicUsize::new(0),
        });
        let router = router(told.clone(), None);
        let is = |status, text: &str| (status, text.to_owned());
        assert_eq!(
            ask(&router, "GET", "/health/live").await,
            is(200, "alive\n")
        );
        assert_eq!(
            ask(&router, "GET", "/health/ready").await,
            is(200, "ready\n")
        );
        *told.causes.lock() = vec!["one".to_owned(), "two".to_owned()];
        let unready = ask(&router, "GET", "/health/ready").await;
        assert_eq!(unready, is(503, "one\ntwo\n"));
        let metrics = ask(&router, "GET", "/metrics").await;
        assert_eq!(metrics, is(200, "# HELP a Words.\n# TYPE a gauge\na 1\n"));
        assert_eq!(ask(&router, "POST", "/metrics").await.0, 405);
        for path in [
            "/",
            "/metrics/",
            "/health",
            "//metrics",
            "/bucket/key",
            "/.twintree/ui/",
            "/.twintree/ui/state.json",
        ] {
            assert_eq!(ask(&router, "GET", path).await.0, 404, "{path}");
        }
    }

    #[tokio::test]
    async fn the_console_is_there_where_it_is_wanted_and_the_other_pages_with_it() {
        let told = Arc::new(Told {
            causes: Slot::new(vec!["a trouble".to_owned()]),
            word: None,
            asked: AtomicUsize::new(0),
        });
        let pages = Pages {
            s3: None,
            region: "r".to_owned(),
        };
        let router = router(told, Some(pages));
        for path in ["/.twintree/ui/", "/.twintree/ui/app.js", "/health/live"] {
            assert_eq!(ask(&router, "GET", path).await.0, 200, "{path}");
        }
        let (status, state) = ask(&router, "GET", "/.twintree/ui/state.json").await;
        assert_eq!(status, 200);
        assert!(
            state.starts_with("{\"troubles\":[\"a trouble\"]"),
            "{state}"
        );
        assert_eq!(ask(&router, "GET", "/bucket/key").await.0, 404);
        assert_eq!(ask(&router, "GET", "/.twintree/").await.0, 404);
    }

    #[tokio::test]
    async fn a_disk_that_does_not_answer_keeps_one_thread_and_is_a_cause() {
        let (speak, word) = mpsc::channel();
        let told = Arc::new(Told {
            causes: Slot::default(),
            word: Some(Slot::new(word)),
            asked: AtomicUsize::new(0),
        });
        let router = patient_router(told.clone(), None, Duration::from_millis(50));
        for _ in 0..3 {
            let (status, text) = ask(&router, "GET", "/health/ready").await;
            assert_eq!(
                (status, text.as_str()),
                (503, "the disk has not answered for 0.05 s\n")
            );
        }
        assert_eq!(told.asked.load(Relaxed), 1);
        drop(speak);
        while ask(&router, "GET", "/health/ready").await.0 != 200 {}
    }
}
