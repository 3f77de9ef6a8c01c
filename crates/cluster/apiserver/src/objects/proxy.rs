//! `pods/proxy` and `services/proxy`: a request that goes on to a port of a pod, and the answer as it comes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use client::Body;
use http::header::{AUTHORIZATION, CONNECTION, HOST, HeaderName, LOCATION, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use resources::{Status, Value, meta};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::{Call, Stream};
use crate::api::Outcome;

/// How long a pod may take to take a connection.
const PATIENCE: Duration = Duration::from_secs(30);

impl Call {
    pub(super) async fn pod_proxy(&mut self) -> Outcome<Response<Body>> {
        let target = Target::parse(&self.path.name)?;
        let found = self.api.get_object(&self.resource, &self.path.namespace, target.name).await?;
        let (pod, _) =
            found.ok_or_else(|| Status::not_found(&self.resource.group, &self.resource.plural, target.name))?;
        let address = pod_address(&pod, target.port)?;
        self.pass_on(address).await
    }

    pub(super) async fn service_proxy(&mut self) -> Outcome<Response<Body>> {
        let target = Target::parse(&self.path.name)?;
        let found = self.api.get_object(&self.resource, &self.path.namespace, target.name).await?;
        let (service, _) =
            found.ok_or_else(|| Status::not_found(&self.resource.group, &self.resource.plural, target.name))?;
        let slices = self.api.builtin("discovery.k8s.io", "endpointslices");
        let slices = self.api.list_objects(&slices, &self.path.namespace).await?;
        let mut addresses = service_addresses(&service, target.port, &slices)?;
        if addresses.is_empty() {
            let text = format!("no endpoints available for service {:?}", self.path.name);
            return Err(Status::new(503, "ServiceUnavailable", text));
        }
        let nanos = jiff::Timestamp::now().subsec_nanosecond().unsigned_abs() as usize;
        let address = addresses.swap_remove(nanos % addresses.len());
        self.pass_on(address).await
    }

    async fn pass_on(&mut self, address: SocketAddr) -> Outcome<Response<Body>> {
        self.admit_connect().await?;
        let Some(stream) = self.stream.take() else {
            return Err(Status::bad_request("a request through a proxy needs a connection"));
        };
        let Some(rest) = rest_of(stream.uri.path()) else {
            return Ok(redirect(&stream));
        };
        let path = match stream.uri.query() {
            Some(query) => format!("{rest}?{query}"),
            None => rest.to_owned(),
        };
        let upgrade = stream.upgrade.is_some();
        let mut request = Request::builder().method(stream.method).uri(path);
        if let Some(headers) = request.headers_mut() {
            *headers = passed_on(stream.headers, upgrade);
            let host = HeaderValue::try_from(address.to_string()).map_err(Status::internal)?;
            headers.insert(HOST, host);
        }
        let request =
            request.body(Full::new(self.body.clone())).map_err(|error| Status::bad_request(error.to_string()))?;
        let mut answer = ask(address, request).await?;
        if answer.status() == StatusCode::SWITCHING_PROTOCOLS
            && let Some(client) = stream.upgrade
        {
            let pod = hyper::upgrade::on(&mut answer);
            tokio::spawn(join(client, pod));
            let (mut head, _) = answer.into_parts();
            head.headers = passed_on(head.headers, true);
            return Ok(Response::from_parts(head, Body::empty()));
        }
        let (mut head, mut body) = answer.into_parts();
        head.headers = passed_on(head.headers, false);
        let (sender, receiver) = mpsc::channel::<Bytes>(16);
        tokio::spawn(async move {
            // An answer that breaks off ends early, as it did for us.
            while let Some(Ok(frame)) = body.frame().await {
                if let Ok(data) = frame.into_data()
                    && sender.send(data).await.is_err()
                {
                    return;
                }
            }
        });
        Ok(Response::from_parts(head, Body::Stream(receiver)))
    }
}

async fn ask(address: SocketAddr, request: Request<Full<Bytes>>) -> Outcome<Response<hyper::body::Incoming>> {
    let failed = |error: &dyn std::fmt::Display| {
        Status::new(503, "ServiceUnavailable", format!("error trying to reach service: {error}"))
    };
    let stream = match tokio::time::timeout(PATIENCE, TcpStream::connect(address)).await {
        Err(_) => return Err(failed(&format_args!("dial tcp {address}: i/o timeout"))),
        Ok(Err(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
            return Err(failed(&format_args!("dial tcp {address}: connect: connection refused")));
        }
        Ok(Err(error)) => return Err(failed(&format_args!("dial tcp {address}: connect: {error}"))),
        Ok(Ok(stream)) => stream,
    };
    let connected = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (mut sender, connection) = connected.map_err(|error| failed(&error))?;
    tokio::spawn(connection.with_upgrades());
    sender.send_request(request).await.map_err(|error| failed(&error))
}

/// Carries both directions of a connection that has changed its protocol.
async fn join(client: hyper::upgrade::OnUpgrade, pod: hyper::upgrade::OnUpgrade) {
    let (Ok(client), Ok(pod)) = tokio::join!(client, pod) else { return };
    let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(client), &mut TokioIo::new(pod)).await;
}

/// What follows `proxy` in a path, with its slash; `None` if there is none.
fn rest_of(path: &str) -> Option<&str> {
    // "", api, v1, namespaces, NAMESPACE, RESOURCE, NAME, proxy, and the rest.
    let (at, _) = path.match_indices('/').nth(7)?;
    Some(&path[at..])
}

/// Relative links of a page work only below a slash.
fn redirect(stream: &Stream) -> Response<Body> {
    let query = stream.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let mut response = Response::new(Body::empty());
    *response.status_mut() = match stream.method {
        Method::GET | Method::HEAD => StatusCode::MOVED_PERMANENTLY,
        _ => StatusCode::PERMANENT_REDIRECT,
    };
    if let Ok(place) = HeaderValue::try_from(format!("{}/{query}", stream.uri.path())) {
        response.headers_mut().insert(LOCATION, place);
    }
    response
}

/// Headers without those that are about this connection, or that say who asks: pods are not told the client's token.
fn passed_on(mut headers: HeaderMap, upgrade: bool) -> HeaderMap {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    let kept = |name: &HeaderName| upgrade && (*name == UPGRADE || *name == CONNECTION);
    for name in named.iter().filter(|name| !kept(name)) {
        headers.remove(name);
    }
    for name in ["keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer"] {
        headers.remove(name);
    }
    for name in [AUTHORIZATION, TRANSFER_ENCODING] {
        headers.remove(name);
    }
    for name in [UPGRADE, CONNECTION].into_iter().filter(|name| !kept(name)) {
        headers.remove(name);
    }
    let about = |name: &HeaderName| name.as_str().starts_with("impersonate-") || name.as_str().starts_with("x-remote-");
    let about: Vec<HeaderName> = headers.keys().filter(|name| about(name)).cloned().collect();
    about.iter().for_each(|name| drop(headers.remove(name)));
    headers
}

/// `[scheme:]name[:port]`.
#[derive(Debug, PartialEq, Eq)]
struct Target<'a> {
    name: &'a str,
    /// A number or a name; empty is the first one.
    port: &'a str,
}

impl<'a> Target<'a> {
    fn parse(text: &'a str) -> Outcome<Self> {
        let words: Vec<&str> = text.split(':').collect();
        let (scheme, name, port) = match words[..] {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => ("?", "", ""),
        };
        match scheme {
            _ if name.is_empty() => Err(Status::bad_request(format!("invalid proxy request {text:?}"))),
            "" | "http" => Ok(Self { name, port }),
            "https" => Err(Status::new(501, "NotImplemented", "a proxy to https is not supported: use port-forward")),
            _ => Err(Status::bad_request(format!("invalid proxy request {text:?}"))),
        }
    }
}

/// Addresses that lead to this machine itself, or nowhere, are nobody's to reach through the API.
fn proxyable(text: &str) -> Outcome<IpAddr> {
    let refused = || Status::bad_request("address not allowed");
    let address: IpAddr = text.parse().map_err(|_| refused())?;
    let local = match address {
        IpAddr::V4(address) => address.is_link_local() || address.is_multicast(),
        IpAddr::V6(address) => address.is_unicast_link_local() || address.is_multicast(),
    };
    if local || address.is_loopback() || address.is_unspecified() { Err(refused()) } else { Ok(address) }
}

fn pod_address(pod: &Value, port: &str) -> Outcome<SocketAddr> {
    let ip = proxyable(meta::str_at(pod, &["status", "podIP"]))?;
    let ports = || meta::list_at(pod, &["spec", "containers"]).iter().flat_map(|c| meta::list_at(c, &["ports"]));
    let number = |port: &Value| port["containerPort"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = match port {
        "" => Some(ports().find_map(number).unwrap_or(80)),
        text => text.parse().ok().or_else(|| ports().find(|port| port["name"] == text).and_then(number)),
    };
    let port = port.filter(|port| *port != 0);
    port.map(|port| SocketAddr::new(ip, port)).ok_or_else(|| Status::bad_request("the pod has no such port"))
}

/// Every ready endpoint of a service's port, which may be a name or a number.
fn service_addresses(service: &Value, port: &str, slices: &[Value]) -> Outcome<Vec<SocketAddr>> {
    let ports = meta::list_at(service, &["spec", "ports"]);
    let name_of = |port: &Value| port["name"].as_str().unwrap_or_default().to_owned();
    let found = match port {
        "" if ports.len() == 1 => ports.first(),
        "" => ports.iter().find(|port| name_of(port).is_empty()),
        text => ports.iter().find(|port| name_of(port) == text).or_else(|| {
            let number: u64 = text.parse().ok()?;
            ports.iter().find(|port| port["port"] == number)
        }),
    };
    let Some(found) = found else { return Ok(Vec::new()) };
    let wanted = name_of(found);
    let own = slices.iter().filter(|slice| {
        meta::str_at(slice, &["metadata", "labels", "kubernetes.io/service-name"]) == meta::name(service)
            && slice["addressType"] != "FQDN"
    });
    let mut addresses = Vec::new();
    for slice in own {
        let port = meta::list_at(slice, &["ports"]).iter().find(|port| name_of(port) == wanted);
        let port = port.and_then(|port| port["port"].as_u64()).and_then(|port| u16::try_from(port).ok());
        let Some(port) = port else { continue };
        let ready = meta::list_at(slice, &["endpoints"]).iter().filter(|e| e["conditions"]["ready"] != false);
        for endpoint in ready {
            let address = meta::list_at(endpoint, &["addresses"]).first().and_then(Value::as_str);
            if let Some(Ok(ip)) = address.map(proxyable) {
                addresses.push(SocketAddr::new(ip, port));
            }
        }
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_may_have_a_scheme_and_a_port() {
        for (text, expected) in [
            ("web", Some(("web", ""))),
            ("web:8080", Some(("web", "8080"))),
            ("http:web:http", Some(("web", "http"))),
            (":web:80", Some(("web", "80"))),
            ("ftp:web:80", None),
            ("https:web:443", None),
            (":80", None),
            ("a:b:c:d", None),
        ] {
            let parsed = Target::parse(text).ok().map(|target| (target.name, target.port));
            assert_eq!(parsed, expected, "{text}");
        }
    }

    #[test]
    fn the_rest_of_a_path_stays_as_it_is() {
        for (path, expected) in [
            ("/api/v1/namespaces/d/pods/web:80/proxy", None),
            ("/api/v1/namespaces/d/pods/web:80/proxy/", Some("/")),
            ("/api/v1/namespaces/d/pods/web:80/proxy/a//b%2Fc/", Some("/a//b%2Fc/")),
        ] {
            assert_eq!(rest_of(path), expected, "{path}");
        }
    }

    #[test]
    fn a_pod_is_not_told_who_asks_or_how() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("authorization", "Bearer secret"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("impersonate-user", "root"),
            ("x-remote-user", "root"),
            ("upgrade", "websocket"),
            ("accept", "*/*"),
        ] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let names = |headers: HeaderMap| headers.keys().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(names(passed_on(headers.clone(), false)), ["accept"]);
        let mut kept = names(passed_on(headers, true));
        kept.sort();
        assert_eq!(kept, ["accept", "connection", "upgrade"]);
    }

    #[test]
    fn a_pod_is_reached_at_its_address_and_never_at_the_hosts_loopback() {
        let pod = |ip: &str| json!({"status": {"podIP": ip}, "spec": {"containers": [{"ports": [{"name": "web", "containerPort": 8080}]}]}});
        let at =
            |ip: &str, port: &str| pod_address(&pod(ip), port).map(|at| at.to_string()).map_err(|status| status.code);
        assert_eq!(at("10.42.0.2", ""), Ok("10.42.0.2:8080".into()));
        assert_eq!(at("10.42.0.2", "web"), Ok("10.42.0.2:8080".into()));
        assert_eq!(at("fd00::2", "81"), Ok("[fd00::2]:81".into()));
        for bad in ["", "127.0.0.1", "169.254.169.254", "::1", "0.0.0.0", "224.0.0.1"] {
            assert_eq!(at(bad, "80"), Err(400), "{bad}");
        }
        assert_eq!(at("10.42.0.2", "nosuch"), Err(400));
    }

    #[test]
    fn a_service_is_reached_at_its_ready_endpoints() {
        let service = json!({"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80}, {"name": "other", "port": 81}]}});
        let slice = json!({"metadata": {"labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [{"addresses": ["10.42.0.2"], "conditions": {"ready": true}}, {"addresses": ["10.42.0.3"], "conditions": {"ready": false}},
                {"addresses": ["127.0.0.1"]}]});
        let at = |port: &str| -> Vec<String> {
            service_addresses(&service, port, std::slice::from_ref(&slice))
                .unwrap()
                .iter()
                .map(ToString::to_string)
                .collect()
        };
        assert_eq!(at("http"), ["10.42.0.2:8080"]);
        assert_eq!(at("80"), ["10.42.0.2:8080"]);
        for none in ["other", "", "82"] {
            assert!(at(none).is_empty(), "{none}");
        }
    }
}
