//! `get`: objects of the cluster, as tables, documents or templates, once or for as long as they change.

use bytes::Bytes;
use hyper::Method;
use serde_json::Value;

use super::super::{Command, Context, out};
use crate::client::http::encode;
use crate::failure::Failure;
use crate::flags::{Arity, Matches, switch, text};
use crate::kube::kinds::Resource;
use crate::kube::output::{self, Output, TableStyle};
use crate::kube::{self, Cluster, Target, jsonpath::JsonPath};

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

pub(crate) static GET: Command = Command {
    name: "get",
    usage: "KIND [NAME...] | KIND/NAME... [OPTIONS]",
    about: "Show objects of the cluster",
    examples: "  knarr get pods                             those of this namespace
  knarr get pods,svc -A -o wide              of all namespaces
  knarr get deploy/web -o yaml
  knarr get pods -l app=web -w               and what becomes of them
  knarr get pods -o jsonpath='{.items[*].status.podIP}'",
    flags: &[
        kube::FLAGS,
        kube::ALL_NAMESPACES,
        kube::SELECTORS,
        output::FLAGS,
        &[
            text("sort-by", "Sort by the field at this path, such as .metadata.creationTimestamp"),
            switch("ignore-not-found", "Be silent about objects that are not there"),
            switch("watch", "Go on and show what changes").short('w'),
        ],
    ],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run,
};

fn run(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let output = Output::of(matches)?;
    let cluster = Cluster::open(context.settings(), matches)?;
    let targets = cluster.targets(&matches.arguments)?;
    if matches.is("watch") {
        return watch(&cluster, &targets, &output, matches);
    }
    match output {
        Output::Table { wide } => tables(&cluster, &targets, wide, matches),
        output => documents(&cluster, &targets, &output, matches),
    }
}

fn paths<'a>(cluster: &Cluster, target: &Target<'a>, matches: &Matches) -> (&'a Resource, String) {
    let path = match &target.name {
        Some(name) => target.resource.object(&cluster.namespace, name),
        None => format!("{}{}", target.resource.path(&cluster.namespace), kube::selectors(matches)),
    };
    (target.resource, path)
}

fn tables(cluster: &Cluster, targets: &[Target<'_>], wide: bool, matches: &Matches) -> Result<u8, Failure> {
    let mut code = 0;
    // Rows of one resource stand under one heading, in the order in which the resources were named.
    let mut groups: Vec<(&Resource, Vec<Value>)> = Vec::new();
    for target in targets {
        let (resource, path) = paths(cluster, target, matches);
        match cluster.api.ask(Method::GET, &path, TABLE, "", Bytes::new()) {
            Ok(reply) => {
                let table = reply.json()?;
                match groups.iter_mut().find(|(known, _)| *known == resource) {
                    Some((_, tables)) => tables.push(table),
                    None => groups.push((resource, vec![table])),
                }
            }
            Err(failure) if failure.is_not_found() && matches.is("ignore-not-found") => {}
            // Categories name what a client may not list at all.
            Err(failure) if target.name.is_none() && targets.len() > 1 && failure.status == Some(405) => {}
            Err(failure) => {
                eprintln!("{}", failure.message);
                code = 1;
            }
        }
    }
    for (_, tables) in &mut groups {
        tables.retain(|table| table["rows"].as_array().is_some_and(|rows| !rows.is_empty()));
    }
    groups.retain(|(_, tables)| !tables.is_empty());
    let several = groups.len() > 1 || targets.iter().any(|target| target.resource != targets[0].resource);
    let mut text = String::new();
    for (resource, tables) in &groups {
        let shown = resource.shown();
        let mut lines = Vec::new();
        for table in tables {
            let style = TableStyle {
                wide,
                namespaces: matches.is("all-namespaces") && resource.namespaced,
                labels: matches.is("show-labels"),
                prefix: several.then_some(shown.as_str()),
                no_headers: matches.is("no-headers") || !lines.is_empty(),
            };
            let mut table = table.clone();
            if let Some(path) = matches.text("sort-by") {
                sort_rows(&mut table, path)?;
            }
            lines.extend(output::table_lines(&table, style));
        }
        if !text.is_empty() {
            text.push('\n');
        }
        text.push_str(&output::align(&lines));
    }
    if groups.is_empty() && code == 0 && !matches.is("ignore-not-found") {
        match targets[0].resource.namespaced && !cluster.namespace.is_empty() {
            true => eprintln!("No resources found in {} namespace.", cluster.namespace),
            false => eprintln!("No resources found"),
        }
    }
    out(&text)?;
    Ok(code)
}

/// The rows carry no more than metadata, which is what people sort tables by.
fn sort_rows(table: &mut Value, path: &str) -> Result<(), Failure> {
    let path = JsonPath::parse(path).map_err(|problem| Failure::new(format!("error: {problem}")))?;
    if let Some(rows) = table["rows"].as_array_mut() {
        rows.sort_by_cached_key(|row| path.render(&row["object"]));
    }
    Ok(())
}

fn documents(cluster: &Cluster, targets: &[Target<'_>], output: &Output, matches: &Matches) -> Result<u8, Failure> {
    let mut code = 0;
    let mut objects = Vec::new();
    let single = matches!(targets, [target] if target.name.is_some());
    for target in targets {
        let found = match &target.name {
            Some(name) => cluster.api.get(&target.resource.object(&cluster.namespace, name)).map(|object| vec![object]),
            None => cluster.list(target.resource, &cluster.namespace, &kube::selectors(matches)),
        };
        match found {
            Ok(found) => objects.extend(found),
            Err(failure) if failure.is_not_found() && matches.is("ignore-not-found") => {}
            Err(failure) => {
                eprintln!("{}", failure.message);
                code = 1;
            }
        }
    }
    if let Some(path) = matches.text("sort-by") {
        let path = JsonPath::parse(path).map_err(|problem| Failure::new(format!("error: {problem}")))?;
        objects.sort_by_cached_key(|object| path.render(object));
    }
    if !objects.is_empty() || code == 0 && !single {
        out(&output.objects(&objects, single))?;
    }
    Ok(code)
}

fn watch(cluster: &Cluster, targets: &[Target<'_>], output: &Output, matches: &Matches) -> Result<u8, Failure> {
    let [target] = targets else {
        return Err("error: you may only watch a single resource or type of resource at a time".into());
    };
    let (resource, mut path) = match &target.name {
        None => paths(cluster, target, matches),
        // One object is watched as a list that only it fits into.
        Some(name) => {
            let field = encode(&format!("metadata.name={name}"));
            (target.resource, format!("{}?fieldSelector={field}", target.resource.path(&cluster.namespace)))
        }
    };
    path.push_str(if path.contains('?') { "&" } else { "?" });
    path.push_str("watch=1");
    let wide = matches!(output, Output::Table { wide: true });
    let is_table = matches!(output, Output::Table { .. });
    let accept = if is_table { TABLE } else { crate::kube::api::JSON };
    // Columns keep the width they have reached, so that lines stay under their headings.
    let mut widths: Vec<usize> = Vec::new();
    let mut headed = matches.is("no-headers");
    cluster.api.watch(&path, accept, |kind, object| {
        if kind == "ERROR" {
            return Err(Failure::new(format!(
                "error: {}",
                object["message"].as_str().unwrap_or("the watch has ended")
            )));
        }
        if kind == "BOOKMARK" {
            return Ok(true);
        }
        if !is_table {
            out(&output.objects(std::slice::from_ref(object), true))?;
            return Ok(true);
        }
        let style = TableStyle {
            wide,
            namespaces: matches.is("all-namespaces") && resource.namespaced,
            labels: matches.is("show-labels"),
            prefix: None,
            no_headers: headed,
        };
        headed = true;
        let mut text = String::new();
        for line in output::table_lines(object, style) {
            let cells: Vec<&str> = line.split('\t').collect();
            widths.resize(widths.len().max(cells.len()), 6);
            for (at, cell) in cells.iter().enumerate() {
                widths[at] = widths[at].max(cell.chars().count() + 3);
                match at + 1 < cells.len() {
                    true => text.push_str(&format!("{cell:width$}", width = widths[at])),
                    false => text.push_str(cell),
                }
            }
            text.push('\n');
        }
        out(&text)?;
        Ok(true)
    })?;
    Ok(0)
}
