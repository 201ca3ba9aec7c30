//! A future that hardly ever has anything to say, in a task that is woken for something else all the time.
//!
//! A task's waker does not tell who woke it, so that everything the task waits for is asked at every turn: on a
//! connection at work, the timers and the server's stage with each request. Here such a future has a waker of its own.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Polls its future once at first, and then only when that has asked for it.
pub(crate) struct Seldom<'a, F> {
    future: Pin<&'a mut F>,
    /// Made anew where the task has another waker than at the last turn.
    call: Option<Arc<Call>>,
}

/// Wakes the task, and says for whom.
struct Call {
    came: AtomicBool,
    task: Waker,
}

impl<'a, F: Future> Seldom<'a, F> {
    pub(crate) fn new(future: Pin<&'a mut F>) -> Self {
        Self { future, call: None }
    }
}

impl<F: Future> Future for Seldom<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let current = self.call.take();
        let call = match current.filter(|call| call.task.will_wake(cx.waker())) {
            Some(call) => call,
            None => Arc::new(Call {
                came: AtomicBool::new(true),
                task: cx.waker().clone(),
            }),
        };
        let call = &*self.call.insert(call);
        // Taken before the poll: what comes during it calls again.
        if !call.came.load(Ordering::Relaxed) || !call.came.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let waker = Waker::from(Arc::clone(call));
        self.future.as_mut().poll(&mut Context::from_waker(&waker))
    }
}

impl Wake for Call {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.came.store(true, Ordering::Release);
        self.task.wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use tokio::sync::Notify;

    use super::*;

    /// In a task of its own: only that has the same waker at every turn.
    #[tokio::test]
    async fn it_is_polled_when_it_asks_and_not_when_its_task_is_woken_for_others() {
        let task = tokio::spawn(async {
            let (polls, notify) = (AtomicUsize::new(0), Notify::new());
            let mut notified = pin!(notify.notified());
            let counted = pin!(poll_fn(|cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                notified.as_mut().poll(cx)
            }));
            let mut seldom = Seldom::new(counted);
            let mut turns = 0;
            poll_fn(|cx| {
                turns += 1;
                cx.waker().wake_by_ref();
                if turns == 10 {
                    assert_eq!(polls.load(Ordering::Relaxed), 1);
                    notify.notify_one();
                }
                Pin::new(&mut seldom).poll(cx)
            })
            .await;
            (turns, polls.load(Ordering::Relaxed))
        });
        assert_eq!(task.await.expect("it ends"), (10, 2));
    }

    #[tokio::test]
    async fn its_call_alone_wakes_the_task() {
        let notify = Arc::new(Notify::new());
        let caller = Arc::clone(&notify);
        let waiting = tokio::spawn(async move { Seldom::new(pin!(notify.notified())).await });
        tokio::task::yield_now().await;
        caller.notify_one();
        let ended = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        assert!(ended.is_ok(), "nobody woke it");
    }

    #[test]
    fn another_task_asks_anew() {
        let polls = AtomicUsize::new(0);
        let counted = pin!(poll_fn(|_| {
            polls.fetch_add(1, Ordering::Relaxed);
            Poll::<()>::Pending
        }));
        let mut seldom = Seldom::new(counted);
        let first = Waker::from(Arc::new(Call {
            came: AtomicBool::new(false),
            task: Waker::noop().clone(),
        }));
        for waker in [&first, Waker::noop(), &first] {
            let turn = Pin::new(&mut seldom).poll(&mut Context::from_waker(waker));
            assert!(turn.is_pending());
        }
        assert_eq!(polls.load(Ordering::Relaxed), 3);
    }
}
