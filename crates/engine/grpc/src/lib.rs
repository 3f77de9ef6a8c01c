//! gRPC without generated code. Here is the server's side, over connections that somebody else accepted: a request's path chooses a
//! function from message to message; [`Client`] is the other.
//!
//! A service is a `match` over paths, whose arms call [`unary`], [`server_stream`] or [`streams`].

mod client;

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use futures_util::Stream;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::body::Body;
use tonic::server::Grpc;
use tonic::{Code, Status};
use tonic_prost::ProstCodec;

pub use client::Client;

/// Bytes of one message, as BuildKit and the container runtime interface limit them.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;
/// Streams that one connection may have open: a client needs a handful for each thing that it does.
const STREAMS_MAX: u32 = 512;
/// How much of a message may be under way before it is read.
const WINDOW_BYTES: u32 = 1 << 20;

/// What a call comes to.
pub type Answer = Response<Body>;
/// Answer of one function, or why there is none.
pub type Outcome<T> = Result<T, Status>;
type Items<R> = Pin<Box<dyn Stream<Item = Outcome<R>> + Send>>;

/// Serves a connection until its client goes. What was not answered by then is dropped, and with it what it was doing.
pub async fn serve<I, A, F>(io: I, answer: A)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    let service = service_fn(move |request| {
        let answered = answer(request);
        async move { Ok::<_, Infallible>(answered.await) }
    });
    let served = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(4 * WINDOW_BYTES)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a gRPC connection ended");
    }
}

/// The answer to a path that no service has.
pub fn unimplemented(path: &str) -> Answer {
    Status::new(Code::Unimplemented, format!("unknown method {path}")).into_http()
}

/// One message in, one message out.
pub async fn unary<Q, R, F, T>(request: Request<Incoming>, work: F) -> Answer
where
    Q: Message + Default + 'static,
    R: Message + Default + 'static,
    F: FnOnce(Q) -> T + Send + 'static,
    T: Future<Output = Outcome<R>> + Send + 'static,
{
    grpc::<R, Q>().unary(Once(Some(work)), request).await
}

/// One message in, a stream of them out.
pub async fn server_stream<Q, R, F, S>(request: Request<Incoming>, work: F) -> Answer
where
    Q: Message + Default + 'static,
    R: Message + Default + 'static,
    F: FnOnce(Q) -> S + Send + 'static,
    S: Stream<Item = Outcome<R>> + Send + 'static,
{
    grpc::<R, Q>().server_streaming(Several(Some(work)), request).await
}

/// Streams both ways.
pub async fn streams<Q, R, F, T, S>(request: Request<Incoming>, work: F) -> Answer
where
    Q: Message + Default + 'static,
    R: Message + Default + 'static,
    F: FnOnce(tonic::Streaming<Q>) -> T + Send + 'static,
    T: Future<Output = Outcome<S>> + Send + 'static,
    S: Stream<Item = Outcome<R>> + Send + 'static,
{
    grpc::<R, Q>().streaming(Both(Some(work)), request).await
}

fn grpc<R, Q>() -> Grpc<ProstCodec<R, Q>>
where
    Q: Message + Default + 'static,
    R: Message + Default + 'static,
{
    Grpc::new(ProstCodec::default())
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX)
}

/// A function that answers one request, as tonic wants it.
struct Once<F>(Option<F>);

impl<Q, R, F, T> tonic::server::UnaryService<Q> for Once<F>
where
    F: FnOnce(Q) -> T,
    R: 'static,
    T: Future<Output = Outcome<R>> + Send + 'static,
{
    type Response = R;
    type Future = Pin<Box<dyn Future<Output = Outcome<tonic::Response<R>>> + Send>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        let work = self.0.take().map(|work| work(request.into_inner()));
        Box::pin(async move {
            match work {
                Some(work) => work.await.map(tonic::Response::new),
                None => Err(Status::internal("a request is answered once")),
            }
        })
    }
}

struct Several<F>(Option<F>);

impl<Q, R, F, S> tonic::server::ServerStreamingService<Q> for Several<F>
where
    F: FnOnce(Q) -> S,
    R: 'static,
    S: Stream<Item = Outcome<R>> + Send + 'static,
{
    type Response = R;
    type ResponseStream = Items<R>;
    type Future = std::future::Ready<Outcome<tonic::Response<Items<R>>>>;

    fn call(&mut self, request: tonic::Request<Q>) -> Self::Future {
        std::future::ready(match self.0.take() {
            Some(work) => Ok(tonic::Response::new(Box::pin(work(request.into_inner())) as Items<R>)),
            None => Err(Status::internal("a request is answered once")),
        })
    }
}

struct Both<F>(Option<F>);

impl<Q, R, F, T, S> tonic::server::StreamingService<Q> for Both<F>
where
    F: FnOnce(tonic::Streaming<Q>) -> T,
    R: 'static,
    T: Future<Output = Outcome<S>> + Send + 'static,
    S: Stream<Item = Outcome<R>> + Send + 'static,
{
    type Response = R;
    type ResponseStream = Items<R>;
    type Future = Pin<Box<dyn Future<Output = Outcome<tonic::Response<Items<R>>>> + Send>>;

    fn call(&mut self, request: tonic::Request<tonic::Streaming<Q>>) -> Self::Future {
        let work = self.0.take().map(|work| work(request.into_inner()));
        Box::pin(async move {
            match work {
                Some(work) => Ok(tonic::Response::new(Box::pin(work.await?) as Items<R>)),
                None => Err(Status::internal("a request is answered once")),
            }
        })
    }
}
