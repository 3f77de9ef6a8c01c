//! What the test files share: a registry over a store of its own, a plain HTTP client, images made here, and a registry
//! that misbehaves as it is told.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use image::tar::{Entry, FileData, Kind, Time, Writer};
use image::{Options, Store};
use registry::client::{self, Client, Credentials, PullRequest, Report, Reporter};
use registry::server::{Config, Listen, Server};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

pub const PATIENCE: Duration = Duration::from_secs(120);
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

pub fn digest(bytes: &[u8]) -> String {
    image::hash::sha256(bytes).to_string()
}

pub fn open_store(folder: &Path) -> Arc<Store> {
    let db = db::Db::open(&folder.join("knarr.db")).unwrap();
    Arc::new(Store::open(folder, db, Options::default()).unwrap())
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A registry that is served until it is dropped.
pub struct Registry {
    pub folder: tempfile::TempDir,
    pub store: Arc<Store>,
    pub server: Server,
    pub address: SocketAddr,
    pub runtime: Runtime,
    stop: Option<oneshot::Sender<()>>,
}

impl Registry {
    pub fn start(config: Config) -> Self {
        Self::start_with(config, |_| {})
    }

    pub fn start_with(config: Config, change: impl FnOnce(&mut Listen)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open_store(folder.path());
        let runtime = runtime();
        let server = Server::open(store.clone(), config, Client::new(client::Config::default())).unwrap();
        let mut listen = Listen { address: "127.0.0.1:0".parse().unwrap(), tls: None, names: Vec::new(), plain: false };
        change(&mut listen);
        let listening = runtime.block_on(server.bind(&listen)).unwrap();
        let address = listening.address();
        let (stop, stopped) = oneshot::channel();
        runtime.spawn(listening.serve(async move { drop(stopped.await) }));
        Self { folder, store, server, address, runtime, stop: Some(stop) }
    }

    pub fn call(&self, method: &str, path: &str) -> Answer {
        call(self.address, method, path, &[], b"")
    }

    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        call(self.address, method, path, headers, body)
    }

    /// Uploads a blob in one request.
    pub fn put_blob(&self, name: &str, bytes: &[u8]) -> String {
        let digest = digest(bytes);
        self.send("POST", &format!("/v2/{name}/blobs/uploads/?digest={digest}"), &[], bytes).is(201);
        digest
    }

    /// Puts an artifact of one blob; returns the manifest's digest.
    pub fn put_artifact(&self, name: &str, reference: Option<&str>, blob: &[u8], more: &str) -> String {
        let config = self.put_blob(name, b"{}");
        let layer = self.put_blob(name, blob);
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","config":{{"mediaType":"application/x.test","digest":"{config}","size":2}},"layers":[{{"mediaType":"text/plain","digest":"{layer}","size":{}}}]{more}}}"#,
            blob.len()
        );
        let digest = digest(manifest.as_bytes());
        let path = format!("/v2/{name}/manifests/{}", reference.unwrap_or(&digest));
        self.send("PUT", &path, &[("Content-Type", MANIFEST)], manifest.as_bytes()).is(201);
        digest
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
    }
}

#[derive(Debug)]
pub struct Answer {
    pub what: String,
    pub status: u16,
    pub headers: BTreeMap<String, String>,
    pub body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{}: {:?} {}", self.what, self.headers, String::from_utf8_lossy(&self.body));
        self
    }

    #[track_caller]
    pub fn refused(self, status: u16, code: &str) -> Self {
        let answer = self.is(status);
        let json = answer.json();
        assert_eq!(json["errors"][0]["code"], code, "{}: {json}", answer.what);
        assert!(json["errors"][0]["message"].is_string(), "{json}");
        answer
    }

    #[track_caller]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("{}: no header {name} in {:?}", self.what, self.headers))
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{}: {e}: {:?}", self.what, self.body))
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// One request on a connection of its own.
pub fn call(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut head = format!("{method} {path} HTTP/1.1\r\nConnection: close\r\nContent-Length: {}\r\n", body.len());
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        head.push_str(&format!("Host: {address}\r\n"));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(b"\r\n")).unwrap();
    // A server that refuses a body may stop reading it.
    let _ = stream.write_all(body);
    read_answer(stream, format!("{method} {path}"), method == "HEAD")
}

fn read_answer(stream: TcpStream, what: String, head: bool) -> Answer {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    let status =
        line.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("{what}: {line:?}"));
    let headers = read_headers(&mut reader);
    let mut body = Vec::new();
    if !head {
        match headers.get("content-length").and_then(|length| length.parse().ok()) {
            Some(length) => {
                body.resize(length, 0);
                reader.read_exact(&mut body).unwrap();
            }
            None => drop(reader.read_to_end(&mut body)),
        }
    }
    Answer { what, status, headers, body }
}

fn read_headers(reader: &mut impl BufRead) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            return headers;
        }
        if let Some((name, value)) = line.trim_end().split_once(':') {
            headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
        }
    }
}

/// An image whose parts are bytes here.
#[derive(Clone)]
pub struct Made {
    pub manifest: Vec<u8>,
    pub config: Vec<u8>,
    pub layers: Vec<Vec<u8>>,
}

impl Made {
    /// Layers of one file each, of so many bytes that hardly compress.
    pub fn new(sizes: &[usize]) -> Self {
        let (mut layers, mut diff_ids) = (Vec::new(), Vec::new());
        for (at, size) in sizes.iter().enumerate() {
            let tar = layer_tar(&format!("file-{at}"), &noise(at as u64 + 1, *size));
            diff_ids.push(digest(&tar));
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(&tar).unwrap();
            layers.push(gzip.finish().unwrap());
        }
        let architecture = image::Platform::host().architecture;
        let config = serde_json::json!({
            "architecture": architecture, "os": "linux", "config": {"Cmd": ["sh"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = serde_json::to_vec(&config).unwrap();
        let manifest = manifest_of(&config, &layers);
        Self { manifest, config, layers }
    }

    pub fn id(&self) -> String {
        digest(&self.config)
    }

    /// The right answers of a registry that has only this.
    pub fn answer(&self, asked: &Asked) -> Reply {
        if asked.path == "/v2/" {
            return Reply::new(200, b"{}");
        }
        if asked.path.contains("/manifests/") {
            return Reply::new(200, &self.manifest).header("Content-Type", MANIFEST);
        }
        let blobs = self.layers.iter().chain([&self.config]);
        let path = asked.path.split('?').next().unwrap_or_default();
        match blobs.into_iter().find(|blob| path.ends_with(&digest(blob))) {
            Some(blob) => Reply::ranged(asked, blob),
            None => Reply::new(404, br#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#),
        }
    }
}

pub fn manifest_of(config: &[u8], layers: &[Vec<u8>]) -> Vec<u8> {
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| serde_json::json!({"mediaType": LAYER, "digest": digest(layer), "size": layer.len()}))
        .collect();
    let config = serde_json::json!({"mediaType": CONFIG, "digest": digest(config), "size": config.len()});
    serde_json::to_vec(
        &serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers}),
    )
    .unwrap()
}

pub fn layer_tar(name: &str, data: &[u8]) -> Vec<u8> {
    let mut tar = Writer::new(Vec::new());
    let kind = Kind::File(FileData::plain(data.len() as u64));
    let mtime = Time { secs: 1, nanos: 0 };
    let entry = Entry { path: name.into(), kind, mode: 0o644, uid: 0, gid: 0, mtime, xattrs: Vec::new() };
    tar.entry(&entry).unwrap();
    tar.data(data).unwrap();
    tar.finish().unwrap()
}

pub fn noise(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next).take(bytes).collect()
}

/// What a misbehaving registry was asked.
#[derive(Debug, Clone)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub headers: BTreeMap<String, String>,
}

/// What it answers.
#[derive(Debug, Clone)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Bytes of the body after which the connection breaks.
    pub cut: Option<usize>,
    /// No declared length, and the body again and again.
    pub endless: bool,
}

impl Reply {
    pub fn new(status: u16, body: &[u8]) -> Self {
        Self { status, headers: Vec::new(), body: body.to_vec(), cut: None, endless: false }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn ranged(asked: &Asked, blob: &[u8]) -> Self {
        let first = asked
            .headers
            .get("range")
            .and_then(|range| range.strip_prefix("bytes=")?.split('-').next()?.parse::<usize>().ok());
        match first {
            None => Self::new(200, blob),
            Some(first) if first >= blob.len() => Self::new(416, b""),
            Some(first) => {
                let range = format!("bytes {first}-{}/{}", blob.len() - 1, blob.len());
                Self::new(206, &blob[first..]).header("Content-Range", &range)
            }
        }
    }
}

/// A registry that answers as a function says.
pub struct Evil {
    pub address: SocketAddr,
    pub asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
    accepting: Option<std::thread::JoinHandle<()>>,
}

impl Evil {
    pub fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, ended) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let answer = Arc::new(answer);
        let (log, over) = (asked.clone(), ended.clone());
        let accepting = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if over.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), answer, log) = (stream, answer.clone(), log.clone()) else { continue };
                let over = over.clone();
                std::thread::spawn(move || drop(converse(stream, &*answer, &log, &over)));
            }
        });
        Self { address, asked, ended, accepting: Some(accepting) }
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Evil {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(self.address);
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
    }
}

fn converse(
    stream: TcpStream,
    answer: &(dyn Fn(&Asked) -> Reply + Send + Sync),
    log: &Mutex<Vec<Asked>>,
    over: &AtomicBool,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        // What is kept open does not outlive the registry.
        if over.load(Ordering::SeqCst) {
            return Ok(());
        }
        let mut words = line.split(' ');
        let (method, path) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
        let headers = read_headers(&mut reader);
        let length = headers.get("content-length").and_then(|length| length.parse::<u64>().ok()).unwrap_or(0);
        std::io::copy(&mut reader.by_ref().take(length), &mut std::io::sink())?;
        let asked = Asked { method, path, headers };
        log.lock().unwrap().push(asked.clone());
        let reply = answer(&asked);
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if reply.endless {
            head.push_str("Transfer-Encoding: chunked\r\n\r\n");
            writer.write_all(head.as_bytes())?;
            loop {
                writer.write_all(format!("{:x}\r\n", reply.body.len()).as_bytes())?;
                writer.write_all(&reply.body)?;
                writer.write_all(b"\r\n")?;
            }
        }
        head.push_str(&format!("Content-Length: {}\r\n\r\n", reply.body.len()));
        writer.write_all(head.as_bytes())?;
        if asked.method != "HEAD" {
            match reply.cut {
                Some(cut) if cut < reply.body.len() => {
                    writer.write_all(&reply.body[..cut])?;
                    writer.flush()?;
                    return writer.shutdown(std::net::Shutdown::Both);
                }
                _ => writer.write_all(&reply.body)?,
            }
        }
    }
}

/// A client with a store to pull into.
pub struct Puller {
    pub folder: tempfile::TempDir,
    pub store: Arc<Store>,
    pub runtime: Runtime,
    pub client: Client,
    pub reports: Arc<Mutex<Vec<Report>>>,
}

impl Puller {
    pub fn new(config: client::Config) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open_store(folder.path());
        Self { folder, store, runtime: runtime(), client: Client::new(config), reports: Arc::default() }
    }

    pub fn reporter(&self) -> Reporter {
        let reports = self.reports.clone();
        Arc::new(move |report| {
            reports.lock().unwrap().push(report);
            true
        })
    }

    pub fn pull(&self, reference: &str, credentials: Credentials) -> client::Result<vocab::Digest> {
        let request = PullRequest { reference: reference.parse().unwrap(), platform: None, credentials };
        self.runtime.block_on(self.client.pull(&self.store, request, self.reporter()))
    }

    /// The file of a layer of [`Made::new`], as it lies in the store.
    pub fn file(&self, reference: &str, name: &str) -> Option<Vec<u8>> {
        let facts = self.store.inspect(reference).ok()?;
        facts.lowers.iter().find_map(|lower| std::fs::read(lower.join(name)).ok())
    }

    /// Nothing half done, and every digest right.
    #[track_caller]
    pub fn assert_clean(&self) {
        assert_eq!(self.store.check(true).unwrap(), []);
        assert_eq!(std::fs::read_dir(self.folder.path().join("tmp")).unwrap().count(), 0);
    }
}

/// True when run as root; else says aloud that the test proves nothing.
pub fn root_or_skip() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIPPED: needs root");
    }
    root
}
