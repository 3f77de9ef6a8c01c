//! A throwaway API: `cargo run -p apiserver --example throwaway -- KUBECONFIG [ROOT [PORT]]` serves one until it is ended,
//! in memory unless a directory is given.

use std::net::SocketAddr;
use std::path::PathBuf;

use apiserver::{Config, Server};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let kubeconfig = words.next().map(PathBuf::from);
    let root = words.next().filter(|word| !word.is_empty()).map(PathBuf::from);
    let port = words.next().map_or(Ok(0), |word| word.parse())?;
    let begun = std::time::Instant::now();
    let listen = SocketAddr::from(([127, 0, 0, 1], port));
    let server = Server::start(Config { root, listen, kubeconfig, ..Config::default() }).await?;
    println!("ready at https://{} after {:?}", server.address(), begun.elapsed());
    tokio::signal::ctrl_c().await?;
    server.stop().await;
    Ok(())
}
