//! Exec, attach and port-forward from the asking side, over SPDY: for a runtime that answers a request with an address.

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use pods::{Input, Output, Pipe, Process, RuntimeError};
use serde_json::{Value, json};
use spdy::{Headers, Opener, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};

use crate::session::Asked;

fn failed(what: &str, error: &dyn std::fmt::Display) -> RuntimeError {
    RuntimeError::Failed(format!("{what}: {error}"))
}

/// Comes to an address and switches to SPDY.
async fn switch(address: &str, protocol: &'static str) -> Result<Opener, RuntimeError> {
    let uri: Uri = address.parse().map_err(|error| failed("read the runtime's address", &error))?;
    let authority = uri.authority().map(ToString::to_string).unwrap_or_default();
    let place = if authority.contains(':') { authority.clone() } else { format!("{authority}:80") };
    let stream = TcpStream::connect(&place).await.map_err(|error| failed(&format!("connect to {place}"), &error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed("speak to the runtime", &error))?;
    tokio::spawn(connection.with_upgrades());
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(HOST, authority)
        .header(CONNECTION, "Upgrade")
        .header(UPGRADE, "SPDY/3.1")
        .header("X-Stream-Protocol-Version", protocol)
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed("ask the runtime", &error))?;
    let response = sender.send_request(request).await.map_err(|error| failed("ask the runtime", &error))?;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Err(RuntimeError::Failed(format!("the runtime did not switch protocols: {}", response.status())));
    }
    let upgraded = hyper::upgrade::on(response).await.map_err(|error| failed("switch protocols", &error))?;
    let (reader, writer) = tokio::io::split(TokioIo::new(upgraded));
    Ok(spdy::dial(reader, writer))
}

async fn open(opener: &mut Opener, headers: &[(&str, &str)]) -> Result<Stream, RuntimeError> {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    opener.open(Headers(headers)).await.map_err(|error| failed("open a stream", &error))
}

/// The process at an address that was given for it.
pub async fn process(address: &str, asked: &Asked) -> Result<Process, RuntimeError> {
    let mut opener = switch(address, crate::session::SPDY_PROTOCOLS[0]).await?;
    let mut error = open(&mut opener, &[("streamtype", "error")]).await?;
    let mut stdin = match asked.stdin {
        true => Some(open(&mut opener, &[("streamtype", "stdin")]).await?.writer),
        false => None,
    };
    let (tell, output) = mpsc::channel(16);
    let mut reading = tokio::task::JoinSet::new();
    for (name, stderr, wanted) in [("stdout", false, asked.stdout), ("stderr", true, asked.stderr && !asked.tty)] {
        if wanted {
            let mut reader = open(&mut opener, &[("streamtype", name)]).await?.reader;
            let tell = tell.clone();
            reading.spawn(async move {
                while let Some(bytes) = reader.next().await {
                    if tell.send(Output { stderr, bytes }).await.is_err() {
                        return;
                    }
                }
            });
        }
    }
    let resize = match asked.tty {
        true => Some(open(&mut opener, &[("streamtype", "resize")]).await?.writer),
        false => None,
    };
    let (input, mut inputs) = mpsc::channel(16);
    let feeding = tokio::spawn(async move {
        while let Some(next) = inputs.recv().await {
            let sent = match (next, &stdin, &resize) {
                (Input::Bytes(bytes), Some(stdin), _) => stdin.write(bytes).await,
                (Input::End, _, _) => match stdin.take() {
                    Some(stdin) => stdin.finish().await,
                    None => Ok(()),
                },
                (Input::Size(rows, cols), _, Some(resize)) => {
                    resize.write(Bytes::from(json!({"Width": cols, "Height": rows}).to_string())).await
                }
                _ => Ok(()),
            };
            if sent.is_err() {
                return;
            }
        }
    });
    let (tell_exit, exit) = oneshot::channel();
    tokio::spawn(async move {
        // The connection lives as long as anybody listens.
        let _opener = opener;
        let gone = tell.clone();
        let ended = async {
            let mut text = Vec::new();
            while let Some(bytes) = error.reader.next().await {
                text.extend_from_slice(&bytes);
            }
            while reading.join_next().await.is_some() {}
            text
        };
        let text = tokio::select! {
            text = ended => text,
            () = gone.closed() => return feeding.abort(),
        };
        // All was delivered: the end of the output is the first thing to be told.
        drop((tell, gone));
        feeding.abort();
        let _ = tell_exit.send(outcome(&text));
    });
    Ok(Process { output, input, exit })
}

/// What the stream of errors says: a status, or nothing where the connection broke.
fn outcome(text: &[u8]) -> Result<i32, RuntimeError> {
    let status: Value =
        serde_json::from_slice(text).map_err(|_| RuntimeError::Failed("the process was lost".into()))?;
    if status["status"] == "Success" {
        return Ok(0);
    }
    let causes = status["details"]["causes"].as_array();
    let code = causes.into_iter().flatten().find(|cause| cause["reason"] == "ExitCode");
    match code.and_then(|cause| cause["message"].as_str()?.parse().ok()) {
        Some(code) if status["reason"] == "NonZeroExitCode" => Ok(code),
        _ => Err(RuntimeError::Failed(status["message"].as_str().unwrap_or("the runtime failed").to_owned())),
    }
}

/// A connection to a port of a pod, at an address that was given for it.
pub async fn connect(address: &str, port: u16) -> Result<Box<dyn Pipe>, RuntimeError> {
    let mut opener = switch(address, crate::port_forward::SPDY_PROTOCOLS[0]).await?;
    let port = port.to_string();
    let headers = |kind| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
    let error = open(&mut opener, &headers("error")).await?;
    error.writer.finish().await.map_err(|error| failed("open a stream", &error))?;
    let mut data = open(&mut opener, &headers("data")).await?;
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move {
        let _opener = opener;
        let (mut from_client, mut to_client) = tokio::io::split(ours);
        let inward = async {
            let mut buffer = vec![0; 32 << 10];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                if data.writer.write(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
                    return;
                }
            }
            let _ = data.writer.clone().finish().await;
            // The pod may still answer.
            std::future::pending::<()>().await;
        };
        let mut error = error.reader;
        let outward = async {
            while let Some(bytes) = data.reader.next().await {
                if to_client.write_all(&bytes).await.is_err() {
                    return;
                }
            }
            if let Some(text) = error.next().await {
                tracing::debug!(error = %String::from_utf8_lossy(&text), "a forwarded connection failed");
            }
            let _ = to_client.shutdown().await;
        };
        tokio::select! {
            () = inward => {}
            () = outward => {}
        }
    });
    Ok(Box::new(theirs))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_is_a_code_or_a_reason() {
        let told = |exit: Result<i32, RuntimeError>| outcome(crate::session::outcome(exit, &[]).to_string().as_bytes());
        assert_eq!(told(Ok(0)), Ok(0));
        assert_eq!(told(Ok(7)), Ok(7));
        let failed = RuntimeError::Failed("no such file".into());
        assert_eq!(told(Err(failed.clone())), Err(failed));
        assert_eq!(outcome(b""), Err(RuntimeError::Failed("the process was lost".into())));
    }

    #[tokio::test]
    async fn a_process_of_ours_is_reached_at_its_address() {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = format!("http://{}/exec/x", listener.local_addr().unwrap());
        let asked = Asked { stdin: true, stdout: true, stderr: true, tty: false, command: Vec::new() };
        let serving = asked.clone();
        tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let service = hyper::service::service_fn(move |mut request: Request<hyper::body::Incoming>| {
                let protocols = (crate::session::PROTOCOLS, crate::session::SPDY_PROTOCOLS);
                let wire = crate::negotiate(request.headers(), protocols.0, protocols.1).unwrap();
                let (response, asked) = (crate::switch(&wire), serving.clone());
                let upgrade = hyper::upgrade::on(&mut request);
                tokio::spawn(async move {
                    let io = TokioIo::new(upgrade.await.unwrap());
                    crate::session::serve(io, wire, asked, async { Ok(echo()) }).await;
                });
                async move { Ok::<_, std::convert::Infallible>(response.map(|()| Empty::<Bytes>::new())) }
            });
            let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            served.with_upgrades().await.unwrap();
        });
        let mut process = process(&address, &asked).await.unwrap();
        process.input.send(Input::Bytes(Bytes::from_static(b"ping"))).await.unwrap();
        process.input.send(Input::End).await.unwrap();
        let first = process.output.recv().await.unwrap();
        assert_eq!((first.stderr, &first.bytes[..]), (false, &b"ping"[..]));
        assert_eq!(process.output.recv().await, None);
        assert_eq!(process.exit.await.unwrap(), Ok(5));
    }

    /// Gives back what it is given until its input ends, and ends with 5.
    fn echo() -> Process {
        let (tell, output) = mpsc::channel(1);
        let (input, mut inputs) = mpsc::channel(1);
        let (tell_exit, exit) = oneshot::channel();
        tokio::spawn(async move {
            while let Some(Input::Bytes(bytes)) = inputs.recv().await {
                tell.send(Output { stderr: false, bytes }).await.unwrap();
            }
            tell_exit.send(Ok(5)).unwrap();
        });
        Process { output, input, exit }
    }
}
