//! The store of blobs: which of them are missing, sent in batches or as streams, read back and checked. Must not know
//! what a blob is.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{Semaphore, watch};

use super::capabilities::Agreed;
use super::connection::{Connection, For};
use super::digest::{Digest, Function};
use super::grpc::{self, Call};
use super::messages::{
    BatchReadBlobsRequest, BatchReadBlobsResponse, BatchUpdateBlobsRequest,
    BatchUpdateBlobsResponse, BlobUpdate, FindMissingBlobsRequest, FindMissingBlobsResponse,
    ReadRequest, ReadResponse, WriteRequest, WriteResponse,
};
use super::retry::{Failure, Kind, Result, retry};
use super::shared::Shared;
use crate::regular;

/// Of a question which blobs are missing.
const QUERY: Duration = Duration::from_secs(20);
/// Of a request with blobs in it.
const BATCH: Duration = Duration::from_secs(60);
/// Digests in one question.
const AT_ONCE: usize = 4096;
/// Bytes of a blob in one message of a stream.
const PIECE: usize = 1 << 20;
/// Of each blob in a batch, for its digest and the message.
const AROUND: u64 = 128;
/// A blob that the server had is not asked for again for so long.
const REMEMBERED: Duration = Duration::from_secs(2 * 3600);
/// Uploads at a time.
const UPLOADS: usize = 8;

const STORE: &str = "/build.bazel.remote.execution.v2.ContentAddressableStorage";
const STREAMS: &str = "/google.bytestream.ByteStream";

/// Where a blob's bytes are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    Bytes(Bytes),
    File(PathBuf),
}

/// A blob that may have to be sent.
#[derive(Debug, Clone)]
pub(super) struct Blob {
    pub digest: Digest,
    pub source: Source,
}

impl Source {
    fn read(&self) -> Result<Bytes> {
        match self {
            Source::Bytes(bytes) => Ok(bytes.clone()),
            Source::File(path) => match regular::read(path) {
                Ok(bytes) => Ok(bytes.into()),
                Err(e) => Err(Failure::other(format!("cannot read {}: {e}", path.display()))),
            },
        }
    }
}

/// What is known of a blob.
enum State {
    Present(Instant),
    /// Somebody sends it; whoever needs it waits.
    Sent(watch::Receiver<Option<Result<()>>>),
}

/// A server's store.
pub(super) struct Store {
    connection: Rc<Connection>,
    instance: String,
    pub agreed: Agreed,
    known: RefCell<HashMap<Digest, State>>,
    uploads: Semaphore,
    shared: Arc<Shared>,
}

impl Store {
    pub fn new(
        connection: Rc<Connection>,
        instance: &str,
        agreed: Agreed,
        shared: Arc<Shared>,
    ) -> Self {
        Store {
            connection,
            instance: instance.to_owned(),
            agreed,
            known: RefCell::default(),
            uploads: Semaphore::new(UPLOADS),
            shared,
        }
    }

    fn function(&self) -> Function {
        self.agreed.function
    }

    /// Sees to it that the server has all of these. With `all`, none is asked for: they are sent.
    pub async fn provide(self: &Rc<Self>, blobs: &[Blob], purpose: &For, all: bool) -> Result<()> {
        let mut wanted: BTreeMap<Digest, Blob> = BTreeMap::new();
        for blob in blobs.iter().filter(|blob| blob.digest.size > 0) {
            if blob.digest.size > self.agreed.largest {
                let text = format!("the server stores no file of {} bytes", blob.digest.size);
                return Err(Failure::other(text));
            }
            wanted.insert(blob.digest, blob.clone());
        }
        if all {
            wanted.keys().for_each(|digest| self.forget_one(digest));
        }
        loop {
            let (unknown, others) = self.sort_out(&mut wanted);
            if unknown.is_empty() && others.is_empty() {
                return Ok(());
            }
            let missing = match all {
                true => unknown,
                false => self.find_missing(unknown, purpose).await?,
            };
            let own = missing.into_iter().filter_map(|digest| wanted.get(&digest).cloned());
            let own = self.claim(own.collect(), purpose);
            for mut other in own.into_iter().chain(others) {
                let end = other.wait_for(Option::is_some).await;
                let end = end.ok().and_then(|end| end.clone());
                end.unwrap_or_else(|| Err(Failure::other("an upload was given up")))?;
            }
        }
    }

    /// The same where the server may have lost some: all are asked for once more.
    pub async fn provide_again(self: &Rc<Self>, blobs: &[Blob], purpose: &For) -> Result<()> {
        blobs.iter().for_each(|blob| self.forget_one(&blob.digest));
        self.provide(blobs, purpose, false).await
    }

    fn forget_one(&self, digest: &Digest) {
        let mut known = self.known.borrow_mut();
        if matches!(known.get(digest), Some(State::Present(_))) {
            known.remove(digest);
        }
    }

    /// Leaves those that the server has out; what is left is unknown, or on its way already.
    #[expect(clippy::type_complexity, reason = "two lists of what the types say")]
    fn sort_out(
        &self,
        wanted: &mut BTreeMap<Digest, Blob>,
    ) -> (Vec<Digest>, Vec<watch::Receiver<Option<Result<()>>>>) {
        let known = self.known.borrow();
        let (mut unknown, mut others) = (Vec::new(), Vec::new());
        wanted.retain(|digest, _| match known.get(digest) {
            Some(State::Present(since)) if since.elapsed() < REMEMBERED => false,
            Some(State::Sent(other)) => {
                others.push(other.clone());
                true
            }
            _ => {
                unknown.push(*digest);
                true
            }
        });
        (unknown, others)
    }

    async fn find_missing(&self, digests: Vec<Digest>, purpose: &For) -> Result<Vec<Digest>> {
        let mut missing = Vec::new();
        for some in digests.chunks(AT_ONCE) {
            let request = FindMissingBlobsRequest {
                instance_name: self.instance.clone(),
                blob_digests: some.iter().map(Digest::message).collect(),
                digest_function: self.function().number(),
            };
            let path = format!("{STORE}/FindMissingBlobs");
            let answer: FindMissingBlobsResponse =
                retry(async || self.connection.ask(&path, purpose, QUERY, &request).await).await?;
            let found = answer.missing_blob_digests.iter().map(Digest::read);
            let found: Option<Vec<Digest>> = found.collect();
            let found = found.ok_or_else(|| Failure::other("it names missing blobs wrongly"))?;
            found.iter().for_each(|digest| self.forget_one(digest));
            let mut known = self.known.borrow_mut();
            for digest in some.iter().filter(|digest| !found.contains(digest)) {
                known.insert(*digest, State::Present(Instant::now()));
            }
            missing.extend(found);
        }
        Ok(missing)
    }

    /// Starts to send blobs, but for those that somebody else began to send meanwhile. The uploads go on when
    /// whoever wanted them first gives up: others may wait.
    fn claim(
        self: &Rc<Self>,
        blobs: Vec<Blob>,
        purpose: &For,
    ) -> Vec<watch::Receiver<Option<Result<()>>>> {
        let mut waits = Vec::new();
        let mut batches: Vec<Vec<(Blob, watch::Sender<_>)>> = Vec::new();
        let mut room = 0;
        for blob in blobs {
            let mut known = self.known.borrow_mut();
            match known.get(&blob.digest) {
                Some(State::Sent(other)) => waits.push(other.clone()),
                // Asked at the same time as another did.
                Some(State::Present(_)) => {}
                None => {
                    let (end, wait) = watch::channel(None);
                    known.insert(blob.digest, State::Sent(wait.clone()));
                    waits.push(wait);
                    let size = blob.digest.size + AROUND;
                    if size > room || batches.is_empty() {
                        batches.push(Vec::new());
                        room = self.agreed.batch;
                    }
                    room = room.saturating_sub(size);
                    if let Some(batch) = batches.last_mut() {
                        batch.push((blob, end));
                    }
                }
            }
        }
        for batch in batches {
            let (store, purpose) = (self.clone(), purpose.clone());
            tokio::task::spawn_local(async move { store.send_batch(batch, &purpose).await });
        }
        waits
    }

    /// Sends blobs and says to all who wait what became of them.
    async fn send_batch(
        &self,
        batch: Vec<(Blob, watch::Sender<Option<Result<()>>>)>,
        purpose: &For,
    ) {
        let permit = self.uploads.acquire().await;
        let blobs: Vec<&Blob> = batch.iter().map(|(blob, _)| blob).collect();
        let total: u64 = blobs.iter().map(|blob| blob.digest.size + AROUND).sum();
        let result = match blobs.as_slice() {
            [large] if total > self.agreed.batch => {
                retry(async || self.send_stream(large, purpose).await).await
            }
            small => retry(async || self.send_small(small, purpose).await).await,
        };
        drop(permit);
        let mut known = self.known.borrow_mut();
        for (blob, end) in batch {
            match result {
                Ok(()) => known.insert(blob.digest, State::Present(Instant::now())),
                Err(_) => known.remove(&blob.digest),
            };
            let _ = end.send(Some(result.clone()));
        }
    }

    async fn send_small(&self, blobs: &[&Blob], purpose: &For) -> Result<()> {
        let mut requests = Vec::new();
        for blob in blobs {
            let data = self.checked(blob.source.read()?, &blob.digest)?;
            requests.push(BlobUpdate { digest: Some(blob.digest.message()), data });
        }
        let request = BatchUpdateBlobsRequest {
            instance_name: self.instance.clone(),
            requests,
            digest_function: self.function().number(),
        };
        let path = format!("{STORE}/BatchUpdateBlobs");
        let answer: BatchUpdateBlobsResponse =
            self.connection.ask(&path, purpose, BATCH, &request).await?;
        let mut good = 0;
        for response in &answer.responses {
            match &response.status {
                Some(status) if status.code != 0 => return Err(grpc::failure(status)),
                _ => good += 1,
            }
        }
        if good < blobs.len() {
            return Err(Failure::other("it does not say what became of all blobs"));
        }
        let size: u64 = blobs.iter().map(|blob| blob.digest.size).sum();
        self.shared.sent.fetch_add(size, Ordering::Relaxed);
        Ok(())
    }

    /// What was read of a file, if it is still what its digest was taken of.
    fn checked(&self, bytes: Bytes, digest: &Digest) -> Result<Bytes> {
        match self.function().of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(Failure::other("a file changed while it was sent")),
        }
    }

    async fn send_stream(&self, blob: &Blob, purpose: &For) -> Result<()> {
        let (digest, zstd) = (&blob.digest, self.agreed.zstd);
        let form = if zstd { "compressed-blobs/zstd" } else { "blobs" };
        let name = format!(
            "{}uploads/{}/{form}/{}{digest}",
            self.prefix(),
            unique(),
            self.function().in_names()
        );
        let deadline = deadline(digest.size);
        let send = async |call: &mut Call| {
            let mut pieces = Pieces::new(blob, zstd)?;
            let mut write_offset = 0;
            loop {
                let (data, finish_write) = pieces.next()?;
                let size = data.len() as i64;
                // The name is needed once.
                let resource_name = if write_offset == 0 { name.clone() } else { String::new() };
                let piece = WriteRequest { resource_name, write_offset, finish_write, data };
                write_offset += size;
                if !call.send(&piece, finish_write).await? || finish_write {
                    break;
                }
            }
            let answer: WriteResponse = call.only().await?;
            // -1: of a compressed blob that it has already.
            let whole = [write_offset, digest.size as i64, -1].contains(&answer.committed_size);
            if whole {
                Ok(())
            } else {
                Err(Failure::new(Kind::Passing, "it took only a part of a blob"))
            }
        };
        self.connection.call(&format!("{STREAMS}/Write"), purpose, deadline, send).await?;
        self.shared.sent.fetch_add(digest.size, Ordering::Relaxed);
        Ok(())
    }

    fn prefix(&self) -> String {
        match self.instance.is_empty() {
            true => String::new(),
            false => format!("{}/", self.instance),
        }
    }

    /// Reads a blob, and checks that it is what its digest says.
    pub async fn read(&self, digest: &Digest, purpose: &For) -> Result<Bytes> {
        if digest.size == 0 {
            return Ok(Bytes::new());
        }
        let fits = digest.size + AROUND <= self.agreed.batch;
        let bytes = match fits {
            true => retry(async || self.read_small(digest, purpose).await).await?,
            false => retry(async || self.read_stream(digest, purpose).await).await?,
        };
        self.shared.received.fetch_add(digest.size, Ordering::Relaxed);
        self.verify(bytes, digest)
    }

    /// Bytes that are what a digest says, or the failure that they are not.
    pub fn verify(&self, bytes: Bytes, digest: &Digest) -> Result<Bytes> {
        match self.function().of(&bytes) == *digest {
            true => Ok(bytes),
            false => Err(Failure::other("it sent a blob that is not what its digest says")),
        }
    }

    async fn read_small(&self, digest: &Digest, purpose: &For) -> Result<Bytes> {
        let request = BatchReadBlobsRequest {
            instance_name: self.instance.clone(),
            digests: vec![digest.message()],
            digest_function: self.function().number(),
        };
        let path = format!("{STORE}/BatchReadBlobs");
        let answer: BatchReadBlobsResponse =
            self.connection.ask(&path, purpose, BATCH, &request).await?;
        let read = answer.responses.into_iter().next();
        let read = read.ok_or_else(|| Failure::other("it does not answer for a blob"))?;
        match read.status {
            Some(status) if status.code != 0 => Err(grpc::failure(&status)),
            // None was asked for.
            _ if read.compressor != 0 => Err(Failure::other("it compressed a blob unasked")),
            _ => Ok(read.data),
        }
    }

    async fn read_stream(&self, digest: &Digest, purpose: &For) -> Result<Bytes> {
        let zstd = self.agreed.zstd;
        let form = if zstd { "compressed-blobs/zstd" } else { "blobs" };
        let function = self.function().in_names();
        let resource_name = format!("{}{form}/{function}{digest}", self.prefix());
        let request = ReadRequest { resource_name, read_offset: 0 };
        let too_much = || Failure::other("it sent more of a blob than its digest says");
        let run = async |call: &mut Call| {
            call.send(&request, true).await?;
            let mut sink = Sink { bytes: Vec::new(), most: digest.size as usize };
            if !zstd {
                while let Some(ReadResponse { data }) = call.next().await? {
                    sink.write_all(&data).map_err(|_| too_much())?;
                }
                return Ok(sink.bytes);
            }
            let mut decoder = zstd::stream::write::Decoder::new(sink);
            let decoder = decoder.as_mut().map_err(|e| Failure::other(format!("zstd: {e}")))?;
            while let Some(ReadResponse { data }) = call.next().await? {
                decoder.write_all(&data).map_err(|e| {
                    Failure::other(format!("it sent a blob that cannot be unpacked ({e})"))
                })?;
            }
            decoder.flush().map_err(|_| too_much())?;
            Ok(std::mem::take(&mut decoder.get_mut().bytes))
        };
        let path = format!("{STREAMS}/Read");
        let bytes = self.connection.call(&path, purpose, deadline(digest.size), run).await?;
        Ok(bytes.into())
    }
}

/// Takes no more bytes than a blob may have.
struct Sink {
    bytes: Vec<u8>,
    most: usize,
}

impl Write for Sink {
    fn write(&mut self, some: &[u8]) -> std::io::Result<usize> {
        if self.bytes.len() + some.len() > self.most {
            return Err(std::io::Error::other("longer than its digest says"));
        }
        self.bytes.extend_from_slice(some);
        Ok(some.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A stream has a second for each MiB, at least.
fn deadline(size: u64) -> Duration {
    BATCH + Duration::from_secs(size >> 20)
}

/// A name that no other upload has.
pub(super) fn unique() -> String {
    use std::hash::{BuildHasher, RandomState};
    let chance = || RandomState::new().hash_one(std::process::id());
    let (high, low) = (chance(), chance());
    let variant = low & 0x3fff_ffff_ffff_ffff | 0x8000_0000_0000_0000;
    format!(
        "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
        high >> 32,
        high >> 16 & 0xffff,
        high & 0xfff,
        variant >> 48,
        variant & 0xffff_ffff_ffff
    )
}

/// A blob in pieces, as they are sent: compressed, where that is agreed on.
struct Pieces {
    reader: Box<dyn Read>,
    left: u64,
    encoder: Option<zstd::stream::write::Encoder<'static, Vec<u8>>>,
}

impl Pieces {
    fn new(blob: &Blob, zstd: bool) -> Result<Self> {
        let reader: Box<dyn Read> = match &blob.source {
            Source::Bytes(bytes) => Box::new(std::io::Cursor::new(bytes.clone())),
            Source::File(path) => Box::new(
                regular::open(path)
                    .map(|(file, _)| file)
                    .map_err(|e| Failure::other(format!("cannot read {}: {e}", path.display())))?,
            ),
        };
        // The lowest level: the network is rarely slower.
        let encoder = zstd.then(|| zstd::stream::write::Encoder::new(Vec::new(), 1)).transpose();
        let encoder = encoder.map_err(|e| Failure::other(format!("zstd: {e}")))?;
        Ok(Pieces { reader, left: blob.digest.size, encoder })
    }

    /// The next piece, and whether it is the last one.
    fn next(&mut self) -> Result<(Bytes, bool)> {
        let failed = |e: std::io::Error| Failure::other(format!("cannot read a file to send: {e}"));
        loop {
            let mut piece = vec![0; PIECE.min(self.left as usize)];
            self.reader.read_exact(&mut piece).map_err(failed)?;
            self.left -= piece.len() as u64;
            let last = self.left == 0;
            let Some(encoder) = &mut self.encoder else {
                return Ok((piece.into(), last));
            };
            encoder.write_all(&piece).map_err(failed)?;
            if last {
                encoder.do_finish().map_err(failed)?;
            }
            let ready = std::mem::take(encoder.get_mut());
            if last || !ready.is_empty() {
                return Ok((ready.into(), last));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_uploads_are_uuids() {
        let name = unique();
        let parts: Vec<usize> = name.split('-').map(str::len).collect();
        assert_eq!(parts, [8, 4, 4, 4, 12], "{name}");
        assert!(name != unique() && name.as_bytes()[14] == b'4');
    }

    #[test]
    fn a_blob_comes_in_pieces_that_make_it_up() {
        let bytes: Bytes = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        let digest = Function::Sha256.of(&bytes);
        let blob = Blob { digest, source: Source::Bytes(bytes.clone()) };
        for zstd in [false, true] {
            let (mut pieces, mut all, mut last) =
                (Pieces::new(&blob, zstd).unwrap(), Vec::new(), false);
            while !last {
                let piece;
                (piece, last) = pieces.next().unwrap();
                assert!(piece.len() <= PIECE + 1024);
                all.extend_from_slice(&piece);
            }
            let whole = if zstd { zstd::decode_all(&all[..]).unwrap() } else { all };
            assert_eq!(whole, bytes, "zstd: {zstd}");
        }
    }
}
