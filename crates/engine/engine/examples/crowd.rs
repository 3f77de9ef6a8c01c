//! Measures an engine with many running containers: how long a list takes, what memory the engine has, and how fast the next one adopts
//! them all.
//!
//! `crowd DIR COUNT` starts COUNT sleeping containers in an engine in DIR and ends the engine; `crowd DIR adopt` opens an engine on what
//! runs there; `crowd DIR clear` removes everything. Root only.

mod common;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use common::cpu_ms;
use engine::*;

fn main() -> ExitCode {
    common::main(work)
}

async fn work(words: Vec<OsString>) -> Result<()> {
    let (Some(dir), Some(what)) = (words.first(), words.get(1).and_then(|word| word.to_str())) else {
        return Err(Error::Invalid("usage: crowd DIR COUNT|adopt|clear".into()));
    };
    let from = Instant::now();
    let engine = common::open(Path::new(dir)).await?;
    println!("opened in {:.1} ms, CPU {:.0} ms", from.elapsed().as_secs_f64() * 1e3, cpu_ms(std::process::id() as i32));
    match what {
        "adopt" => {}
        "clear" => {
            for container in engine.list(ListOptions { all: true, ..Default::default() }).await? {
                engine.remove(&container.id.to_string(), RemoveOptions { force: true, volumes: true }).await?;
            }
        }
        count => {
            let count: usize = count.parse().map_err(|_| Error::Invalid(format!("{count} is no number")))?;
            let from = Instant::now();
            for _ in 0..count {
                let id = engine.create(common::request(&["sleep", "100000"])).await?.id;
                engine.start(&id.to_string()).await?;
            }
            println!("{count} started in {:.1} s", from.elapsed().as_secs_f64());
        }
    }
    let from = Instant::now();
    let running = engine.list(ListOptions::default()).await?.len();
    println!("{running} running, listed in {:.1} ms", from.elapsed().as_secs_f64() * 1e3);
    // Threads for work that blocks end after two seconds.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let keeper = engine.keeper().pids()[0];
    println!("PSS: engine {} kB, keeper {} kB", pss_kb(std::process::id() as i32), pss_kb(keeper));
    engine.shutdown().await;
    Ok(())
}

fn pss_kb(pid: i32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).unwrap_or_default();
    line.split_whitespace().next().and_then(|kb| kb.parse().ok()).unwrap_or(0)
}
