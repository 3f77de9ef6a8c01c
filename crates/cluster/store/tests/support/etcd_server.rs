//! Real etcd servers on loopback, from Debian's `etcd-server`: plain, with certificates and passwords, or several as one.
//! Names no type of ours, since tests of several crates include it.
#![allow(dead_code, reason = "each test binary uses its part of it")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server of our own; ends with the value.
pub struct Server {
    child: Child,
    words: Vec<String>,
    /// Where it is plainly reached, also by a test that sets it up.
    plain: String,
    /// Where clients reach it.
    pub client: String,
    authority: Option<Authority>,
    _dir: tempfile::TempDir,
}

fn free() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    pub fn start() -> Option<Self> {
        let client = format!("http://127.0.0.1:{}", free());
        let peer = format!("http://127.0.0.1:{}", free());
        Self::member("default", &client, &peer, &format!("default={peer}"), None)
    }

    /// One that speaks TLS to clients with a certificate of its authority, and to nobody else.
    pub fn with_tls() -> Option<Self> {
        let client = format!("https://127.0.0.1:{}", free());
        let peer = format!("http://127.0.0.1:{}", free());
        Self::member("default", &client, &peer, &format!("default={peer}"), Some(Authority::new()))
    }

    /// Three that keep one state together.
    pub fn three() -> Option<Vec<Self>> {
        let names = ["a", "b", "c"];
        let peers = names.map(|_| format!("http://127.0.0.1:{}", free()));
        let cluster: Vec<_> = names.iter().zip(&peers).map(|(name, peer)| format!("{name}={peer}")).collect();
        let cluster = cluster.join(",");
        let client = || format!("http://127.0.0.1:{}", free());
        names.iter().zip(&peers).map(|(name, peer)| Self::member(name, &client(), peer, &cluster, None)).collect()
    }

    fn member(name: &str, client: &str, peer: &str, cluster: &str, authority: Option<Authority>) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let plain = match authority {
            Some(_) => format!("http://127.0.0.1:{}", free()),
            None => client.to_owned(),
        };
        let listen = if plain == client { client.to_owned() } else { format!("{client},{plain}") };
        let mut words: Vec<String> = [
            ["--name", name],
            ["--listen-client-urls", &listen],
            ["--advertise-client-urls", client],
            ["--listen-peer-urls", peer],
            ["--initial-advertise-peer-urls", peer],
            ["--initial-cluster", cluster],
            ["--log-level", "error"],
            ["--data-dir", dir.path().join("data").to_str().unwrap()],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
        if let Some(authority) = &authority {
            let file = |name: &str, text: &str| {
                let path = dir.path().join(name);
                std::fs::write(&path, text).unwrap();
                path.to_str().unwrap().to_owned()
            };
            let (certificate, key) = authority.leaf("127.0.0.1");
            words.extend(["--cert-file".into(), file("server.crt", &certificate), "--key-file".into()]);
            words.extend([file("server.key", &key), "--client-cert-auth".into(), "--trusted-ca-file".into()]);
            words.push(file("ca.crt", &authority.pem));
        }
        let child = spawn(&words)?;
        let server = Self { child, words, plain, client: client.to_owned(), authority, _dir: dir };
        server.wait_until_ready();
        Some(server)
    }

    fn wait_until_ready(&self) {
        for address in [&self.plain, &self.client] {
            let address = address.split_once("://").unwrap().1;
            let deadline = Instant::now() + PATIENCE;
            while std::net::TcpStream::connect(address).is_err() {
                assert!(Instant::now() < deadline, "etcd does not listen on {address}");
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub fn restart(&mut self) {
        self.child = spawn(&self.words).unwrap();
        self.wait_until_ready();
    }

    /// The authority of its certificates, and a certificate with its key that it believes, all PEM.
    pub fn papers(&self) -> Option<(String, (String, String))> {
        self.authority.as_ref().map(|authority| (authority.pem.clone(), authority.leaf("knarr")))
    }

    /// From now on only who knows a password is let in: `root` everywhere, `clerk` below `/k/`.
    pub fn ask_for_passwords(&self) {
        let permission = r#"{"name":"k","perm":{"permType":2,"key":"L2sv","range_end":"L2sw"}}"#;
        for (path, body) in [
            ("user/add", r#"{"name":"root","password":"sesame"}"#),
            ("user/add", r#"{"name":"clerk","password":"pencil"}"#),
            ("role/add", r#"{"name":"root"}"#),
            ("role/add", r#"{"name":"k"}"#),
            ("role/grant", permission),
            ("user/grant", r#"{"user":"root","role":"root"}"#),
            ("user/grant", r#"{"user":"clerk","role":"k"}"#),
            ("enable", "{}"),
        ] {
            self.post(&format!("/v3/auth/{path}"), body, "");
        }
    }

    /// One key, in base64, that the clerk may read besides. Asked for by its JSON door with root's token.
    pub fn let_clerk_read(&self, key: &str) {
        let answer = self.post("/v3/auth/authenticate", r#"{"name":"root","password":"sesame"}"#, "");
        let token = answer.split("\"token\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a token");
        let body = format!(r#"{{"name":"k","perm":{{"permType":0,"key":"{key}"}}}}"#);
        self.post("/v3/auth/role/grant", &body, token);
    }

    /// Its JSON door, which is up a moment after its port.
    fn post(&self, path: &str, body: &str, token: &str) -> String {
        let host = self.plain.trim_start_matches("http://");
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {host}\r\n{}content-length: {}\r\nconnection: close\r\n\r\n{body}",
            if token.is_empty() { String::new() } else { format!("authorization: {token}\r\n") },
            body.len()
        );
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut stream = std::net::TcpStream::connect(host).unwrap();
            stream.write_all(request.as_bytes()).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            if answer.starts_with("HTTP/1.1 200") {
                return answer;
            }
            assert!(Instant::now() < deadline, "{path}: {answer}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

fn spawn(words: &[String]) -> Option<Child> {
    match Command::new("etcd").args(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn() {
        Ok(child) => Some(child),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("SKIPPED: no etcd on this machine (Debian's etcd-server)");
            None
        }
        Err(error) => panic!("etcd: {error}"),
    }
}

/// Signs certificates.
pub struct Authority {
    pub pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![]).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, "etcd's authority");
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: rcgen::Issuer::new(params, key) }
    }

    /// A certificate for a name or an address, and its key, for both ends of a connection.
    pub fn leaf(&self, name: &str) -> (String, String) {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.extended_key_usages =
            vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth, rcgen::ExtendedKeyUsagePurpose::ClientAuth];
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}
