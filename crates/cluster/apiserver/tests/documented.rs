//! `docs/reference/kubernetes-api.md` says which resources are served. This keeps it true: `UPDATE_DOCS=1 cargo test -p
//! apiserver --test documented` writes the table anew.

use std::path::Path;

use apiserver::Catalog;

const BEGIN: &str = "<!-- resources: begin -->\n";
const END: &str = "<!-- resources: end -->";

fn table() -> String {
    let mut out = String::from(
        "| Group and version | Resource | Kind | Scope | Verbs | Subresources |\n|---|---|---|---|---|---|\n",
    );
    for group in &Catalog::builtin().groups {
        for version in &group.versions {
            for resource in &version.resources {
                let verbs = match resource.verbs.len() {
                    8 => "all".to_owned(),
                    _ => resource.verbs.join(", "),
                };
                let subs: Vec<&str> = resource.subresources.iter().map(|sub| sub.name.as_str()).collect();
                let scope = if resource.namespaced { "namespace" } else { "cluster" };
                out += &format!(
                    "| {} | {} | {} | {scope} | {verbs} | {} |\n",
                    resource.api_version(),
                    resource.plural,
                    resource.kind,
                    subs.join(", ")
                );
            }
        }
    }
    out
}

#[test]
fn the_documented_resources_are_those_served() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/reference/kubernetes-api.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let (head, rest) = text.split_once(BEGIN).expect("the page has a place for the table");
    let (found, tail) = rest.split_once(END).expect("the table's place ends");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, format!("{head}{BEGIN}{}{END}{tail}", table())).unwrap();
        return;
    }
    assert_eq!(found, table(), "run again with UPDATE_DOCS=1");
}
