//! Measures the life of a container through the engine alone, without HTTP: create, start, wait, remove of `true`.
//!
//! `cycle DIR COUNT [WORKERS]` keeps its engine in DIR and imports the host's static busybox as its image. Root only.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use engine::*;

fn main() -> ExitCode {
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    if words.first().is_some_and(|word| word == "keeper") {
        let token = linux::clone::SingleThreaded::new().expect("a keeper has one thread");
        let args = keeper::Args::parse(words[1..].to_vec()).expect("the engine starts keepers with good arguments");
        keeper::serve(&token, &args, &keeper::RuntimeLauncher).expect("a keeper serves");
        return ExitCode::SUCCESS;
    }
    let number = |at: usize| words.get(at).and_then(|word| word.to_str()?.parse::<usize>().ok());
    let (Some(dir), Some(count)) = (words.first(), number(1)) else {
        eprintln!("usage: cycle DIR COUNT [WORKERS]");
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime.expect("threads start").block_on(measure(Path::new(dir), count, number(2).unwrap_or(1))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(dir: &Path, count: usize, workers: usize) -> Result<()> {
    let program = std::env::current_exe().expect("a running program has a path");
    let engine = Engine::open(EngineConfig {
        root: dir.join("root"),
        run: dir.join("run"),
        keeper: vec![program.into(), "keeper".into()],
        labels: Vec::new(),
    })
    .await?;
    if engine.image_inspect("busybox").await.is_err() {
        import_busybox(&engine).await?;
    }
    life(&engine).await?;
    let keeper = engine.keeper().pids()[0];
    let (own_before, keeper_before) = (cpu_ms(std::process::id() as i32), cpu_ms(keeper));
    let from = Instant::now();
    let tasks: Vec<_> = (0..workers)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(async move {
                let mut steps = [Duration::ZERO; 4];
                for _ in 0..count / workers {
                    let took = life(&engine).await?;
                    steps.iter_mut().zip(took).for_each(|(sum, took)| *sum += took);
                }
                Ok::<_, Error>(steps)
            })
        })
        .collect();
    let mut steps = [Duration::ZERO; 4];
    for task in tasks {
        let took = task.await.expect("a worker does not panic")?;
        steps.iter_mut().zip(took).for_each(|(sum, took)| *sum += took);
    }
    let wall = from.elapsed().as_secs_f64();
    let all = (count / workers * workers) as f64;
    let [create, start, wait, remove] = steps.map(|sum| sum.as_secs_f64() * 1e3 / all);
    let cpu = |before, pid| (cpu_ms(pid) - before) / all;
    println!(
        "CPU of each: engine {:.2} ms, keeper and containers {:.2} ms",
        cpu(own_before, std::process::id() as i32),
        cpu(keeper_before, keeper)
    );
    println!(
        "{:.0}/s, {:.2} ms each: create {create:.2}, start {start:.2}, wait {wait:.2}, remove {remove:.2}",
        all / wall,
        wall * 1e3 / all
    );
    engine.shutdown().await;
    Ok(())
}

/// User and system time of a process and the children that it has waited for, in milliseconds.
fn cpu_ms(pid: i32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // Fields 14 to 17 of proc(5), in ticks of 10 ms.
    fields.get(11..15).unwrap_or_default().iter().filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() * 10.0
}

async fn life(engine: &Engine) -> Result<[Duration; 4]> {
    let request = CreateRequest {
        config: ContainerConfig { image: "busybox".into(), cmd: Some(vec!["true".into()]), ..Default::default() },
        host: HostConfig { network_mode: "none".into(), ..Default::default() },
        ..Default::default()
    };
    let at = Instant::now();
    let id = engine.create(request).await?.id.to_string();
    let created = at.elapsed();
    engine.start(&id).await?;
    let started = at.elapsed();
    engine.wait(&id, WaitCondition::NotRunning).await?.outcome().await?;
    let ended = at.elapsed();
    engine.remove(&id, RemoveOptions::default()).await?;
    Ok([created, started - created, ended - started, at.elapsed() - ended])
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
