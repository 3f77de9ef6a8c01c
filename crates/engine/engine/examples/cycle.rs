//! Measures the life of a container through the engine alone, without HTTP: create, start, wait, remove of `true`.
//!
//! `cycle DIR COUNT [WORKERS]` keeps its engine in DIR and imports the host's static busybox as its image. Root only.

mod common;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::cpu_ms;
use engine::*;

fn main() -> ExitCode {
    common::main(measure)
}

async fn measure(words: Vec<OsString>) -> Result<()> {
    let number = |at: usize| words.get(at).and_then(|word| word.to_str()?.parse::<usize>().ok());
    let (Some(dir), Some(count)) = (words.first(), number(1)) else {
        return Err(Error::Invalid("usage: cycle DIR COUNT [WORKERS]".into()));
    };
    let workers = number(2).unwrap_or(1);
    let engine = common::open(Path::new(dir)).await?;
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

async fn life(engine: &Engine) -> Result<[Duration; 4]> {
    let at = Instant::now();
    let id = engine.create(common::request(&["true"])).await?.id.to_string();
    let created = at.elapsed();
    engine.start(&id).await?;
    let started = at.elapsed();
    engine.wait(&id, WaitCondition::NotRunning).await?.outcome().await?;
    let ended = at.elapsed();
    engine.remove(&id, RemoveOptions::default()).await?;
    Ok([created, started - created, ended - started, at.elapsed() - ended])
}
