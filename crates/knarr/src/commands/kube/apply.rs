//! `apply`: what files declare becomes what the cluster wants, by server-side apply.

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;

use super::super::{Command, Context, out};
use crate::failure::Failure;
use crate::flags::{Arity, Matches, switch, text};
use crate::kube::api::{JSON, refusal};
use crate::kube::kinds::Catalog;
use crate::kube::{self, Cluster, files, output};

pub(crate) static APPLY: Command = Command {
    name: "apply",
    usage: "-f FILE... [OPTIONS]",
    about: "Make the cluster want what files declare",
    examples: "  knarr apply -f app.yaml
  knarr apply -f manifests/ -R
  cat app.yaml | knarr apply -f -
  knarr apply -f app.yaml --dry-run=server   only ask whether it would be taken

Fields that somebody else manages are left alone: a difference is a conflict that names them,
unless --force-conflicts takes them over.",
    flags: &[
        kube::FLAGS,
        files::FLAGS,
        &[
            text("dry-run", "none, or server: ask without changing anything").default("none"),
            text("field-manager", "Name under which fields are managed").default("knarr"),
            switch("force-conflicts", "Take over fields that somebody else manages"),
            switch("server-side", "").hidden(),
        ],
    ],
    interspersed: true,
    arity: Arity::None,
    run,
};

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let names = matches.list("filename");
    if names.is_empty() {
        return Err("error: must specify -f: a file, a folder or -".into());
    }
    let dry = match matches.text("dry-run").unwrap_or("none") {
        "none" => false,
        "server" => true,
        other => return Err(Failure::new(format!("error: invalid dry-run value ({other:?}): must be none or server"))),
    };
    let objects = files::objects(names, matches.is("recursive"))?;
    let mut cluster = Cluster::open(context.settings(), matches)?;
    let manager = matches.text("field-manager").unwrap_or("knarr").to_owned();
    let mut code = 0;
    for object in &objects {
        match apply(&mut cluster, object, &manager, matches.is("force-conflicts"), dry) {
            Ok(done) => {
                out(&format!("{} {done}{}\n", output::name(object), if dry { " (server dry run)" } else { "" }))?
            }
            Err(failure) => {
                eprintln!("{}", failure.message);
                code = 1;
            }
        }
    }
    Ok(code)
}

fn apply(
    cluster: &mut Cluster,
    object: &Value,
    manager: &str,
    force: bool,
    dry: bool,
) -> Result<&'static str, Failure> {
    let (api_version, kind) =
        (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    if name.is_empty() {
        return Err(Failure::new(format!("error: {kind}: a name is needed to apply: metadata.name")));
    }
    if cluster.catalog.of_kind(api_version, kind).is_err() {
        // A definition that was applied a moment ago brings kinds of its own.
        cluster.catalog = Catalog::ask(&cluster.api)?;
    }
    let resource = cluster.catalog.of_kind(api_version, kind)?.clone();
    let declared = object["metadata"]["namespace"].as_str().filter(|_| resource.namespaced);
    if let Some(declared) = declared
        && cluster.namespace_named
        && declared != cluster.namespace
    {
        return Err(Failure::new(format!(
            "error: the namespace from the provided object {declared:?} does not match the namespace {:?}. You must pass \
             '--namespace={declared}' to perform this operation.",
            cluster.namespace
        )));
    }
    let path = resource.object(declared.unwrap_or(&cluster.namespace), name);
    let before = cluster.api.find(&path)?;
    let query = crate::client::query(
        &[("fieldManager", manager), ("force", if force { "true" } else { "false" })]
            .into_iter()
            .chain(dry.then_some(("dryRun", "All")))
            .collect::<Vec<_>>(),
    );
    let body = Bytes::from(object.to_string());
    let reply =
        cluster.api.send(Method::PATCH, &format!("{path}{query}"), JSON, "application/apply-patch+yaml", body)?;
    if reply.status >= 400 {
        let failure = refusal(reply.status, &reply.body);
        let hint = if reply.status == 409 { "\nUse --force-conflicts to take these fields over." } else { "" };
        return Err(Failure { message: format!("{}{hint}", failure.message), ..failure });
    }
    let after = reply.json()?;
    Ok(match before {
        None => "created",
        Some(before) if same(&before, &after) => "unchanged",
        Some(_) => "configured",
    })
}

/// Has the apply changed anything but the book-keeping of who applied when?
fn same(before: &Value, after: &Value) -> bool {
    let plain = |object: &Value| {
        let mut object = object.clone();
        if let Some(metadata) = object["metadata"].as_object_mut() {
            metadata.remove("managedFields");
            metadata.remove("resourceVersion");
        }
        object
    };
    plain(before) == plain(after)
}
