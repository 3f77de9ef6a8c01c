//! Many pods: writing them, listing them, and what they cost in memory.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::connection::Connection;
use crate::objects::{config_map, pod};
use crate::process::Process;
use crate::writes::{JSON, load};
use crate::{Failure, at, progress, tell};

const ALL: &str = "/api/v1/namespaces/default/pods";
const LISTS: usize = 7;

pub fn pods(knarr: &Path, folder: &Path) -> Result<(), Failure> {
    let process = Process::start(knarr, folder, &[])?;
    let mut connection = Connection::open(&process.access)?;
    // Something that owns them, so that the garbage collector lets them be.
    let body = config_map("owner", 0).to_string();
    let owner = connection.expect(201, "POST", "/api/v1/namespaces/default/configmaps", &[JSON], body.as_bytes())?;
    let owner: Value = serde_json::from_slice(&owner.body)?;
    let uid = owner["metadata"]["uid"].as_str().ok_or("an object without uid")?;
    let create = |connection: &mut Connection, number: usize| {
        let body = pod(&format!("web-7d4b9c6f5-{number:05}")).to_string().replace("OWNER", uid);
        connection.expect(201, "POST", ALL, &[JSON], body.as_bytes()).map(drop)
    };
    let figures = load(&process, "pod create, the first 10,000", 0, 10_000, create)?;
    tell("pod create, the first 10,000", figures);
    let figures = load(&process, "pod create, the next 30,000", 10_000, 30_000, create)?;
    tell("pod create, the next 30,000", figures);

    progress(&format!("40,000 pods: {:.0} MB", process.pss()?));
    // The server has ended the idle one meanwhile.
    let mut connection = Connection::open(&process.access)?;
    let pod = connection.expect(200, "GET", &format!("{ALL}/web-7d4b9c6f5-00000"), &[], b"")?;
    progress(&format!("a pod has {} bytes in JSON", pod.length));
    for (name, accept) in [
        ("list of 40,000 pods, JSON", "Accept: application/json"),
        ("list of 40,000 pods, protobuf", "Accept: application/vnd.kubernetes.protobuf"),
        ("list of 40,000 pods, Table", "Accept: application/json;as=Table;v=v1;g=meta.k8s.io"),
    ] {
        let path = "/api/v1/pods";
        let mut each = Vec::new();
        let (mut length, mut grown, mut first, mut cpu) = (0, 0_f64, Duration::ZERO, Duration::ZERO);
        for number in 0..LISTS {
            process.forget_peak()?;
            let (before, spent, begun) = (process.resident()?, process.cpu()?, Instant::now());
            let answer = connection.count(path, &[accept])?;
            if answer.status != 200 {
                return Err(format!("{name}: {}", answer.status).into());
            }
            length = answer.length;
            grown = grown.max(process.peak()? - before);
            // The first may prepare something that later ones use.
            if number == 0 {
                first = begun.elapsed();
            } else {
                each.push(begun.elapsed());
                cpu += process.cpu()? - spent;
            }
        }
        each.sort();
        let (wall_ms, first_ms, mb) = (at(&each, 0.5), first.as_secs_f64() * 1e3, length as f64 / 1e6);
        let cpu_ms = cpu.as_secs_f64() * 1e3 / each.len() as f64;
        progress(&format!(
            "{name}: {wall_ms:.0} ms (the first {first_ms:.0}), server's CPU {cpu_ms:.0} ms, {mb:.1} MB, the server grew by {grown:.1} MB"
        ));
        tell(
            name,
            json!({"wall_ms": wall_ms, "first_ms": first_ms, "cpu_ms": cpu_ms, "body_mb": mb, "grown_mb": grown}),
        );
    }
    let begun = Instant::now();
    let (mut pages, mut token) = (0, String::new());
    loop {
        let path = format!("/api/v1/pods?limit=500&continue={token}");
        let page: Value = serde_json::from_slice(&connection.expect(200, "GET", &path, &[], b"")?.body)?;
        pages += 1;
        token = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
        if token.is_empty() {
            break;
        }
    }
    let wall_ms = begun.elapsed().as_secs_f64() * 1e3;
    progress(&format!("{pages} pages of 500: {wall_ms:.0} ms, with reading them here"));
    tell("list of 40,000 pods, pages of 500", json!({"wall_ms": wall_ms}));

    load(&process, "pod create, the last 10,000", 40_000, 10_000, create)?;
    // Whoever follows the pods gets to its end before memory is counted.
    std::thread::sleep(Duration::from_secs(5));
    let mb = process.pss()?;
    progress(&format!("50,000 pods: {mb:.0} MB"));
    tell("server with 50,000 pods", json!({"mb": mb}));
    Ok(())
}
