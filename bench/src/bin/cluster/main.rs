//! Times `knarr server --no-node` from outside, over TLS and with a client's certificate, as any client of Kubernetes
//! reaches it. `bench/run cluster` runs it and keeps the table.
//!
//! `cluster PART KNARR FOLDER`: one line of JSON a figure on standard output, progress on standard error.

mod connection;
mod lists;
mod many;
mod objects;
mod process;
mod watches;
mod writes;

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

const PARTS: [&str; 5] = ["start", "writes", "pods", "watch", "many"];

/// Why a measurement could not be made.
type Failure = Box<dyn std::error::Error + Send + Sync>;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (part, knarr, folder) = match &arguments[..] {
        [part, knarr, folder] if PARTS.contains(&part.as_str()) => (part, PathBuf::from(knarr), PathBuf::from(folder)),
        _ => {
            eprintln!("usage: cluster {} KNARR FOLDER", PARTS.join("|"));
            return ExitCode::from(2);
        }
    };
    let outcome = match part.as_str() {
        "start" => process::starts(&knarr, &folder),
        "writes" => writes::config_maps(&knarr, &folder),
        "pods" => lists::pods(&knarr, &folder),
        "watch" => watches::thousand(&knarr, &folder),
        _ => many::in_one_process(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

/// One figure of the result.
fn tell(name: &str, figures: Value) {
    println!("{}", json!({"name": name, "figures": figures}));
}

fn progress(text: &str) {
    eprintln!("    {text}");
}

/// The value below which this share of the samples lies, in milliseconds. The samples are sorted.
fn at(sorted: &[std::time::Duration], share: f64) -> f64 {
    sorted[((sorted.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}
