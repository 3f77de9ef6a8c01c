//! HTTP: connections, who asks, may they, and which part answers.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderValue, USER_AGENT};
use http::{HeaderMap, Method, Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use resources::Status;
use serde_json::json;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::api::{Api, BODY_BYTES_MAX, Outcome};
use crate::authn::{User, certificate_user};
use crate::authz::Action;
use crate::objects::Call;
use crate::request::{self, RequestInfo, Target};
use crate::{discovery, respond, reviews};
use client::Body;

/// What this server says it is.
pub const VERSION: (&str, &str, &str) = ("1", "36", "v1.36.0");

const HANDSHAKE: Duration = Duration::from_secs(10);
const CONNECTIONS_MAX: usize = 10_000;

/// Accepts connections until the server stops.
pub async fn serve(api: Arc<Api>, listener: TcpListener, tls: Arc<rustls::ServerConfig>) {
    let acceptor = TlsAcceptor::from(tls);
    let places = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = api.stopping.cancelled() => return,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of descriptors, most likely: let some connections end.
                tracing::warn!(%error, "accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (api, acceptor) = (api.clone(), acceptor.clone());
        tokio::spawn(async move {
            let _place = place;
            let patience = if vocab::weak::without("handshake") { Duration::MAX } else { HANDSHAKE };
            let Ok(Ok(stream)) = tokio::time::timeout(patience, acceptor.accept(stream)).await else { return };
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let user = certificate.and_then(|der| certificate_user(der));
            let h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            let stopping = api.stopping.clone().cancelled_owned();
            let answer = move |request| handle(api.clone(), user.clone(), request);
            client::serve_connection(stream, h2, stopping, answer).await;
        });
    }
}

/// Answers one request; every error becomes a Status.
pub async fn handle(api: Arc<Api>, certificate: Option<User>, request: Request<Incoming>) -> Response<Body> {
    api.metrics.requests.fetch_add(1, Ordering::Relaxed);
    let head = request.method() == Method::HEAD;
    let mut warnings = Vec::new();
    let format = respond::error_format(request.headers());
    let gzip = respond::takes_gzip(request.headers());
    let begun = std::time::Instant::now();
    let mut about = (String::new(), String::new());
    api.metrics.inflight.fetch_add(1, Ordering::Relaxed);
    let outcome = route(&api, certificate, request, &mut warnings, &mut about).await;
    api.metrics.inflight.fetch_sub(1, Ordering::Relaxed);
    let mut response = match outcome {
        Ok(response) => response,
        Err(status) => {
            if status.code >= 500 {
                api.metrics.errors.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(code = status.code, message = status.message, "request failed");
            }
            respond::status(&status, format)
        }
    };
    let (verb, resource) = about;
    if !verb.is_empty() {
        let mut answered = api.metrics.answered.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let entry = answered.entry((verb, resource, response.status().as_u16())).or_default();
        entry.0 += 1;
        entry.1 += begun.elapsed();
    }
    respond::warn(&mut response, &warnings);
    if head {
        *response.body_mut() = Body::empty();
    }
    if gzip { respond::gzip(response) } else { response }
}

async fn route(
    api: &Arc<Api>,
    certificate: Option<User>,
    request: Request<Incoming>,
    warnings: &mut Vec<String>,
    about: &mut (String, String),
) -> Outcome<Response<Body>> {
    let mut request = request;
    let upgrade = request.headers().contains_key("upgrade").then(|| hyper::upgrade::on(&mut request));
    let (parts, body) = request.into_parts();
    let info = request::parse(&parts.method, parts.uri.path(), parts.uri.query().unwrap_or_default())?;
    // Who joins holds it against a digest that came another way; it is no secret.
    if matches!(&info.target, Target::Path(path) if path == "/cacerts") && info.verb == "get" {
        let mut response = respond::text(200, api.keys.ca_pem.clone());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-pem-file"));
        return Ok(response);
    }
    let user = authenticate(api, certificate, &parts.headers).await?;
    let user = impersonate(api, user, &parts.headers)?;
    authorize(api, &user, &info).await?;
    match &info.target {
        Target::Path(path) => {
            let body = read_body(&parts.headers, body).await?;
            path_request(api, &user, path, &info, &parts.method, &parts.headers, body).await
        }
        Target::Resource(path) => {
            let catalog = api.catalog();
            let resource =
                catalog.resource(&path.group, &path.version, &path.resource).ok_or_else(Status::no_such_path)?;
            // Only names that are served become labels, so that their number is bounded.
            *about = (info.verb.to_owned(), resources::errors::qualified(&resource.group, &resource.plural));
            let encodable = resource.custom.is_none() && resources::proto::is_encodable(&resource.node);
            let wanted = match respond::negotiate(&parts.headers, encodable) {
                // Whoever answers behind the proxy decides what can be had.
                Err(_) if path.subresource == "proxy" => {
                    respond::Wanted { format: respond::Format::Json, form: respond::As::Object }
                }
                wanted => wanted?,
            };
            let body = read_body(&parts.headers, body).await?;
            let text =
                |name| parts.headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).unwrap_or_default();
            let content_type = text(CONTENT_TYPE).split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            if reviews::is_review(&path.group, &path.resource) && info.verb == "create" {
                let body = crate::objects::limit_json(&content_type, &body)?;
                let answer = reviews::answer(api, &user, &path.resource, &path.namespace, body).await?;
                return Ok(respond::value(201, &answer, wanted.format));
            }
            if path.resource == "componentstatuses" {
                return component_statuses(path, wanted);
            }
            let mut call = Call {
                api: api.clone(),
                resource: resource.clone(),
                path: path.clone(),
                verb: info.verb,
                query: info.query,
                user,
                agent: text(USER_AGENT).to_owned(),
                wanted,
                content_type,
                body,
                warnings: Vec::new(),
                stream: Some(crate::objects::Stream {
                    method: parts.method,
                    headers: parts.headers.clone(),
                    upgrade,
                    uri: parts.uri.clone(),
                }),
            };
            if let Some(warning) = deprecation(resource) {
                call.warnings.push(warning);
            }
            let outcome = call.answer().await;
            warnings.append(&mut call.warnings);
            outcome
        }
    }
}

fn deprecation(resource: &crate::catalog::Resource) -> Option<String> {
    match (resource.group.as_str(), resource.plural.as_str()) {
        ("", "endpoints") => Some("v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice".into()),
        ("", "componentstatuses") => Some("v1 ComponentStatus is deprecated in v1.19+".into()),
        _ => {
            let custom = resource.custom.as_ref()?;
            let text = custom.deprecated.as_ref()?;
            Some(match text.is_empty() {
                true => format!("{} {} is deprecated", resource.api_version(), resource.kind),
                false => text.clone(),
            })
        }
    }
}

fn component_statuses(path: &request::ResourcePath, wanted: respond::Wanted) -> Outcome<Response<Body>> {
    let one = |name: &str| {
        json!({"kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
            "conditions": [{"type": "Healthy", "status": "True", "message": "ok"}]})
    };
    match path.name.as_str() {
        "" => {
            let list =
                json!({"kind": "ComponentStatusList", "apiVersion": "v1", "metadata": {}, "items": [one("etcd-0")]});
            Ok(respond::value(200, &list, wanted.format))
        }
        "etcd-0" => Ok(respond::value(200, &one("etcd-0"), wanted.format)),
        name => Err(Status::not_found("", "componentstatuses", name)),
    }
}

async fn read_body(headers: &HeaderMap, body: Incoming) -> Outcome<Bytes> {
    if headers.get(CONTENT_ENCODING).is_some_and(|encoding| encoding != "identity") {
        return Err(Status::new(415, "UnsupportedMediaType", "compressed request bodies are not supported"));
    }
    let limit = if vocab::weak::without("body") { usize::MAX } else { BODY_BYTES_MAX };
    let limited = http_body_util::Limited::new(body, limit);
    let time = Duration::from_secs(60);
    match tokio::time::timeout(time, limited.collect()).await {
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<http_body_util::LengthLimitError>().is_some() => {
            Err(Status::too_large(BODY_BYTES_MAX))
        }
        Ok(Err(error)) => Err(Status::bad_request(format!("read the request's body: {error}"))),
        Err(_) => Err(Status::new(408, "Timeout", "the request's body did not arrive in time")),
    }
}

async fn authenticate(api: &Arc<Api>, certificate: Option<User>, headers: &HeaderMap) -> Outcome<User> {
    if let Some(user) = certificate {
        return Ok(user);
    }
    let Some(header) = headers.get(AUTHORIZATION) else { return Ok(User::anonymous()) };
    let token = header.to_str().ok().and_then(|text| {
        let (scheme, token) = text.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
    });
    let token = token.filter(|token| !token.is_empty()).ok_or_else(Status::unauthorized)?;
    let audience = [api.keys.issuer.clone()];
    match reviews::token_user(api, token, &audience).await? {
        Some((user, _)) => Ok(user),
        None => Err(Status::unauthorized()),
    }
}

fn impersonate(api: &Api, user: User, headers: &HeaderMap) -> Outcome<User> {
    let text = |value: &HeaderValue| {
        value.to_str().map(str::to_owned).map_err(|_| Status::bad_request("invalid impersonation header"))
    };
    let Some(name) = headers.get("impersonate-user") else {
        let others = headers.keys().any(|name| name.as_str().starts_with("impersonate-"));
        return match others {
            true => Err(Status::bad_request("requested impersonation without impersonating a user")),
            false => Ok(user),
        };
    };
    let name = text(name)?;
    let groups = headers.get_all("impersonate-group").iter().map(text).collect::<Outcome<Vec<String>>>()?;
    let view = api.rbac.view();
    let check = |resource: &str, namespace: &str, name: &str| {
        let action = Action {
            verb: "impersonate".into(),
            resource: resource.into(),
            namespace: namespace.into(),
            name: name.into(),
            ..Action::default()
        };
        match view.allows(&user, &action) {
            Some(_) => Ok(()),
            None => Err(refusal(&user, &action)),
        }
    };
    let account = name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':'));
    let mut becomes = match account {
        Some((namespace, account)) => {
            check("serviceaccounts", namespace, account)?;
            match groups.is_empty() {
                true => User::service_account(namespace, account, ""),
                false => User { name: name.clone(), ..User::default() },
            }
        }
        None => {
            check("users", "", &name)?;
            User { name: name.clone(), ..User::default() }
        }
    };
    for group in groups {
        check("groups", "", &group)?;
        becomes.groups.push(group);
    }
    if let Some(uid) = headers.get("impersonate-uid") {
        let uid = text(uid)?;
        check("uids", "", &uid)?;
        becomes.uid = uid;
    }
    for (header, value) in headers {
        let Some(key) = header.as_str().strip_prefix("impersonate-extra-") else { continue };
        let key = request::percent_decode(key).ok_or_else(|| Status::bad_request("invalid impersonation header"))?;
        let value = text(value)?;
        let action = Action {
            verb: "impersonate".into(),
            group: "authentication.k8s.io".into(),
            resource: "userextras".into(),
            subresource: key.clone(),
            name: value.clone(),
            ..Action::default()
        };
        if view.allows(&user, &action).is_none() {
            return Err(refusal(&user, &action));
        }
        becomes.extra.entry(key).or_default().push(value);
    }
    Ok(match name.as_str() {
        "system:anonymous" => User { groups: vec!["system:unauthenticated".into()], ..becomes },
        _ => becomes.authenticated(),
    })
}

pub async fn authorize(api: &Api, user: &User, info: &RequestInfo) -> Outcome<()> {
    let action = match &info.target {
        Target::Path(path) => Action { verb: info.verb.into(), path: Some(path.clone()), ..Action::default() },
        Target::Resource(path) => Action {
            verb: info.verb.into(),
            group: path.group.clone(),
            resource: path.resource.clone(),
            subresource: path.subresource.clone(),
            namespace: path.namespace.clone(),
            // A list of the one object with a name is judged as that object.
            name: match path.name.is_empty() {
                true => resources::selector::FieldSelector::parse(info.query.get("fieldSelector"))
                    .ok()
                    .and_then(|fields| fields.exact("metadata.name").map(str::to_owned))
                    .unwrap_or_default(),
                false => path.name.clone(),
            },
            path: None,
        },
    };
    if vocab::weak::without("roles") {
        return Ok(());
    }
    if api.rbac.view().allows(user, &action).is_some() || crate::authz::node_needs(api, user, &action).await? {
        return Ok(());
    }
    Err(refusal(user, &action))
}

/// The refusal in upstream's words.
fn refusal(user: &User, action: &Action) -> Status {
    let who = format!("User {:?}", user.name);
    if let Some(path) = &action.path {
        return Status::new(403, "Forbidden", format!("forbidden: {who} cannot {} path {path:?}", action.verb));
    }
    let resource = match action.subresource.as_str() {
        "" => action.resource.clone(),
        sub => format!("{}/{sub}", action.resource),
    };
    let scope = match action.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let why = format!("{who} cannot {} resource {resource:?} in API group {:?} {scope}", action.verb, action.group);
    Status::forbidden(&action.group, &action.resource, &action.name, &why)
}

async fn path_request(
    api: &Arc<Api>,
    _user: &User,
    path: &str,
    info: &RequestInfo,
    method: &Method,
    headers: &HeaderMap,
    _body: Bytes,
) -> Outcome<Response<Body>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        return Err(Status::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        ));
    }
    let json = |value: &resources::Value| Ok(respond::value(200, value, respond::Format::Json));
    let catalog = api.catalog();
    let words: Vec<&str> = path.trim_matches('/').split('/').collect();
    match words[..] {
        ["api"] | ["apis"] if discovery::wants_aggregated(headers) => {
            let document = discovery::aggregated(&catalog, words[0] == "api");
            let kind = discovery::aggregated_type(headers);
            let mut document = document;
            if kind.contains("v2beta1") {
                document["apiVersion"] = "apidiscovery.k8s.io/v2beta1".into();
            }
            let mut response = respond::value(200, &document, respond::Format::Json);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
            response.headers_mut().insert("vary", HeaderValue::from_static("Accept"));
            Ok(response)
        }
        ["api"] => {
            let host = headers.get("host").and_then(|value| value.to_str().ok()).unwrap_or_default();
            json(&discovery::versions(host))
        }
        ["apis"] => json(&discovery::group_list(&catalog)),
        ["api", version] => json(&discovery::resource_list(&catalog, "", version).ok_or_else(Status::no_such_path)?),
        ["apis", group] => json(&discovery::group(&catalog, group).ok_or_else(Status::no_such_path)?),
        ["apis", group, version] => {
            json(&discovery::resource_list(&catalog, group, version).ok_or_else(Status::no_such_path)?)
        }
        ["version"] => json(&json!({"major": VERSION.0, "minor": VERSION.1, "emulationMajor": VERSION.0,
            "emulationMinor": VERSION.1, "minCompatibilityMajor": "1", "minCompatibilityMinor": "35",
            "gitVersion": format!("{}+knarr", VERSION.2), "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
            "goVersion": "none", "compiler": "rustc", "platform": format!("linux/{}", arch())})),
        ["livez" | "readyz" | "healthz"] => Ok(health(api, words[0], info).await),
        ["livez" | "readyz" | "healthz", check] => {
            let checks = checks(api, words[0]).await;
            let found = checks.iter().find(|(name, _)| *name == check).ok_or_else(Status::no_such_path)?;
            Ok(if found.1 { respond::text(200, "ok") } else { respond::text(500, "internal server error: not ready") })
        }
        ["knarr", "backup"] => backup(api).await,
        ["metrics"] => Ok(respond::text(200, metrics(api).await?)),
        ["openapi", "v2"] => crate::openapi::v2(api, &catalog, headers).await,
        ["openapi", "v3"] => crate::openapi::v3_index(api, &catalog).await,
        ["openapi", "v3", ref rest @ ..] => crate::openapi::v3(api, &catalog, &rest.join("/"), headers).await,
        [".well-known", "openid-configuration"] => json(&json!({
            "issuer": api.keys.issuer,
            "jwks_uri": format!("{}/openid/v1/jwks", api.keys.issuer),
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
        })),
        ["openid", "v1", "jwks"] => {
            let mut response = respond::value(200, &api.keys.jwks(), respond::Format::Json);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/jwk-set+json"));
            Ok(response)
        }
        [""] => {
            let mut paths =
                vec!["/.well-known/openid-configuration".to_owned(), "/api".into(), "/api/v1".into(), "/apis".into()];
            for group in catalog.groups.iter().filter(|group| !group.name.is_empty()) {
                paths.push(format!("/apis/{}", group.name));
                paths.extend(group.versions.iter().map(|version| format!("/apis/{}/{}", group.name, version.name)));
            }
            paths.extend(
                [
                    "/healthz",
                    "/livez",
                    "/metrics",
                    "/openapi/v2",
                    "/openapi/v3",
                    "/openid/v1/jwks",
                    "/readyz",
                    "/version",
                ]
                .map(str::to_owned),
            );
            json(&json!({"paths": paths}))
        }
        _ => Err(Status::no_such_path()),
    }
}

fn arch() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

async fn checks(api: &Api, kind: &str) -> Vec<(&'static str, bool)> {
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(2);
    let ready = api.ready.load(Ordering::Acquire);
    let answers = tokio::time::timeout(PATIENCE, api.store.revision()).await;
    let mut out = vec![("ping", true), ("store", matches!(answers, Ok(Ok(_))))];
    if kind != "livez" {
        out.push(("start-objects", ready));
    }
    if kind == "readyz" {
        out.push(("shutdown", !api.stopping.is_cancelled()));
    }
    out
}

async fn health(api: &Api, kind: &str, info: &RequestInfo) -> Response<Body> {
    let excluded: Vec<&str> = info.query.all("exclude").collect();
    let checks = checks(api, kind).await;
    let mut good = true;
    let mut lines = String::new();
    for (name, passes) in &checks {
        if excluded.contains(name) {
            lines += &format!("[+]{name} excluded: ok\n");
            continue;
        }
        good &= passes;
        lines += &if *passes { format!("[+]{name} ok\n") } else { format!("[-]{name} failed: reason withheld\n") };
    }
    match (good, info.query.has("verbose")) {
        (true, false) => respond::text(200, "ok"),
        (true, true) => respond::text(200, format!("{lines}{kind} check passed\n")),
        (false, _) => respond::text(500, format!("{lines}{kind} check failed\n")),
    }
}

async fn metrics(api: &Api) -> Outcome<String> {
    let revision = api.store.revision().await.map_err(crate::api::store_error)?;
    let count = |name: &str, help: &str, value: u64, kind: &str| {
        format!("# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n")
    };
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let mut out = [
        count("knarr_apiserver_requests_received_total", "Requests received.", load(&api.metrics.requests), "counter"),
        count(
            "apiserver_request_errors_total",
            "Requests answered with a server error.",
            load(&api.metrics.errors),
            "counter",
        ),
        count("apiserver_watches_started_total", "Watches begun.", load(&api.metrics.watches), "counter"),
        count("apiserver_current_inflight_requests", "Requests being answered.", load(&api.metrics.inflight), "gauge"),
        count("store_revision", "The store's newest revision.", revision, "gauge"),
        count("process_resident_memory_bytes", "Resident memory.", resident_bytes(), "gauge"),
    ]
    .concat();
    let answered = api.metrics.answered.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    out += "# HELP apiserver_request_total Requests answered.\n# TYPE apiserver_request_total counter\n";
    for ((verb, resource, code), (requests, _)) in &answered {
        out += &format!("apiserver_request_total{{verb={verb:?},resource={resource:?},code=\"{code}\"}} {requests}\n");
    }
    out += "# HELP apiserver_request_duration_seconds Time until answers began.\n# TYPE apiserver_request_duration_seconds summary\n";
    for ((verb, resource, code), (requests, time)) in &answered {
        let labels = format!("verb={verb:?},resource={resource:?},code=\"{code}\"");
        out += &format!("apiserver_request_duration_seconds_sum{{{labels}}} {:.6}\n", time.as_secs_f64());
        out += &format!("apiserver_request_duration_seconds_count{{{labels}}} {requests}\n");
    }
    out += "# HELP apiserver_storage_objects Objects stored.\n# TYPE apiserver_storage_objects gauge\n";
    for resource in api.catalog().stored() {
        let span = store::Span::prefix(resource.prefix.clone());
        let request = store::RangeRequest { span, revision: None, limit: 1, count: true };
        let reply = api.store.range(request).await.map_err(crate::api::store_error)?;
        let objects = reply.count.unwrap_or(0);
        if objects > 0 {
            let name = resources::errors::qualified(&resource.group, &resource.plural);
            out += &format!("apiserver_storage_objects{{resource={name:?}}} {objects}\n");
        }
    }
    Ok(out)
}

fn resident_bytes() -> u64 {
    const PAGE: u64 = 4096;
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split_whitespace().nth(1).and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0) * PAGE
}

/// Everything the cluster is, at one revision, in the form that `knarr server restore` takes.
async fn backup(api: &Arc<Api>) -> Outcome<Response<Body>> {
    use std::io::Read as _;
    let mut file = crate::data::spool(api.store.as_ref()).await.map_err(Status::internal)?;
    let (send, chunks) = tokio::sync::mpsc::channel(4);
    tokio::task::spawn_blocking(move || {
        loop {
            let mut chunk = vec![0; 256 << 10];
            match file.read(&mut chunk) {
                Ok(0) | Err(_) => return,
                Ok(count) => chunk.truncate(count),
            }
            if send.blocking_send(Bytes::from(chunk)).is_err() {
                return;
            }
        }
    });
    let mut response = Response::new(Body::Stream(chunks));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_read_as_upstreams() {
        let user = User { name: "ann".into(), ..User::default() };
        let action =
            Action { verb: "list".into(), resource: "pods".into(), namespace: "n".into(), ..Action::default() };
        let text =
            "pods is forbidden: User \"ann\" cannot list resource \"pods\" in API group \"\" in the namespace \"n\"";
        assert_eq!(refusal(&user, &action).message, text);
        let path = Action { verb: "get".into(), path: Some("/metrics".into()), ..Action::default() };
        assert_eq!(refusal(&user, &path).message, "forbidden: User \"ann\" cannot get path \"/metrics\"");
    }
}
