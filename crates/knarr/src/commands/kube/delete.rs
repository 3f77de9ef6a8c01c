//! `delete`: objects by name, by label or as files declare them; waits until they are gone.

use bytes::Bytes;
use hyper::Method;
use serde_json::{Value, json};

use super::super::{Command, Context, out};
use crate::client::http::encode;
use crate::failure::Failure;
use crate::flags::{Arity, Matches, duration, int, switch, text};
use crate::kube::api::{JSON, refusal};
use crate::kube::kinds::Resource;
use crate::kube::{self, Cluster, files};

pub(crate) static DELETE: Command = Command {
    name: "delete",
    usage: "KIND NAME... | KIND/NAME... | -f FILE... [OPTIONS]",
    about: "Delete objects of the cluster",
    examples: "  knarr delete pod web
  knarr delete deploy/web svc/web
  knarr delete pods -l app=web
  knarr delete -f app.yaml",
    flags: &[
        kube::FLAGS,
        kube::ALL_NAMESPACES,
        kube::SELECTORS,
        files::FLAGS,
        &[
            switch("all", "All objects of the kind in the namespace"),
            text("cascade", "What becomes of what an object owns: background, foreground or orphan")
                .default("background"),
            switch("force", "Do not wait for the node to confirm (with --grace-period=0)"),
            int("grace-period", "Seconds that pods get to end; -1 is what they ask for").default("-1"),
            switch("ignore-not-found", "Be silent about objects that are not there"),
            switch("now", "Ask pods to end within a second"),
            duration("timeout", "How long to wait for the end; 0 waits for as long as it takes"),
            switch("wait", "Wait until the objects are gone").default("true"),
        ],
    ],
    interspersed: true,
    arity: Arity::AtLeast(0),
    run,
};

struct Doomed<'a> {
    resource: &'a Resource,
    namespace: String,
    name: String,
}

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let options = options(matches)?;
    let cluster = Cluster::open(context.settings(), matches)?;
    let ignore = matches.is("ignore-not-found");
    let mut code = 0;
    let mut waiting = Vec::new();
    for doomed in doomed(&cluster, matches)? {
        let path = doomed.resource.object(&doomed.namespace, &doomed.name);
        let body = Bytes::from(options.to_string());
        let reply = cluster.api.send(Method::DELETE, &path, JSON, JSON, body)?;
        match reply.status {
            404 if ignore => continue,
            0..400 => {}
            status => {
                eprintln!("{}", refusal(status, &reply.body).message);
                code = 1;
                continue;
            }
        }
        let place = match doomed.resource.namespaced {
            true => format!(" from {} namespace", doomed.namespace),
            false => String::new(),
        };
        let how = if matches.is("force") { " force" } else { "" };
        out(&format!("{} {:?}{how} deleted{place}\n", doomed.resource.shown(), doomed.name))?;
        let object = reply.json()?;
        // An answer of kind Status: it is gone already; else the object, which goes once nobody holds it.
        let uid =
            object["metadata"]["uid"].as_str().or(object["details"]["uid"].as_str()).unwrap_or_default().to_owned();
        waiting.push((doomed, uid));
    }
    if matches.is_or("wait", true) && !matches.is("force") {
        let deadline = matches
            .duration_nanos("timeout")
            .filter(|nanos| *nanos > 0)
            .map(|nanos| std::time::Instant::now() + std::time::Duration::from_nanos(nanos.unsigned_abs()));
        for (doomed, uid) in waiting {
            until_gone(&cluster, &doomed, &uid, deadline)?;
        }
    }
    Ok(code)
}

fn options(matches: &Matches) -> Result<Value, Failure> {
    let policy = match matches.text("cascade").unwrap_or("background") {
        "background" | "true" => "Background",
        "foreground" => "Foreground",
        "orphan" | "false" => "Orphan",
        other => {
            return Err(Failure::new(format!(
                "error: invalid cascade value ({other}). Must be \"background\", \"foreground\", or \"orphan\""
            )));
        }
    };
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": policy});
    let grace = match (matches.int("grace-period").unwrap_or(-1), matches.is("now"), matches.is("force")) {
        (0, _, false) => return Err("error: --grace-period=0 may leave what runs behind: say --force as well".into()),
        (-1, true, _) => 1,
        (-1, false, true) => 0,
        (_, true, _) => return Err("error: --now and --grace-period cannot be specified together".into()),
        (grace, _, _) => grace,
    };
    if grace >= 0 {
        options["gracePeriodSeconds"] = grace.into();
    }
    Ok(options)
}

fn doomed<'a>(cluster: &'a Cluster, matches: &Matches) -> Result<Vec<Doomed<'a>>, Failure> {
    let names = matches.list("filename");
    if !names.is_empty() {
        let objects = files::objects(names, matches.is("recursive"))?;
        let doomed = objects.iter().map(|object| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let resource = cluster.catalog.of_kind(&text(&object["apiVersion"]), &text(&object["kind"]))?;
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or(&cluster.namespace).to_owned();
            Ok(Doomed { resource, namespace, name: text(&object["metadata"]["name"]) })
        });
        return doomed.collect();
    }
    let mut doomed = Vec::new();
    for target in cluster.targets(&matches.arguments)? {
        if let Some(name) = target.name {
            doomed.push(Doomed { resource: target.resource, namespace: cluster.namespace.clone(), name });
            continue;
        }
        let selectors = kube::selectors(matches);
        if selectors.is_empty() && !matches.is("all") {
            return Err(
                "error: resource(s) were provided, but no name was specified: name them, or say --all or -l".into()
            );
        }
        for object in cluster.list(target.resource, &cluster.namespace, &selectors)? {
            let text = |field: &str| object["metadata"][field].as_str().unwrap_or_default().to_owned();
            doomed.push(Doomed { resource: target.resource, namespace: text("namespace"), name: text("name") });
        }
    }
    if doomed.is_empty() {
        eprintln!("No resources found");
    }
    Ok(doomed)
}

fn until_gone(
    cluster: &Cluster,
    doomed: &Doomed<'_>,
    uid: &str,
    deadline: Option<std::time::Instant>,
) -> Result<(), Failure> {
    let path = doomed.resource.object(&doomed.namespace, &doomed.name);
    loop {
        let Some(object) = cluster.api.find(&path)? else { return Ok(()) };
        if object["metadata"]["uid"] != uid {
            return Ok(());
        }
        let left = deadline.map(|at| at.saturating_duration_since(std::time::Instant::now()));
        let seconds = left.map_or(60, |left| left.as_secs().min(60)).max(1);
        if left.is_some_and(|left| left.is_zero()) {
            return Err(Failure::new(format!(
                "error: timed out waiting for the condition on {}/{}",
                doomed.resource.plural, doomed.name
            )));
        }
        let field = encode(&format!("metadata.name={}", doomed.name));
        let version = encode(object["metadata"]["resourceVersion"].as_str().unwrap_or_default());
        let watch = format!(
            "{}?watch=1&fieldSelector={field}&resourceVersion={version}&timeoutSeconds={seconds}",
            doomed.resource.path(&doomed.namespace)
        );
        // Whatever ends the watch, the next look tells how things are.
        cluster.api.watch(&watch, JSON, |kind, _| Ok(kind != "DELETED" && kind != "ERROR"))?;
    }
}
