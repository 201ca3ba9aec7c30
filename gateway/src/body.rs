//! The bridge from a request's body, which arrives by frames, to a file, which is written by system calls.
//!
//! Bodies go to the file in batches and are never held as a whole. On a local filesystem a batch is written on
//! the async thread: the page cache takes it in a fraction of what a hop would cost. A write that took long, or a
//! remote filesystem, sends the rest of that body's writes to the blocking pool, where they run beside the
//! hashing. The MD5 of a body of several batches is computed on a thread of its own, beside others' (`beside.rs`).
//! What was received counts for nothing until every length, digest and signature was compared.

use std::any::Any;
use std::fs::File;
use std::io::{self, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use beside::Beside;
use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use twintree_store::{
    Algorithm, Checksum, Claim, Digester, Digests, ETagKind, Room, StoreError, begin_writeback,
};

use crate::auth::Payload;
use crate::auth::chunked::Decoder;
use crate::checksum::BodyChecks;
use crate::error::{Code, S3Error, S3Result};
use crate::server::IncomingError;

/// The least that is written at once, in bytes.
const BATCH: usize = 256 << 10;
/// The most slices in a batch: what one pwritev takes.
const BATCH_SLICES: usize = 1024;
/// A slice below this is copied to its neighbours: its own entry would cost more.
const TINY: usize = 512;
/// How much is written before its way to the disk is begun, in bytes.
const WRITEBACK: u64 = 8 << 20;
/// A write that takes longer than this means that the disk does not keep up.
const SLOW: Duration = Duration::from_millis(20);

/// The body of a request whose head is verified. Nothing of it was read yet, so that a client that waits for
/// `100 Continue` has not sent it.
pub struct RequestBody {
    body: Body,
    payload: Payload,
}

impl RequestBody {
    /// Takes a body and what its head's signature says of it.
    pub fn new(body: Body, payload: Payload) -> Self {
        Self { body, payload }
    }

    /// Is the body in aws-chunked framing? Only PutObject and UploadPart take that.
    pub fn is_framed(&self) -> bool {
        matches!(self.payload, Payload::Chunked(_))
    }

    /// Reads a document of at most `limit` bytes, and verifies its digests.
    ///
    /// # Errors
    /// `MaxMessageLengthExceeded`, `InvalidRequest` for a body in aws-chunked framing, and what [`BodyChecks`] says.
    pub async fn into_document(mut self, headers: &HeaderMap, limit: usize) -> S3Result<Bytes> {
        if self.is_framed() {
            return Err(S3Error::invalid_request(
                "aws-chunked bodies are for PutObject and UploadPart only.",
            ));
        }
        let checks = BodyChecks::parse(headers, &self.payload)?;
        let too_long = || {
            S3Error::new(Code::MaxMessageLengthExceeded)
                .with("MaxMessageLengthBytes", limit.to_string())
        };
        if self.body.size_hint().lower() > limit as u64 {
            return Err(too_long());
        }
        let mut document = Bytes::new();
        let mut joined = BytesMut::new();
        while let Some(piece) = next_piece(&mut self.body).await? {
            if joined.len() + document.len() + piece.len() > limit {
                return Err(too_long());
            }
            if joined.is_empty() && document.is_empty() {
                document = piece;
            } else {
                if joined.is_empty() {
                    joined.extend_from_slice(&std::mem::take(&mut document));
                }
                joined.extend_from_slice(&piece);
            }
        }
        let document = if joined.is_empty() {
            document
        } else {
            joined.freeze()
        };
        checks.verify_bytes(&document)?;
        Ok(document)
    }
}

/// The body of an object or a part, with everything about it checked that its head tells.
pub struct ObjectBody {
    body: Body,
    decoder: Option<Decoder>,
    checks: BodyChecks,
    algorithms: Vec<Algorithm>,
    /// Does anything need the body's MD5?
    md5: bool,
    length: Option<u64>,
    limit: u64,
}

/// Where a body goes.
pub struct Sink {
    /// The file, from the store.
    pub file: Arc<File>,
    /// Where in it the body begins, in bytes.
    pub offset: u64,
    /// Is it on a filesystem of another machine?
    pub remote: bool,
    /// Its room on the disk.
    pub room: Room,
    /// Will it be synced before the answer? Then its pages go to the disk while the body arrives.
    pub synced: bool,
    /// Kept until the last write has ended, also where the request is gone by then: what guards this range of the
    /// file against another writer.
    pub guard: Option<Arc<dyn Any + Send + Sync>>,
}

/// A body that arrived whole and is what its head said.
#[derive(Debug)]
pub struct Received {
    /// Length, CRC64NVME, and what else was computed.
    pub digests: Digests,
    /// The checksum that the client named, verified.
    pub checksum: Option<Checksum>,
}

impl ObjectBody {
    /// Checks what the head says: length, framing, digests. `etag` says what the ETag is made of, `limit` is the
    /// longest body allowed, in bytes.
    ///
    /// # Errors
    /// `MissingContentLength`, `EntityTooLarge`, and what [`BodyChecks::parse`] and [`Decoder::new`] say.
    pub fn open(body: RequestBody, head: &Parts, etag: ETagKind, limit: u64) -> S3Result<Self> {
        let RequestBody { body, payload } = body;
        let checks = BodyChecks::parse(&head.headers, &payload)?;
        let (decoder, length) = match payload {
            Payload::Chunked(framing) => {
                let decoder = Decoder::new(framing, &head.headers)?;
                let length = Some(decoder.decoded_length());
                (Some(decoder), length)
            }
            Payload::Sha256(_) | Payload::Unsigned => (None, plain_length(&body, head)?),
        };
        if let Some(length) = length
            && length > limit
        {
            return Err(too_large(length, limit));
        }
        let algorithms = checks.to_compute();
        let md5 = etag == ETagKind::Md5 || checks.has_md5();
        Ok(Self {
            body,
            decoder,
            checks,
            algorithms,
            md5,
            length,
            limit,
        })
    }

    /// Gives the length without framing, where the head tells it.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// Gives the algorithm that the client chose.
    pub fn algorithm(&self) -> Option<Algorithm> {
        self.checks.algorithm()
    }

    /// Asks for one more checksum: [`Received`] has it among its digests.
    pub fn also_compute(&mut self, algorithm: Algorithm) {
        if !self.algorithms.contains(&algorithm) {
            self.algorithms.push(algorithm);
        }
    }

    /// Receives the body into a file, and verifies it.
    ///
    /// # Errors
    /// `IncompleteBody`, `RequestTimeout`, `EntityTooLarge`, what the framing and the digests say, and what the disk
    /// says. What was written by then is garbage.
    pub async fn receive(self, sink: Sink) -> S3Result<Received> {
        let mut writer = Writer::new(sink);
        let mut intake = Intake::new(self);
        while let Some(batch) = intake.next_batch().await? {
            let batch = Arc::new(batch);
            // Begun first, so that on the pool it runs while this thread hashes.
            writer.write(&batch).await?;
            intake.digest(&batch).await?;
        }
        writer.finish().await?;
        intake.finish().await
    }

    /// Receives a body that is known to be short into memory, and verifies it.
    ///
    /// # Errors
    /// As [`ObjectBody::receive`].
    pub async fn collect(self) -> S3Result<(Vec<Bytes>, Received)> {
        let mut pieces = Vec::new();
        let mut intake = Intake::new(self);
        while let Some(batch) = intake.next_batch().await? {
            intake.digest(&batch).await?;
            pieces.extend(batch);
        }
        Ok((pieces, intake.finish().await?))
    }
}

/// A body on its way: framing comes off, digests grow.
struct Intake {
    body: ObjectBody,
    digester: Digester,
    /// Where the MD5 of a long body is computed.
    beside: Option<Beside>,
    received: u64,
    ended: bool,
}

impl Intake {
    fn new(body: ObjectBody) -> Self {
        let digester = match body.md5 {
            true => Digester::new(&body.algorithms),
            false => Digester::without_md5(&body.algorithms),
        };
        Self {
            body,
            digester,
            beside: None,
            received: 0,
            ended: false,
        }
    }

    /// Collects the next batch: at least [`BATCH`] bytes, less at the end of the body, `None` behind it.
    async fn next_batch(&mut self) -> S3Result<Option<Vec<Bytes>>> {
        let mut batch = Batch::default();
        while !self.ended && !batch.is_full() {
            match next_piece(&mut self.body.body).await? {
                None => self.ended = true,
                Some(piece) => self.take(piece, &mut batch)?,
            }
        }
        Ok(batch.finish())
    }

    fn take(&mut self, piece: Bytes, batch: &mut Batch) -> S3Result<()> {
        let before = batch.bytes;
        match &mut self.body.decoder {
            None => batch.push(piece),
            Some(decoder) => {
                decoder.push(piece);
                while let Some(data) = decoder.next()? {
                    batch.push(data);
                }
            }
        }
        self.received += (batch.bytes - before) as u64;
        if self.received > self.body.limit {
            return Err(too_large(self.received, self.body.limit));
        }
        Ok(())
    }

    /// Takes a batch into all digests. Of a body of one batch no thread but this one hears.
    async fn digest(&mut self, batch: &[Bytes]) -> S3Result<()> {
        let only = self.ended || self.body.length == Some(self.received);
        if self.body.md5 && self.beside.is_none() && !only {
            self.beside = Beside::begin();
        }
        let Some(beside) = &mut self.beside else {
            for piece in batch {
                self.digester.update(piece);
            }
            return Ok(());
        };
        beside.take(batch).await?;
        for piece in batch {
            self.digester.update_beside_md5(piece);
        }
        Ok(())
    }

    async fn finish(mut self) -> S3Result<Received> {
        if let Some(beside) = self.beside {
            self.digester.set_md5(beside.finish().await?);
        }
        let ObjectBody {
            decoder,
            checks,
            length,
            ..
        } = self.body;
        let trailers = decoder.map_or_else(|| Ok(Vec::new()), Decoder::finish)?;
        if length.is_some_and(|length| length != self.received) {
            return Err(S3Error::new(Code::IncompleteBody));
        }
        let digests = self.digester.finish();
        let checksum = checks.verify(&digests, &trailers)?;
        Ok(Received { digests, checksum })
    }
}

/// Slices that are written together.
#[derive(Default)]
struct Batch {
    slices: Vec<Bytes>,
    /// Tiny slices in a row, copied: one byte per chunk must not cost an entry each.
    tiny: BytesMut,
    bytes: usize,
}

impl Batch {
    fn is_full(&self) -> bool {
        self.bytes >= BATCH || self.slices.len() >= BATCH_SLICES
    }

    fn push(&mut self, slice: Bytes) {
        self.bytes += slice.len();
        if slice.len() < TINY {
            self.tiny.extend_from_slice(&slice);
            return;
        }
        self.flush_tiny();
        self.slices.push(slice);
    }

    fn flush_tiny(&mut self) {
        if !self.tiny.is_empty() {
            self.slices.push(self.tiny.split().freeze());
        }
    }

    fn finish(mut self) -> Option<Vec<Bytes>> {
        self.flush_tiny();
        (!self.slices.is_empty()).then_some(self.slices)
    }
}

/// Puts batches into the file, one behind the other.
struct Writer {
    sink: Sink,
    on_pool: bool,
    pending: Option<tokio::task::JoinHandle<io::Result<()>>>,
    /// Where the bytes begin that are not on their way to the disk.
    dirty_from: u64,
    writeback: Option<tokio::task::JoinHandle<()>>,
}

impl Writer {
    fn new(sink: Sink) -> Self {
        let (on_pool, dirty_from) = (sink.remote, sink.offset);
        Self {
            sink,
            on_pool,
            pending: None,
            dirty_from,
            writeback: None,
        }
    }

    /// Writes a batch, or begins to on the blocking pool.
    async fn write(&mut self, batch: &Arc<Vec<Bytes>>) -> S3Result<()> {
        self.finish().await?;
        self.begin_writeback();
        let offset = self.sink.offset;
        self.sink.offset += batch.iter().map(|slice| slice.len() as u64).sum::<u64>();
        let claim = self.sink.room.claim(self.sink.offset);
        if self.on_pool {
            let (file, guard, batch) = (
                self.sink.file.clone(),
                self.sink.guard.clone(),
                batch.clone(),
            );
            self.pending = Some(crate::pool::on_pool(move || {
                let written = write_with_room(&file, offset, &batch, claim);
                drop(guard);
                written
            }));
            return Ok(());
        }
        let begun = Instant::now();
        write_with_room(&self.sink.file, offset, batch, claim).map_err(disk)?;
        self.on_pool = begun.elapsed() > SLOW;
        Ok(())
    }

    /// Sends what was written on its way to the disk, one range at a time; a disk that lags is not pressed.
    fn begin_writeback(&mut self) {
        let (from, length) = (self.dirty_from, self.sink.offset - self.dirty_from);
        let busy = self
            .writeback
            .as_ref()
            .is_some_and(|begun| !begun.is_finished());
        if !self.sink.synced || length < WRITEBACK || busy {
            return;
        }
        self.dirty_from = self.sink.offset;
        let file = self.sink.file.clone();
        self.writeback = Some(crate::pool::on_pool(move || {
            begin_writeback(&file, from, length)
        }));
    }

    /// Waits for the write that was begun.
    async fn finish(&mut self) -> S3Result<()> {
        match self.pending.take() {
            None => Ok(()),
            Some(pending) => match pending.await {
                Ok(written) => written.map_err(disk),
                Err(_) => Err(S3Error::new(Code::InternalError)), // it panicked, or the runtime is going down
            },
        }
    }
}

/// Takes the room that is still missing, then writes.
fn write_with_room(
    file: &File,
    offset: u64,
    slices: &[Bytes],
    claim: Option<Claim>,
) -> io::Result<()> {
    if let Some(claim) = claim {
        claim.take(file)?;
    }
    write_all_at(file, offset, slices)
}

/// Something whose end may wait for the disk, such as a file without a name that holds gigabytes: where nobody takes
/// it out, it is dropped on the blocking pool.
pub struct OffThread<T: Send + 'static>(Option<T>);

impl<T: Send + 'static> OffThread<T> {
    /// Wraps a value.
    pub fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// Takes the value out.
    pub fn into_inner(mut self) -> T {
        self.0.take().expect("it is taken once, by value")
    }
}

impl<T: Send + 'static> std::ops::Deref for OffThread<T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.0
            .as_ref()
            .expect("it is there until it is taken or dropped")
    }
}

impl<T: Send + 'static> Drop for OffThread<T> {
    fn drop(&mut self) {
        // Outside a runtime there is no other thread, and nothing that waiting would hold up.
        if let (Some(value), Ok(_)) = (self.0.take(), tokio::runtime::Handle::try_current()) {
            crate::pool::on_pool(move || drop(value));
        }
    }
}

/// Writes slices at an offset, whatever the kernel takes at once.
///
/// # Errors
/// What the disk says; a write of no byte is `WriteZero`.
pub fn write_all_at(file: &File, mut offset: u64, slices: &[Bytes]) -> io::Result<()> {
    for some in slices.chunks(BATCH_SLICES) {
        let mut vectors: Vec<IoSlice<'_>> = some.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut rest = vectors.as_mut_slice();
        IoSlice::advance_slices(&mut rest, 0); // leading empty slices go
        while !rest.is_empty() {
            match rustix::io::pwritev(file, rest, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    offset += written as u64;
                    IoSlice::advance_slices(&mut rest, written);
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }
    Ok(())
}

/// Gives the next bytes of a body; HTTP trailers mean nothing to S3.
async fn next_piece(body: &mut Body) -> S3Result<Option<Bytes>> {
    while let Some(frame) = body.frame().await {
        match frame.map_err(broken)?.into_data() {
            Ok(data) if data.is_empty() => {}
            Ok(data) => return Ok(Some(data)),
            Err(_trailers) => {}
        }
    }
    Ok(None)
}

/// What to tell a client whose body stopped; the connection is of no more use.
fn broken(error: axum::Error) -> S3Error {
    let error = error.into_inner();
    match error.downcast_ref::<IncomingError>() {
        Some(IncomingError::Idle(_)) => S3Error::new(Code::RequestTimeout).close(),
        Some(IncomingError::Broken(_)) | None => S3Error::new(Code::IncompleteBody).close(),
    }
}

/// The length of a body without framing: from Content-Length; unknown with Transfer-Encoding, and in HTTP/2.
fn plain_length(body: &Body, head: &Parts) -> S3Result<Option<u64>> {
    let announced =
        head.headers.contains_key(CONTENT_LENGTH) || head.headers.contains_key(TRANSFER_ENCODING);
    if !announced && head.version < Version::HTTP_2 {
        return Err(S3Error::new(Code::MissingContentLength));
    }
    Ok(body.size_hint().exact())
}

fn too_large(size: u64, limit: u64) -> S3Error {
    S3Error::new(Code::EntityTooLarge)
        .with("ProposedSize", size.to_string())
        .with("MaxSizeAllowed", limit.to_string())
}

fn disk(error: io::Error) -> S3Error {
    StoreError::from_io("the body", error).into()
}

mod beside;

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
