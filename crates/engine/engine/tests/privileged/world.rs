//! A place for one engine, removed with everything in it when the test ends, however it ends.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use engine::*;

pub struct World {
    dir: tempfile::TempDir,
    keepers: RefCell<Vec<keeper::client::Keeper>>,
}

impl World {
    pub fn new() -> Self {
        Self { dir: tempfile::Builder::new().prefix("knarr-engine-").tempdir().unwrap(), keepers: RefCell::default() }
    }

    pub fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }

    pub fn run(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub async fn engine(&self) -> Engine {
        let engine = Engine::open(config(&self.root(), &self.run())).await.unwrap();
        self.keepers.borrow_mut().push(engine.keeper());
        engine
    }

    /// With the image `busybox`.
    pub async fn busybox(&self) -> Engine {
        let engine = self.engine().await;
        load_busybox(&engine).await;
        engine
    }
}

impl Drop for World {
    fn drop(&mut self) {
        // The keeper ends by itself when it has nothing to hold; what a failed test left running must end first.
        let run = self.run();
        // Parts of an engine may live as long as the test's runtime: they must not start another keeper for the one that dies.
        for client in self.keepers.take() {
            client.close();
        }
        for keeper in keepers_of(&run) {
            for child in linux::proc::children(keeper).unwrap_or_default() {
                kill(child);
            }
            kill(keeper);
        }
        // Bridges and rules of an engine that was not shut down.
        let bridges = network::Bridges::new(&engine::instance_tag(&run));
        let links = bridges.links().unwrap_or_default();
        let ours: Vec<&str> = links
            .iter()
            .map(String::as_str)
            .filter(|name| network::names::kind(&engine::instance_tag(&run), name).is_some())
            .collect();
        let _ = bridges.remove_links(&ours);
        let _ = network::Firewall::new(&engine::instance_tag(&run)).remove();
        let parent = format!("knarr-{}", engine::instance_tag(&run));
        let layout = linux::cgroup::Layout::detect().unwrap();
        for hierarchy in &layout.hierarchies {
            remove_groups(&hierarchy.mount.join(&parent));
        }
    }
}

fn remove_groups(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten().filter(|e| e.path().is_dir()) {
        remove_groups(&entry.path());
    }
    let gone = || std::fs::remove_dir(dir).is_ok() || !dir.exists();
    let deadline = Instant::now() + Duration::from_secs(5);
    while !gone() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
}

pub fn kill(pid: i32) {
    if let Ok(fd) = linux::pidfd::open(pid) {
        let _ = linux::pidfd::send_signal(&fd, 9);
        let deadline = Instant::now() + Duration::from_secs(5);
        while !linux::pidfd::has_ended(&fd).unwrap_or(true) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

/// Keepers of this run directory, by their command lines.
pub fn keepers_of(run: &Path) -> Vec<i32> {
    let wanted = run.as_os_str().as_encoded_bytes();
    let pids = std::fs::read_dir("/proc").unwrap().flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&[u8]> = line.split(|b| *b == 0).collect();
        words.contains(&&b"keeper"[..]) && words.contains(&wanted)
    })
    .collect()
}

pub fn config(root: &Path, run: &Path) -> EngineConfig {
    let program = std::env::current_exe().unwrap();
    EngineConfig {
        users: Default::default(),
        root: root.to_owned(),
        run: run.to_owned(),
        keeper: vec![program.into(), "keeper".into()],
        registries: engine::Registries::default(),
        labels: Vec::new(),
        cdi_dirs: Vec::new(),
        plugins: engine::PluginConfig::default(),
        restarts: true,
        published_ports: Some(engine::PublishedPorts::BypassInput),
    }
}

pub async fn load_busybox(engine: &Engine) {
    let (sender, body) = Body::channel();
    let request = ImportRequest {
        reference: Some("busybox".into()),
        changes: vec!["CMD [\"sh\"]".into(), "ENV IMAGE=yes".into()],
        ..Default::default()
    };
    let tar = busybox_tar();
    let send = tokio::spawn(async move { sender.send(tar.into()).await });
    engine.image_import(request, body).await.unwrap();
    send.await.unwrap().unwrap();
}

/// A root file system with one static program under many names.
fn busybox_tar() -> Vec<u8> {
    use image::tar::{Entry, FileData, Kind, Time, Writer};
    const NAMES: [&str; 24] = [
        "sh", "true", "false", "sleep", "echo", "cat", "ls", "id", "env", "seq", "kill", "mkdir", "touch", "rm", "dd",
        "head", "wc", "stty", "pwd", "hostname", "ip", "mount", "yes", "trap",
    ];
    let program = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut tar = Writer::new(Vec::new());
    let entry = |path: &str, kind: Kind, mode: u32| {
        let mtime = Time { secs: 1_700_000_000, nanos: 0 };
        Entry { path: path.into(), kind, mode, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
    };
    for dir in ["bin", "etc", "tmp", "root", "data"] {
        tar.entry(&entry(dir, Kind::Dir, if dir == "tmp" { 0o1777 } else { 0o755 })).unwrap();
    }
    let file = |tar: &mut Writer<Vec<u8>>, path: &str, bytes: &[u8], mode: u32| {
        tar.entry(&entry(path, Kind::File(FileData::plain(bytes.len() as u64)), mode)).unwrap();
        tar.data(bytes).unwrap();
    };
    file(&mut tar, "bin/busybox", &program, 0o755);
    file(&mut tar, "etc/passwd", b"root:x:0:0::/root:/bin/sh\napp:x:1000:100::/tmp:/bin/sh\n", 0o644);
    file(&mut tar, "etc/group", b"root:x:0:\nusers:x:100:\nextra:x:200:app\n", 0o644);
    file(&mut tar, "data/seed", b"from the image\n", 0o644);
    let mtime = Time { secs: 1_700_000_000, nanos: 0 };
    for name in NAMES {
        let kind = Kind::Symlink(b"busybox".to_vec());
        let path = format!("bin/{name}").into_bytes();
        tar.entry(&Entry { path, kind, mode: 0o777, uid: 0, gid: 0, mtime, xattrs: Vec::new() }).unwrap();
    }
    tar.finish().unwrap()
}

/// A create request for a command in the busybox image.
pub fn command(words: &[&str]) -> CreateRequest {
    CreateRequest {
        config: ContainerConfig {
            image: "busybox".into(),
            cmd: Some(words.iter().map(|w| w.to_string()).collect()),
            ..Default::default()
        },
        host: HostConfig { network_mode: "none".into(), ..Default::default() },
        ..Default::default()
    }
}

pub fn shell(script: &str) -> CreateRequest {
    command(&["sh", "-c", script])
}

/// Creates, starts, waits; gives the exit code and what it wrote to both streams.
pub async fn run(engine: &Engine, request: CreateRequest) -> (i32, String) {
    let id = engine.create(request).await.unwrap().id.to_string();
    let options = AttachOptions { stdout: true, stderr: true, stream: true, ..Default::default() };
    let mut attached = engine.attach(&id, options).await.unwrap();
    let waiter = engine.wait(&id, WaitCondition::NextExit).await.unwrap();
    engine.start(&id).await.unwrap();
    let code = within(waiter.outcome()).await.unwrap().exit_code;
    let mut text = Vec::new();
    while let Some(chunk) = within(attached.output.next()).await {
        text.extend_from_slice(&chunk.unwrap().bytes);
    }
    engine.remove(&id, RemoveOptions { force: true, volumes: true }).await.unwrap();
    (code, String::from_utf8(text).unwrap())
}

pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("something that should happen did not")
}

pub async fn logs(engine: &Engine, id: &str, options: LogOptions) -> String {
    let mut stream = engine.logs(id, options).await.unwrap();
    let mut text = Vec::new();
    while let Some(entry) = within(stream.next()).await {
        text.extend_from_slice(&entry.unwrap().line);
    }
    String::from_utf8(text).unwrap()
}

/// Waits until `holds`, by looking again whenever something happened in the engine.
pub async fn until<F: Future<Output = bool>>(holds: impl Fn() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "a condition that should come true did not");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
