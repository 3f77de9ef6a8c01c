//! Bodies both ways: whole JSON documents with a limit, and streams of any length with back-pressure.
//!
//! Every stream is pulled by the connection: a client that stops reading stops the engine behind it, and a client that
//! goes away drops it.

use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::error::{ApiError, ApiResult, chain};

/// Longest JSON request taken. A create request with the largest environment that exec accepts is far below it.
const JSON_BYTES_MAX: usize = 4 << 20;

/// How much a stream of small items collects into one chunk, if that much is there, bytes.
const CHUNK_BYTES: usize = 64 << 10;

type PollChunk = dyn FnMut(&mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> + Send;

/// The body of an answer.
pub(crate) enum Body {
    Empty,
    Full(Bytes),
    /// An archive as the engine packs it. An error cuts the connection, so that a half archive never looks whole.
    Bytes(engine::ByteStream),
    /// Chunks until the sender is gone.
    Channel(mpsc::Receiver<Bytes>),
    Polled(Box<PollChunk>),
}

impl Body {
    /// Items as bytes, as many in one chunk as are there. `encode` appends one item, or says that it was the last.
    pub(crate) fn encoded<T: Send + 'static>(
        mut items: engine::ItemStream<T>,
        mut encode: impl FnMut(engine::Result<T>, &mut Vec<u8>) -> ControlFlow<()> + Send + 'static,
    ) -> Self {
        let mut ended = false;
        Self::Polled(Box::new(move |cx| {
            let mut chunk = Vec::new();
            while !ended && chunk.len() < CHUNK_BYTES {
                match items.poll_next(cx) {
                    Poll::Ready(Some(item)) => ended = encode(item, &mut chunk).is_break(),
                    Poll::Ready(None) => ended = true,
                    Poll::Pending if chunk.is_empty() => return Poll::Pending,
                    Poll::Pending => break,
                }
            }
            Poll::Ready((!chunk.is_empty()).then(|| Ok(chunk.into())))
        }))
    }

    /// This body with a first chunk before it.
    pub(crate) fn after(self, head: Bytes) -> Self {
        let (mut head, mut rest) = (Some(head).filter(|head| !head.is_empty()), self);
        Self::Polled(Box::new(move |cx| match head.take() {
            Some(head) => Poll::Ready(Some(Ok(head))),
            None => Pin::new(&mut rest)
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default()))),
        }))
    }

    /// This body, whose end comes no earlier than `until` resolves.
    pub(crate) fn held_open(self, until: impl Future<Output = ()> + Send + 'static) -> Self {
        let (mut rest, mut until) = (Some(self), Box::pin(until));
        Self::Polled(Box::new(move |cx| {
            if let Some(body) = &mut rest {
                match Pin::new(body).poll_frame(cx) {
                    Poll::Ready(None) => rest = None,
                    frame => {
                        return frame
                            .map(|frame| frame.map(|frame| frame.map(|frame| frame.into_data().unwrap_or_default())));
                    }
                }
            }
            until.as_mut().poll(cx).map(|()| None)
        }))
    }

    /// One chunk that is not known yet: the head of the answer goes out at once.
    pub(crate) fn later(chunk: impl Future<Output = Bytes> + Send + 'static) -> Self {
        let mut chunk = Some(Box::pin(chunk));
        Self::Polled(Box::new(move |cx| match &mut chunk {
            None => Poll::Ready(None),
            Some(future) => future.as_mut().poll(cx).map(|bytes| {
                chunk = None;
                Some(Ok(bytes))
            }),
        }))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Full(_) => match std::mem::replace(&mut *self, Self::Empty) {
                Self::Full(bytes) if !bytes.is_empty() => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                _ => Poll::Ready(None),
            },
            Self::Bytes(stream) => stream.poll_next(cx).map(|chunk| {
                chunk.map(|chunk| chunk.map(Frame::data).map_err(|error| io::Error::other(error.to_string())))
            }),
            Self::Channel(receiver) => receiver.poll_recv(cx).map(|chunk| chunk.map(|chunk| Ok(Frame::data(chunk)))),
            Self::Polled(poll) => poll(cx).map(|chunk| chunk.map(|chunk| chunk.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Empty)
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Bytes(_) | Self::Channel(_) | Self::Polled(_) => SizeHint::default(),
        }
    }
}

/// Reads a whole JSON body. Docker's daemon insists on the content type, on one document and on nothing after it.
pub(crate) async fn read_json<T: DeserializeOwned>(headers: &HeaderMap, body: Incoming) -> ApiResult<T> {
    let bytes = read_whole(body).await?;
    parse_json(headers, &bytes)?.ok_or_else(|| ApiError::invalid("invalid JSON: got EOF while reading request body"))
}

/// Like [`read_json`] for routes whose body may be left out.
pub(crate) async fn read_json_or_none<T: DeserializeOwned>(
    headers: &HeaderMap,
    body: &mut Incoming,
) -> ApiResult<Option<T>> {
    if body.is_end_stream() {
        return Ok(None);
    }
    let bytes = read_whole(body).await?;
    parse_json(headers, &bytes)
}

fn parse_json<T: DeserializeOwned>(headers: &HeaderMap, bytes: &[u8]) -> ApiResult<Option<T>> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let content_type = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    if let Some(content_type) = content_type
        && content_type.split(';').next().unwrap_or_default().trim() != "application/json"
    {
        return Err(ApiError::invalid(format!(
            "unsupported Content-Type header ({content_type}): must be 'application/json'"
        )));
    }
    serde_json::from_slice(bytes).map(Some).map_err(|error| ApiError::invalid(json_fault(&error)))
}

/// What is wrong with a document, as Docker begins to say it; types of this program have no name for clients.
fn json_fault(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if error.is_eof() {
        return "invalid JSON: unexpected EOF".into();
    }
    if text.starts_with("trailing characters") {
        return "unexpected content after JSON".into();
    }
    let Some((found, wanted)) = text.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    else {
        return format!("invalid JSON: {text}");
    };
    let (wanted, place) = wanted.rsplit_once(" at line ").unwrap_or((wanted, ""));
    let found = match found.split(' ').next().unwrap_or_default() {
        "sequence" => "array",
        "map" => "object",
        "integer" | "floating" => "number",
        "boolean" => "bool",
        word => word,
    };
    let wanted = if wanted.starts_with("struct ") { "an object" } else { wanted };
    format!("invalid JSON: json: cannot unmarshal {found} where there has to be {wanted}, at line {place}")
}

async fn read_whole(body: impl HttpBody<Data = Bytes, Error = hyper::Error>) -> ApiResult<Bytes> {
    match Limited::new(body, JSON_BYTES_MAX).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            format!("request body is larger than {JSON_BYTES_MAX} bytes"),
        )),
        Err(error) => Err(ApiError::invalid(format!("read request body: {}", chain(&*error)))),
    }
}

/// What is still read of a body that nobody wants any more, bytes.
const UNWANTED_BYTES_MAX: usize = 1 << 20;
const UNWANTED_TIME_MAX: Duration = Duration::from_secs(2);

/// Reads on for a little: a client that is still sending would find its connection reset before it sees why it was refused.
pub(crate) async fn drain(mut body: Incoming) {
    let read = async {
        let mut count = 0;
        while let Some(Ok(frame)) = body.frame().await {
            count += frame.data_ref().map_or(0, Bytes::len);
            if count > UNWANTED_BYTES_MAX {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(UNWANTED_TIME_MAX, read).await;
}

/// Passes a request body on to the engine. A connection that breaks off is an error there, not an end; an engine that
/// stops reading leaves the rest of a long body unread.
pub(crate) fn feed(mut body: Incoming) -> engine::Body {
    let (sender, fed) = engine::Body::channel();
    tokio::spawn(async move {
        while let Some(frame) = body.frame().await {
            match frame.map(Frame::into_data) {
                Ok(Ok(data)) => {
                    if sender.send(data).await.is_err() {
                        return drain(body).await;
                    }
                }
                // Trailers say nothing about an archive.
                Ok(Err(_trailers)) => {}
                Err(error) => return sender.fail(io::Error::new(io::ErrorKind::UnexpectedEof, error)).await,
            }
        }
    });
    fed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default, serde::Deserialize)]
    #[serde(default)]
    struct Sent {
        #[serde(rename = "Image")]
        _image: Option<String>,
        #[serde(rename = "Cmd")]
        _cmd: Option<Vec<String>>,
    }

    #[test]
    fn faults_in_json_begin_as_dockers_and_name_no_type_of_ours() {
        let rows = [
            ("{", "invalid JSON: unexpected EOF"),
            ("7", "invalid JSON: json: cannot unmarshal number where there has to be an object, at line 1 column 1"),
            (
                r#"{"Image":1}"#,
                "invalid JSON: json: cannot unmarshal number where there has to be a string, at line 1 column 10",
            ),
            (
                r#"{"Cmd":"x"}"#,
                "invalid JSON: json: cannot unmarshal string where there has to be a sequence, at line 1 column 10",
            ),
            (r#"{"Image":"x"}y"#, "unexpected content after JSON"),
            ("x", "invalid JSON: expected value at line 1 column 1"),
        ];
        for (text, wanted) in rows {
            assert_eq!(json_fault(&serde_json::from_str::<Sent>(text).unwrap_err()), wanted, "{text}");
        }
    }
}
