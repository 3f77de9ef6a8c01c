//! What the measuring examples share: an engine of their own with the host's static busybox as its image.

#![allow(dead_code, reason = "each example uses a part")]

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use engine::*;

/// Acts as the keeper if that is what this program was started for; else runs `work`.
pub fn main<F: Future<Output = Result<()>>>(work: impl FnOnce(Vec<OsString>) -> F) -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == "keeper") {
        let token = linux::clone::SingleThreaded::new().expect("a keeper has one thread");
        let args = keeper::Args::parse(words[1..].to_vec()).expect("the engine starts keepers with good arguments");
        keeper::serve(&token, &args, &keeper::RuntimeLauncher).expect("a keeper serves");
        return ExitCode::SUCCESS;
    }
    let _ = linux::rlimit::raise_soft(linux::rlimit::Resource::NOFILE);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_keep_alive(std::time::Duration::from_secs(2))
        .enable_all()
        .build();
    match runtime.expect("threads start").block_on(work(words)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

pub fn config(dir: &Path) -> EngineConfig {
    let program = std::env::current_exe().expect("a running program has a path");
    EngineConfig {
        users: Default::default(),
        root: dir.join("root"),
        run: dir.join("run"),
        keeper: vec![program.into(), "keeper".into()],
        labels: Vec::new(),
        cdi_dirs: Vec::new(),
        plugins: engine::PluginConfig::default(),
        restarts: true,
        published_ports: Some(engine::PublishedPorts::BypassInput),
        registries: Registries::default(),
    }
}

pub async fn open(dir: &Path) -> Result<Engine> {
    let engine = Engine::open(config(dir)).await?;
    if engine.image_inspect("busybox").await.is_err() {
        import_busybox(&engine).await?;
    }
    Ok(engine)
}

pub fn request(words: &[&str]) -> CreateRequest {
    CreateRequest {
        config: ContainerConfig {
            image: "busybox".into(),
            cmd: Some(words.iter().map(|word| (*word).to_owned()).collect()),
            ..Default::default()
        },
        host: HostConfig { network_mode: "none".into(), ..Default::default() },
        ..Default::default()
    }
}

/// User and system time of a process and the children that it has waited for, in milliseconds.
pub fn cpu_ms(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // Fields 14 to 17 of proc(5), in ticks of 10 ms.
    fields.get(11..15).unwrap_or_default().iter().filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10.0
}

async fn import_busybox(engine: &Engine) -> Result<()> {
    use image::tar::{Entry, FileData, Kind, Time, Writer};
    let program = std::fs::read("/bin/busybox").expect("busybox-static is installed");
    let mut tar = Writer::new(Vec::new());
    let entry = |path: &str, kind: Kind| {
        let mtime = Time { secs: 1_700_000_000, nanos: 0 };
        Entry { path: path.into(), kind, mode: 0o755, uid: 0, gid: 0, mtime, xattrs: Vec::new() }
    };
    for dir in ["bin", "etc", "tmp"] {
        tar.entry(&entry(dir, Kind::Dir)).expect("memory takes it");
    }
    for name in ["true", "sh", "yes", "head", "sleep"] {
        let file = Kind::File(FileData::plain(program.len() as u64));
        tar.entry(&entry(&format!("bin/{name}"), file)).expect("memory takes it");
        tar.data(&program).expect("memory takes it");
    }
    let bytes = tar.finish().expect("memory takes it");
    let (sender, body) = Body::channel();
    let send = tokio::spawn(async move { sender.send(bytes.into()).await });
    let request = ImportRequest { reference: Some("busybox".into()), ..Default::default() };
    engine.image_import(request, body).await?;
    let _ = send.await;
    Ok(())
}
