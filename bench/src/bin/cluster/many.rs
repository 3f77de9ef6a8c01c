//! Servers in memory within one process, as tests of controllers start them.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::{Failure, at, progress, tell};

const SERVERS: usize = 50;

pub fn in_one_process() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let before = resident()?;
        let mut servers = Vec::new();
        let mut each = Vec::new();
        for _ in 0..SERVERS {
            let begun = Instant::now();
            let server = apiserver::Server::start(apiserver::Config::default()).await?;
            each.push(begun.elapsed());
            servers.push(server);
        }
        each.sort();
        tokio::time::sleep(Duration::from_secs(1)).await;
        let mb = (resident()? - before) / SERVERS as f64;
        let (wall_ms, worst_ms) = (at(&each, 0.5), at(&each, 1.0));
        progress(&format!("{SERVERS} in one process: {wall_ms:.1} ms each, at most {worst_ms:.1}; {mb:.2} MB each"));
        tell("in one process, each of 50", json!({"wall_ms": wall_ms, "worst_ms": worst_ms, "mb": mb}));
        for server in servers {
            server.stop().await;
        }
        Ok(())
    })
}

/// Resident size of this process in MB.
fn resident() -> Result<f64, Failure> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).ok_or("no VmRSS")?;
    Ok(line.split_whitespace().next().ok_or("an empty line")?.parse::<f64>()? / 1024.0)
}
