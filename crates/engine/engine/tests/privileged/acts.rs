//! An engine in a process of its own that does one thing, and is killed in the middle of it by a crash point.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use engine::*;

use crate::world::{config, shell};

/// `<root> <run> <what> [container]`
pub fn main(words: &[OsString]) -> ExitCode {
    let word = |at: usize| words.get(at).and_then(|w| w.to_str()).unwrap_or_default().to_owned();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let done = runtime.block_on(act(Path::new(&word(0)), Path::new(&word(1)), &word(2), &word(3)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn act(root: &Path, run: &Path, what: &str, container: &str) -> Result<()> {
    // The engine before may still be letting go of the database.
    let deadline = Instant::now() + Duration::from_secs(20);
    let engine = loop {
        match Engine::open(config(root, run)).await {
            Err(error) if Instant::now() < deadline && error.kind() == vocab::ErrorKind::Conflict => {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            other => break other?,
        }
    };
    match what {
        "create" => {
            let mut request = shell("while true; do sleep 1; done");
            request.name = Some("made".into());
            request.config.volumes.insert("/data".into());
            engine.create(request).await?;
        }
        "start" => engine.start(container).await?,
        "stop" => engine.stop(container, Some("KILL"), Some(5)).await?,
        "remove" => engine.remove(container, RemoveOptions { force: true, volumes: true }).await?,
        "rename" => engine.rename(container, "renamed").await?,
        "exec" => {
            let config = ExecConfig { cmd: vec!["true".into()], ..Default::default() };
            let id = engine.exec_create(container, config).await?;
            engine.exec_start(&id.to_string(), ExecStart { detach: true, ..Default::default() }).await?;
        }
        "commit" => {
            let request = CommitRequest { reference: Some("committed".into()), pause: true, ..Default::default() };
            engine.commit(container, request).await?;
        }
        // Runs until it is killed.
        "serve" => {
            println!("ready");
            std::future::pending::<()>().await;
        }
        other => panic!("no act {other:?}"),
    }
    engine.shutdown().await;
    Ok(())
}
