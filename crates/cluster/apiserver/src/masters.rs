//! Which servers there are: each keeps a record with a lease, and writes all records that are left into the endpoints of the
//! API's own service. A server that dies is out of them when its lease ends.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use store::{Op, Put, RangeRequest, Span, Test, Txn};

use crate::api::{Api, Outcome, store_error};
use resources::Status;

const PREFIX: &str = "/registry/masterleases/";
const TTL_SECS: u64 = 15;
const EVERY: Duration = Duration::from_secs(5);

/// The endpoints of these servers. Pure; sorted, so that all servers write the same.
fn endpoints(servers: &[(IpAddr, u16)], ipv4: bool) -> (Value, Value) {
    let mut servers: Vec<_> = servers.iter().filter(|(address, _)| address.is_ipv4() == ipv4).collect();
    servers.sort();
    // One port for all: a server at another one is reached by those that know it.
    let port = servers.first().map_or(6443, |(_, port)| *port);
    servers.retain(|(_, other)| *other == port);
    let list: Vec<Value> = servers
        .iter()
        .map(|(address, _)| json!({"addresses": [address.to_string()], "conditions": {"ready": true}}))
        .collect();
    (list.into(), json!([{"name": "https", "port": port, "protocol": "TCP"}]))
}

/// Keeps this server's record, and the endpoints, until the server stops.
pub async fn follow(api: Arc<Api>, address: IpAddr, port: u16) -> Outcome<()> {
    let key = format!("{PREFIX}{address}");
    let mut lease = 0;
    loop {
        if let Err(status) = renew(&api, &key, &mut lease, address, port).await {
            tracing::warn!(message = status.message, "cannot say that this server is there; trying again");
            lease = 0;
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn renew(api: &Api, key: &str, lease: &mut u64, address: IpAddr, port: u16) -> Outcome<()> {
    if *lease == 0 || api.store.lease_keep_alive(*lease).await.is_err() {
        *lease = api.store.lease_grant(0, TTL_SECS).await.map_err(store_error)?;
        let put = Put {
            key: key.to_owned().into(),
            value: port.to_string().into_bytes().into(),
            lease: *lease,
            stamp_at: None,
        };
        api.store.txn(Txn::new().then(Op::Put(put))).await.map_err(store_error)?;
    }
    let all = api.store.range(RangeRequest::newest(Span::prefix(PREFIX.to_owned()))).await.map_err(store_error)?;
    let servers: Vec<(IpAddr, u16)> = (all.kvs.iter())
        .filter_map(|kv| {
            let address = std::str::from_utf8(&kv.key).ok()?.strip_prefix(PREFIX)?.parse().ok()?;
            Some((address, std::str::from_utf8(&kv.value).ok()?.parse().ok()?))
        })
        .collect();
    let (list, ports) = endpoints(&servers, address.is_ipv4());
    let slices = api.builtin("discovery.k8s.io", "endpointslices");
    let found = api
        .modify(&slices.key("default", "kubernetes"), |slice| {
            let differs = slice["endpoints"] != list || slice["ports"] != ports;
            slice["endpoints"] = list.clone();
            slice["ports"] = ports.clone();
            differs
        })
        .await?;
    match found {
        true => Ok(()),
        false => Err(Status::not_found("discovery.k8s.io", "endpointslices", "kubernetes")),
    }
}

/// All servers on one datastore share one authority: what one signs the others believe. The first one says which.
pub async fn agree(api: &Api, authority_pem: &str) -> Outcome<()> {
    const KEY: &str = "/knarr/authority";
    let mine = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, authority_pem.as_bytes()).as_ref().to_vec();
    let txn = Txn::new()
        .when(KEY.to_owned(), Test::Absent)
        .then(Op::put(KEY.to_owned(), mine.clone()))
        .otherwise(Op::get(KEY.to_owned()));
    let reply = api.store.txn(txn).await.map_err(store_error)?;
    match reply.replies.into_iter().next() {
        Some(store::OpReply::Get { kvs }) if kvs.first().is_some_and(|kv| kv.value[..] != mine[..]) => {
            Err(Status::new(
                409,
                "Conflict",
                "the cluster in this datastore has another authority than this server: copy the directory cluster/pki of the \
                 root of one that serves it",
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_servers_write_the_same_endpoints() {
        let server = |text: &str, port: u16| (text.parse::<IpAddr>().unwrap(), port);
        let (list, ports) = endpoints(
            &[server("10.0.0.2", 6443), server("10.0.0.1", 6443), server("fd00::1", 6443), server("10.0.0.3", 7443)],
            true,
        );
        let addresses: Vec<&str> =
            list.as_array().unwrap().iter().map(|e| e["addresses"][0].as_str().unwrap()).collect();
        assert_eq!((addresses, &ports[0]["port"]), (vec!["10.0.0.1", "10.0.0.2"], &json!(6443)));
    }
}
