//! `doctor`: what the records and the machine do not agree on, and what to do about it.

use serde_json::Value;

use super::{Command, out};
use crate::client::autostart;
use crate::daemon;
use crate::flags::{Arity, switch};
use crate::show;

pub(super) static DOCTOR: Command = Command {
    name: "doctor",
    usage: "[OPTIONS]",
    about: "Compare the records with mounts, cgroups, processes, layers, blobs and logs",
    examples: "  knarr doctor          exit code 1 and a table if anything is left over or missing
  knarr doctor --json   one object a line
  knarr doctor --deep   find blobs that have changed on disk, too",
    flags: &[&[switch("deep", "Read and hash every blob as well"), switch("json", "One JSON object a line")]],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| {
        let deep = matches.is("deep");
        // Whoever only looks leaves no engine behind.
        let findings = match autostart::alone(&context.client.settings)? {
            Some(_alone) => daemon::examine(&context.client.settings, deep)?,
            None => context.client.get(if deep { "/knarr/doctor?deep=1" } else { "/knarr/doctor" })?,
        };
        let findings = findings.as_array().cloned().unwrap_or_default();
        if matches.is("json") {
            let lines: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
            out(&lines)?;
        } else if findings.is_empty() {
            out("Nothing found: the records and the machine agree.\n")?;
        } else {
            let field = |finding: &Value, name: &str| finding[name].as_str().unwrap_or("").replace('\t', " ");
            let mut lines = vec!["AREA\tWHERE\tWHAT\tWHAT TO DO".to_owned()];
            for finding in &findings {
                let cells = ["Area", "Place", "Problem", "Remedy"].map(|name| field(finding, name));
                lines.push(cells.join("\t"));
            }
            out(&show::align(&lines))?;
        }
        Ok(u8::from(!findings.is_empty()))
    },
};
