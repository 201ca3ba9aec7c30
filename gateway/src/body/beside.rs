//! The MD5 of a long body, computed beside its writes and beside other bodies': the thread of the hashes takes all
//! that wait as lanes of one computation.

use bytes::Bytes;
use tokio::sync::oneshot;
use twintree_store::hash::{HashJob, HashService, Md5};

use crate::error::{Code, S3Error, S3Result};

/// What may wait for the hashes before the body does, in bytes.
const MOST_WAITING: usize = 512 << 10;

/// An MD5 that another thread computes.
pub struct Beside {
    service: &'static HashService,
    /// What takes the next bytes, where it is here.
    md5: Option<Md5>,
    under_way: Option<oneshot::Receiver<Md5>>,
    waiting: Vec<Bytes>,
    waiting_bytes: usize,
}

impl Beside {
    /// Begins with no bytes; `None`: there is no thread for it.
    pub fn begin() -> Option<Self> {
        Some(Self {
            service: HashService::get()?,
            md5: Some(Md5::default()),
            under_way: None,
            waiting: Vec::new(),
            waiting_bytes: 0,
        })
    }

    /// Takes the next bytes; waits where the hashes do not keep up.
    ///
    /// # Errors
    /// `InternalError`: the thread is gone.
    pub async fn take(&mut self, batch: &[Bytes]) -> S3Result<()> {
        self.waiting.extend_from_slice(batch);
        self.waiting_bytes += batch.iter().map(Bytes::len).sum::<usize>();
        if self.waiting_bytes >= MOST_WAITING {
            self.bring_back().await?;
        } else if let Some(under_way) = &mut self.under_way
            && let Ok(md5) = under_way.try_recv()
        {
            (self.md5, self.under_way) = (Some(md5), None);
        }
        self.hand_over();
        Ok(())
    }

    /// Ends: all bytes are taken.
    ///
    /// # Errors
    /// As [`Beside::take`].
    pub async fn finish(mut self) -> S3Result<Md5> {
        self.bring_back().await?;
        self.hand_over();
        self.bring_back().await?;
        self.md5.ok_or_else(gone)
    }

    async fn bring_back(&mut self) -> S3Result<()> {
        if let Some(under_way) = self.under_way.take() {
            self.md5 = Some(under_way.await.map_err(|_| gone())?);
        }
        Ok(())
    }

    /// Hands what waits over, unless something is there already.
    fn hand_over(&mut self) {
        if self.waiting.is_empty() {
            return;
        }
        let Some(md5) = self.md5.take() else {
            return;
        };
        let (done, under_way) = oneshot::channel();
        self.under_way = Some(under_way);
        self.waiting_bytes = 0;
        self.service.submit(HashJob {
            md5,
            bytes: std::mem::take(&mut self.waiting),
            done: Box::new(move |md5| {
                let _ = done.send(md5); // Nobody waits where the request is gone.
            }),
        });
    }
}

fn gone() -> S3Error {
    S3Error::new(Code::InternalError)
}
