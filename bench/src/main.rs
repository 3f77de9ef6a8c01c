//! Times an engine through Docker's API: create, start, wait and remove of one container after another, or by several
//! workers at a time. Prints one JSON line; `bench/run` runs it against every engine.
//!
//! `bench SOCKET IMAGE RUNS WORKERS`; for networks `bench traffic ...`, see `traffic`

mod http;
mod traffic;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use http::Connection;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments[..] {
        [what, serve, port] if what == "traffic" && serve == "serve" => {
            return told(port.parse().map_err(std::io::Error::other).and_then(traffic::serve).map(|()| None));
        }
        [what, address] if what == "traffic" => return told(traffic::measure(address).map(Some)),
        _ => {}
    }
    let [socket, image, runs, workers] = &arguments[..] else {
        eprintln!("usage: bench SOCKET IMAGE RUNS WORKERS");
        return ExitCode::from(2);
    };
    let (Ok(runs), Ok(workers)) = (runs.parse(), workers.parse()) else {
        eprintln!("bench: RUNS and WORKERS are whole numbers");
        return ExitCode::from(2);
    };
    told(measure(PathBuf::from(socket), image, runs, workers).map(Some))
}

fn told<E: std::fmt::Display>(result: Result<Option<serde_json::Value>, E>) -> ExitCode {
    match result {
        Ok(line) => {
            line.iter().for_each(|line| println!("{line}"));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(socket: PathBuf, image: &str, runs: usize, workers: usize) -> Result<serde_json::Value, String> {
    life(&mut Connection::open(&socket).map_err(|e| e.to_string())?, image)?;
    let from = Instant::now();
    let threads: Vec<_> = (0..workers)
        .map(|_| {
            let (socket, image, runs) = (socket.clone(), image.to_owned(), runs / workers);
            std::thread::spawn(move || worker(&socket, &image, runs))
        })
        .collect();
    let mut each = Vec::new();
    for thread in threads {
        each.extend(thread.join().map_err(|_| "a worker panicked")??);
    }
    let wall = from.elapsed();
    each.sort();
    let at = |share: f64| each[((each.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    Ok(serde_json::json!({
        "runs": each.len(), "workers": workers, "per_second": each.len() as f64 / wall.as_secs_f64(),
        "p50_ms": at(0.5), "p99_ms": at(0.99), "min_ms": at(0.0),
    }))
}

fn worker(socket: &Path, image: &str, runs: usize) -> Result<Vec<Duration>, String> {
    let mut connection = Connection::open(socket).map_err(|e| e.to_string())?;
    (0..runs)
        .map(|_| {
            let from = Instant::now();
            life(&mut connection, image)?;
            Ok(from.elapsed())
        })
        .collect()
}

/// One container from create to remove. `wait` is asked after the start, so that one connection is enough.
fn life(connection: &mut Connection, image: &str) -> Result<(), String> {
    let body = serde_json::json!({"Image": image, "Cmd": ["true"], "HostConfig": {"NetworkMode": "none"}}).to_string();
    let answer = call(connection, "POST", "/v1.44/containers/create", &body, 201)?;
    let created: serde_json::Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
    let id = created["Id"].as_str().ok_or("the answer to create has no Id")?;
    call(connection, "POST", &format!("/v1.44/containers/{id}/start"), "", 204)?;
    let answer = call(connection, "POST", &format!("/v1.44/containers/{id}/wait"), "", 200)?;
    let ended: serde_json::Value = serde_json::from_slice(&answer).map_err(|e| e.to_string())?;
    if ended["StatusCode"] != 0 {
        return Err(format!("`true` ended with {ended}"));
    }
    call(connection, "DELETE", &format!("/v1.44/containers/{id}"), "", 204)?;
    Ok(())
}

fn call(connection: &mut Connection, method: &str, path: &str, body: &str, expected: u16) -> Result<Vec<u8>, String> {
    let answer = connection.call(method, path, body).map_err(|error| format!("{method} {path}: {error}"))?;
    if answer.status != expected {
        return Err(format!("{method} {path}: {} {}", answer.status, String::from_utf8_lossy(&answer.body)));
    }
    Ok(answer.body)
}
