//! One call of gRPC over a connection of HTTP/2
//! (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md>): a request's headers, messages with their
//! lengths before them, and the status in the trailers. Dropping a call cancels it. Must not know any service.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use base64::Engine as _;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response, StatusCode};

use super::digest::Digest;
use super::messages::{PreconditionFailure, Status};
use super::protobuf::Message;
use super::retry::{Failure, Kind, Result};

/// A message that is longer than this is none of this protocol's.
const LONGEST: usize = 64 << 20;

/// A call that was begun.
pub(super) struct Call {
    out: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    body: Option<RecvStream>,
    buffer: BytesMut,
    ended: bool,
}

impl Call {
    /// Begins a call on a connection that is ready for it.
    pub fn begin(sender: &mut SendRequest<Bytes>, request: Request<()>) -> Result<Self> {
        let (response, out) = sender.send_request(request, false).map_err(broken)?;
        let (response, buffer) = (Some(response), BytesMut::new());
        Ok(Call { out, response, body: None, buffer, ended: false })
    }

    /// Sends a message. `false`: the server has answered already and wants no more.
    pub async fn send(&mut self, message: &impl Message, last: bool) -> Result<bool> {
        let bytes = message.to_bytes();
        let mut data = BytesMut::with_capacity(bytes.len() + 5);
        data.put_u8(0);
        data.put_u32(bytes.len() as u32);
        data.extend_from_slice(&bytes);
        let mut data = data.freeze();
        loop {
            self.out.reserve_capacity(data.len());
            let Some(room) = self.room().await? else {
                return Ok(false);
            };
            let piece = data.split_to(room.min(data.len()));
            let end = data.is_empty();
            if self.out.send_data(piece, last && end).is_err() {
                // What became of the call is in the answer.
                return Ok(false);
            }
            if end {
                return Ok(true);
            }
        }
    }

    /// How many bytes may be sent now; `None` once the server has answered.
    async fn room(&mut self) -> Result<Option<usize>> {
        let Call { out, response, body, .. } = self;
        let answered = poll_fn(|context| {
            if let Some(waiting) = response {
                match pin!(waiting).poll(context) {
                    Poll::Ready(answer) => return Poll::Ready(Err(answer)),
                    Poll::Pending => {}
                }
            }
            match out.poll_capacity(context) {
                Poll::Ready(Some(Ok(room))) if room > 0 => Poll::Ready(Ok(Some(room))),
                Poll::Ready(Some(Ok(_))) | Poll::Pending => Poll::Pending,
                Poll::Ready(None | Some(Err(_))) => Poll::Ready(Ok(None)),
            }
        });
        match answered.await {
            Ok(room) => Ok(room),
            Err(answer) => {
                *response = None;
                let answer = answer.map_err(broken)?;
                *body = Some(begin_answer(answer, &mut self.ended)?);
                Ok(None)
            }
        }
    }

    /// The next message of the answer; `None` after the last one.
    pub async fn next<M: Message>(&mut self) -> Result<Option<M>> {
        if let Some(response) = self.response.take() {
            let answer = response.await.map_err(broken)?;
            self.body = Some(begin_answer(answer, &mut self.ended)?);
        }
        loop {
            if let Some(message) = take_message(&mut self.buffer)? {
                let message = M::from_bytes(message);
                return message.map(Some).map_err(|_| Failure::other("its answer is garbled"));
            }
            let Some(body) = self.body.as_mut().filter(|_| !self.ended) else {
                return Ok(None);
            };
            match body.data().await {
                Some(data) => {
                    let data = data.map_err(broken)?;
                    // Without this the server would stop after the first window.
                    body.flow_control().release_capacity(data.len()).map_err(broken)?;
                    self.buffer.extend_from_slice(&data);
                }
                None => {
                    let trailers = body.trailers().await.map_err(broken)?;
                    self.ended = true;
                    if !self.buffer.is_empty() {
                        return Err(cut_off());
                    }
                    return status(&trailers.ok_or_else(cut_off)?).map(|()| None);
                }
            }
        }
    }

    /// The only message of an answer.
    pub async fn only<M: Message>(&mut self) -> Result<M> {
        let message = self.next().await?.ok_or_else(|| Failure::other("its answer is empty"))?;
        while self.next::<M>().await?.is_some() {}
        Ok(message)
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if !self.ended {
            self.out.send_reset(Reason::CANCEL);
        }
    }
}

fn cut_off() -> Failure {
    Failure::new(Kind::Lost, "its answer is cut off")
}

/// Looks at the headers of an answer.
fn begin_answer(answer: Response<RecvStream>, ended: &mut bool) -> Result<RecvStream> {
    let (head, body) = answer.into_parts();
    if head.headers.contains_key("grpc-status") {
        *ended = true;
        return status(&head.headers).map(|()| body);
    }
    let kind = head.headers.get("content-type").and_then(|kind| kind.to_str().ok());
    if head.status == StatusCode::OK
        && kind.is_some_and(|kind| kind.starts_with("application/grpc"))
    {
        return Ok(body);
    }
    let kind = match head.status.as_u16() {
        401 | 403 => Kind::Denied,
        404 => Kind::Unsupported,
        429 | 502 | 503 | 504 => Kind::Passing,
        _ => Kind::Other,
    };
    Err(Failure::new(kind, format!("it answers with HTTP status {}, not with gRPC", head.status)))
}

/// Takes a whole message out of what was received.
fn take_message(buffer: &mut BytesMut) -> Result<Option<Bytes>> {
    let Some(&[compressed, a, b, c, d]) = buffer.first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if compressed != 0 || length > LONGEST {
        return Err(Failure::other("its answer is garbled"));
    }
    if buffer.len() < length + 5 {
        return Ok(None);
    }
    buffer.advance(5);
    Ok(Some(buffer.split_to(length).freeze()))
}

/// A connection or a stream that broke.
pub(super) fn broken(error: h2::Error) -> Failure {
    let kind = if error.is_reset() { Kind::Passing } else { Kind::Lost };
    Failure::new(kind, format!("the connection broke ({error})"))
}

/// The status of a call, out of its trailers.
fn status(trailers: &HeaderMap) -> Result<()> {
    let text = |name| trailers.get(name).and_then(|value| value.to_str().ok());
    let code: i32 = text("grpc-status").and_then(|code| code.parse().ok()).unwrap_or(2);
    if code == 0 {
        return Ok(());
    }
    let message = unescape(text("grpc-message").unwrap_or_default());
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let details = text("grpc-status-details-bin").and_then(|text| engine.decode(text).ok());
    let details = details.and_then(|bytes| Status::from_bytes(bytes.into()).ok());
    let details = details.map(|status| status.details).unwrap_or_default();
    Err(failure(&Status { code, message, details }))
}

/// Percent signs stand for bytes.
fn unescape(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        let digits = behind.get(..2).filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &behind[2..];
            }
            None => {
                out.push(*first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// What a status that is not good means (`google/rpc/code.proto`).
pub(super) fn failure(status: &Status) -> Failure {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    let kind = match status.code {
        1 | 8 | 10 | 14 => Kind::Passing,
        2 | 13 => Kind::Unknown,
        4 => Kind::TooLong,
        5 => Kind::NotFound,
        7 | 16 => Kind::Denied,
        9 => Kind::Missing(missing(status)),
        12 => Kind::Unsupported,
        _ => Kind::Other,
    };
    let name = usize::try_from(status.code).ok().and_then(|code| NAMES.get(code).copied());
    let name = name.map_or_else(|| format!("code {}", status.code), str::to_owned);
    let message = status.message.trim();
    let shown: String = message.chars().take(300).collect();
    Failure::new(kind, if shown.is_empty() { name } else { format!("{name}: {shown}") })
}

/// Blobs that a failed precondition names: `blobs/HASH/SIZE`, with the function before the hash if it is a newer one.
fn missing(status: &Status) -> Vec<Digest> {
    let failures =
        status.details.iter().filter(|any| any.type_url.ends_with("PreconditionFailure"));
    let failures =
        failures.filter_map(|any| PreconditionFailure::from_bytes(any.value.clone()).ok());
    let violations = failures.flat_map(|failure| failure.violations);
    let subjects = violations.filter(|violation| violation.kind == "MISSING");
    let digest = |subject: String| {
        let mut parts = subject.rsplit('/');
        let size_bytes = parts.next()?.parse().ok()?;
        let hash = parts.next()?.to_owned();
        Digest::read(&super::messages::Digest { hash, size_bytes })
    };
    subjects.filter_map(|violation| digest(violation.subject)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::messages::{Any, Violation};
    use super::*;

    #[test]
    fn messages_are_taken_whole() {
        let mut buffer = BytesMut::from(&b"\0\0\0\0\x02ab\0\0\0\0\x01"[..]);
        assert_eq!(take_message(&mut buffer).unwrap().unwrap(), "ab");
        assert_eq!(take_message(&mut buffer).unwrap(), None);
        buffer.extend_from_slice(b"c");
        assert_eq!(take_message(&mut buffer).unwrap().unwrap(), "c");
        assert!(take_message(&mut BytesMut::from(&b"\x01\0\0\0\0"[..])).is_err(), "compressed");
        assert!(take_message(&mut BytesMut::from(&b"\0\xff\0\0\0"[..])).is_err(), "too long");
    }

    #[test]
    fn the_status_is_in_the_trailers() {
        let with = |pairs: &[(&'static str, &'static str)]| {
            let pairs = pairs.iter().map(|(name, value)| {
                (http::HeaderName::from_static(name), http::HeaderValue::from_static(value))
            });
            status(&pairs.collect())
        };
        assert_eq!(with(&[("grpc-status", "0")]), Ok(()));
        let failed = with(&[("grpc-status", "14"), ("grpc-message", "gone%3A 100%")]).unwrap_err();
        assert_eq!(failed, Failure::new(Kind::Passing, "UNAVAILABLE: gone: 100%"));
        assert_eq!(with(&[]).unwrap_err().kind, Kind::Unknown);
        let failed = with(&[("grpc-status", "99")]).unwrap_err();
        assert_eq!(failed, Failure::new(Kind::Other, "code 99"));
    }

    #[test]
    fn missing_blobs_are_named_by_the_details() {
        let digest = super::super::digest::Function::Sha256.of(b"x");
        let violation = |kind: &str, subject: String| Violation { kind: kind.into(), subject };
        let violations = vec![
            violation("MISSING", format!("blobs/{digest}")),
            violation("MISSING", format!("blobs/blake3/{digest}")),
            violation("MISSING", "blobs/x".into()),
            violation("OTHER", format!("blobs/{digest}")),
        ];
        let value = PreconditionFailure { violations }.to_bytes();
        let type_url = "type.googleapis.com/google.rpc.PreconditionFailure".to_owned();
        let details = vec![Any { type_url, value }];
        let failed = failure(&Status { code: 9, message: String::new(), details });
        assert_eq!(failed.kind, Kind::Missing(vec![digest, digest]));
    }
}
