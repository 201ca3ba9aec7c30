//! Connections between the express way and hyper.

use std::time::Duration;

use crate::server::{Express, ExpressHead, Expressed, Intent, Service};

use super::*;

/// Answers nothing itself.
struct Declines;

impl Express for Declines {
    fn answer(&self, _head: &ExpressHead<'_>, _out: &mut Vec<u8>) -> Option<Expressed> {
        None
    }

    fn intend(&self, _head: &ExpressHead<'_>) -> Option<Box<dyn Intent>> {
        None
    }
}

/// Answers after a while, in which hyper is polled in vain.
fn after_a_while() -> axum::Router {
    answering(|_| async {
        for _ in 0..4 {
            // The slow disk that this stands for, not a synchronisation.
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        reply(200, "at last".to_owned())
    })
}

#[tokio::test]
async fn an_answer_that_takes_a_while_arrives_though_the_connection_wants_back() {
    let service = Service {
        router: after_a_while(),
        express: Some(Arc::new(Declines)),
    };
    let server = start(Limits::default(), loopback(), service);
    let mut stream = server.connect().await;
    // Declined at the first, it may go back after the fourth, which is not answered yet when hyper waits again.
    for turn in 0..9 {
        let got = get(&mut stream, "/bucket/key").await;
        assert_eq!(got.body, b"at last"[..], "turn {turn}");
    }
}
