//! A web server of a test's own: some files, and what was asked for.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

/// What is there under a path.
#[derive(Clone)]
pub enum Page {
    /// Bytes with a validator (`ETag`).
    File(Vec<u8>, String),
    /// Go there instead.
    Redirect(String),
    /// Tells this length and sends half of it.
    Cut(usize),
    Status(u16),
}

/// Serves on the loopback until it is dropped.
pub struct Web {
    address: String,
    pages: Arc<Mutex<BTreeMap<String, Page>>>,
    log: Arc<Mutex<Vec<String>>>,
    ended: Arc<AtomicBool>,
}

impl Web {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address").to_string();
        let web = Self { address, pages: Arc::default(), log: Arc::default(), ended: Arc::default() };
        let (pages, log, ended) = (web.pages.clone(), web.log.clone(), web.ended.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (pages, log) = (pages.clone(), log.clone());
                std::thread::spawn(move || answer(stream, &pages, &log));
            }
        });
        web
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn put(&self, path: &str, page: Page) {
        self.pages.lock().expect("no test panicked in it").insert(path.to_owned(), page);
    }

    pub fn file(&self, path: &str, bytes: impl AsRef<[u8]>, etag: &str) {
        self.put(path, Page::File(bytes.as_ref().to_vec(), etag.to_owned()));
    }

    /// `200 /path`, one for each answer so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no test panicked in it").clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

fn answer(stream: TcpStream, pages: &Mutex<BTreeMap<String, Page>>, log: &Mutex<Vec<String>>) -> Option<()> {
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut out = stream;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
        let path = line.split(' ').nth(1)?.to_owned();
        let mut known = None;
        loop {
            let mut header = String::new();
            reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
            if header == "\r\n" {
                break;
            }
            if let Some((name, value)) = header.split_once(':')
                && name.eq_ignore_ascii_case("if-none-match")
            {
                known = Some(value.trim().to_owned());
            }
        }
        let page = pages.lock().ok()?.get(&path).cloned();
        let (status, headers, body, told) = match page {
            Some(Page::File(_, etag)) if known.as_deref() == Some(&etag) => (304, String::new(), Vec::new(), 0),
            Some(Page::File(bytes, etag)) => {
                let headers = format!("ETag: {etag}\r\nLast-Modified: Wed, 21 Oct 2015 07:28:00 GMT\r\n");
                let told = bytes.len();
                (200, headers, bytes, told)
            }
            Some(Page::Redirect(to)) => (302, format!("Location: {to}\r\n"), Vec::new(), 0),
            Some(Page::Cut(told)) => (200, String::new(), vec![b'x'; told / 2], told),
            Some(Page::Status(status)) => (status, String::new(), Vec::new(), 0),
            None => (404, String::new(), Vec::new(), 0),
        };
        log.lock().ok()?.push(format!("{status} {path}"));
        let head = format!("HTTP/1.1 {status} X\r\n{headers}Content-Length: {told}\r\n\r\n");
        out.write_all(head.as_bytes()).and_then(|()| out.write_all(&body)).ok()?;
        if told != body.len() {
            return None;
        }
    }
}
