//! Requests by 16 workers at once, each on a connection of its own, each waiting for its answer: to write a ConfigMap, read it,
//! change it, apply it.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::connection::{Access, Connection};
use crate::objects::config_map;
use crate::process::Process;
use crate::{Failure, at, progress, tell};

pub const WORKERS: usize = 16;
pub const JSON: &str = "Content-Type: application/json";
const COUNT: usize = 16_000;

/// Runs `one` for every number below `count`, on all workers, and answers what it came to.
pub fn load(
    process: &Process,
    name: &str,
    from: usize,
    count: usize,
    one: impl Fn(&mut Connection, usize) -> Result<(), Failure> + Sync,
) -> Result<Value, Failure> {
    let next = AtomicUsize::new(from);
    let cpu = process.cpu()?;
    let begun = Instant::now();
    let mut each = std::thread::scope(|scope| -> Result<Vec<Duration>, Failure> {
        let worker = || -> Result<Vec<Duration>, Failure> {
            let mut connection = open(&process.access)?;
            let mut each = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= from + count {
                    return Ok(each);
                }
                let sent = Instant::now();
                one(&mut connection, number)?;
                each.push(sent.elapsed());
            }
        };
        let threads: Vec<_> = (0..WORKERS).map(|_| scope.spawn(worker)).collect();
        let mut all = Vec::new();
        for thread in threads {
            all.extend(thread.join().map_err(|_| "a worker panicked")??);
        }
        Ok(all)
    })?;
    let wall = begun.elapsed();
    let cpu = process.cpu()? - cpu;
    each.sort();
    let per_second = count as f64 / wall.as_secs_f64();
    let (p50, p99) = (at(&each, 0.5), at(&each, 0.99));
    let cpu_ms = cpu.as_secs_f64() * 1e3 / count as f64;
    progress(&format!("{name}: {per_second:.0}/s, p50 {p50:.2} ms, p99 {p99:.2} ms, server's CPU {cpu_ms:.3} ms each"));
    Ok(json!({"per_second": per_second, "p50_ms": p50, "p99_ms": p99, "cpu_ms_each": cpu_ms}))
}

fn open(access: &Access) -> Result<Connection, Failure> {
    let mut connection = Connection::open(access)?;
    connection.expect(200, "GET", "/readyz", &[], b"")?;
    Ok(connection)
}

pub fn config_maps(knarr: &Path, folder: &Path) -> Result<(), Failure> {
    let process = Process::start(knarr, folder, &[])?;
    const ALL: &str = "/api/v1/namespaces/default/configmaps";
    let run = |name: &str, one: &(dyn Fn(&mut Connection, usize) -> Result<(), Failure> + Sync)| {
        load(&process, name, 0, COUNT, one).map(|figures| tell(name, figures))
    };
    run("ConfigMap create", &|connection, number| {
        let body = config_map(&format!("c{number}"), 0).to_string();
        connection.expect(201, "POST", ALL, &[JSON], body.as_bytes()).map(drop)
    })?;
    run("ConfigMap get", &|connection, number| {
        connection.expect(200, "GET", &format!("{ALL}/c{number}"), &[], b"").map(drop)
    })?;
    run("ConfigMap update", &|connection, number| {
        let body = config_map(&format!("c{number}"), 1).to_string();
        connection.expect(200, "PUT", &format!("{ALL}/c{number}"), &[JSON], body.as_bytes()).map(drop)
    })?;
    run("ConfigMap server-side apply, new", &|connection, number| {
        let body = config_map(&format!("a{number}"), 2).to_string();
        let path = format!("{ALL}/a{number}?fieldManager=bench");
        connection
            .expect(201, "PATCH", &path, &["Content-Type: application/apply-patch+yaml"], body.as_bytes())
            .map(drop)
    })?;
    run("ConfigMap server-side apply, changed", &|connection, number| {
        let body = config_map(&format!("a{number}"), 3).to_string();
        let path = format!("{ALL}/a{number}?fieldManager=bench");
        connection
            .expect(200, "PATCH", &path, &["Content-Type: application/apply-patch+yaml"], body.as_bytes())
            .map(drop)
    })
}
