//! The client's side of Docker's API: requests, answers, errors, and the engine that is started when none answers.

pub mod autostart;
pub mod frames;
pub mod http;
pub mod signals;
pub mod terminal;

use std::cell::RefCell;
use std::io::{self, Read};

use serde_json::Value;

use self::http::{Body, Host, Response, Stream};
use crate::failure::Failure;
use crate::settings::Settings;

/// The API version that the commands are written against.
const VERSION: &str = "/v1.47";

/// The size at which a JSON answer is refused: an engine that sends more is not one.
const JSON_BYTES_MAX: u64 = 1 << 30;

/// A connection to one engine. Requests may overlap: each takes the idle connection or opens another.
#[derive(Debug)]
pub struct Client {
    pub settings: Settings,
    idle: RefCell<Option<Stream>>,
}

impl Client {
    pub fn new(settings: Settings) -> Self {
        Self { settings, idle: RefCell::new(None) }
    }

    pub fn host(&self) -> &Host {
        &self.settings.host
    }

    fn connect(&self) -> Result<Stream, Failure> {
        autostart::connect(&self.settings)
    }

    /// Sends a request; the answer's status may be anything.
    pub fn send(&self, method: &str, path: &str, body: Body<'_>) -> Result<Response, Failure> {
        self.send_with(method, path, body, false)
    }

    fn send_with(&self, method: &str, path: &str, body: Body<'_>, upgrade: bool) -> Result<Response, Failure> {
        let idle = if upgrade { None } else { self.idle.borrow_mut().take() };
        let stream = match idle {
            Some(stream) => stream,
            None => self.connect()?,
        };
        http::exchange(stream, method, &format!("{VERSION}{path}"), body, upgrade)
            .map_err(|error| Failure::new(format!("error during connect: {method} {path} at {}: {error}", self.host())))
    }

    /// Sends a request whose success has a status below 400; anything else becomes docker's error text.
    pub fn request(&self, method: &str, path: &str, body: Body<'_>) -> Result<Response, Failure> {
        let response = self.send(method, path, body)?;
        self.checked(response)
    }

    pub fn checked(&self, response: Response) -> Result<Response, Failure> {
        if response.status < 400 { Ok(response) } else { Err(self.refusal(response)) }
    }

    /// The failure that an error answer stands for.
    pub fn refusal(&self, mut response: Response) -> Failure {
        let status = response.status;
        let mut body = String::new();
        let read = response.by_ref().take(1 << 20).read_to_string(&mut body);
        if read.is_ok() {
            self.keep(response);
        }
        let message =
            serde_json::from_str::<Value>(&body).ok().and_then(|value| Some(value["message"].as_str()?.to_owned()));
        Failure {
            status: Some(status),
            ..Failure::new(format!("Error response from daemon: {}", message.unwrap_or_else(|| body.trim().to_owned())))
        }
    }

    /// Gives the connection back for the next request.
    pub fn keep(&self, response: Response) {
        if let Some(stream) = response.into_idle() {
            *self.idle.borrow_mut() = Some(stream);
        }
    }

    /// Reads a whole JSON answer; an empty one is null.
    pub fn json(&self, mut response: Response) -> Result<Value, Failure> {
        let mut body = Vec::new();
        response
            .by_ref()
            .take(JSON_BYTES_MAX)
            .read_to_end(&mut body)
            .map_err(|error| Failure::new(format!("read the engine's answer: {error}")))?;
        self.keep(response);
        if body.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&body).map_err(|error| Failure::new(format!("the engine's answer is not JSON: {error}")))
    }

    pub fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(self.request("GET", path, Body::Empty)?)
    }

    pub fn post(&self, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.json(self.request("POST", path, body.map_or(Body::Empty, Body::Json))?)
    }

    pub fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.json(self.request("DELETE", path, Body::Empty)?)
    }

    /// Turns a connection into a plain byte stream: attach and exec.
    pub fn hijack(&self, path: &str, body: Body<'_>) -> Result<Hijacked, Failure> {
        let response = self.send_with("POST", path, body, true)?;
        let response = self.checked(response)?;
        if response.status != 101 && response.status != 200 {
            return Err(Failure::new(format!("the engine did not open a stream: status {}", response.status)));
        }
        let multiplexed = response.header("content-type").map(|kind| kind.contains("multiplexed"));
        let (ahead, stream) = response.into_raw();
        Ok(Hijacked { ahead, stream, multiplexed })
    }
}

/// A connection that carries a container's streams.
#[derive(Debug)]
pub struct Hijacked {
    /// What had arrived together with the answer's head.
    ahead: Vec<u8>,
    pub stream: Stream,
    /// Whether stdout and stderr come in frames, if the engine said.
    pub multiplexed: Option<bool>,
}

impl Hijacked {
    /// Everything the other side sends, in order.
    pub fn reader(&self) -> io::Result<impl Read + Send + use<>> {
        Ok(io::Cursor::new(self.ahead.clone()).chain(self.stream.try_clone()?))
    }
}

/// Docker's `filters` parameter from `--filter key=value` flags.
pub fn filters(flags: &[String]) -> Result<String, Failure> {
    let mut map = std::collections::BTreeMap::<String, serde_json::Map<String, Value>>::new();
    for flag in flags {
        let Some((key, value)) = flag.split_once('=') else {
            return Err(Failure::new(format!(
                "invalid argument {} for \"-f, --filter\" flag: invalid filter {}",
                crate::text::quoted(flag),
                crate::text::quoted(flag)
            ))
            .code(125));
        };
        map.entry(key.trim().to_lowercase()).or_default().insert(value.trim().to_owned(), Value::Bool(true));
    }
    Ok(serde_json::to_string(&map).unwrap_or_else(|_| "{}".into()))
}

/// A query string from pairs; empty if there are none.
pub fn query(pairs: &[(&str, &str)]) -> String {
    let mut out = String::new();
    for (name, value) in pairs {
        out.push(if out.is_empty() { '?' } else { '&' });
        out.push_str(&format!("{name}={}", http::encode(value)));
    }
    out
}
