//! `knarr agent`, and `knarr token`: how machines become nodes of a cluster.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::{Command, Context, for_each, out};
use crate::cloud::Running;
use crate::failure::Failure;
use crate::flags::{Arity, Flag, Matches, duration, switch, text};
use crate::nodes::agent;
use crate::nodes::kubeconfig::Access;
use crate::nodes::token::{self, Token};
use crate::show::{self, Headings};
use crate::{settings, units};

pub(super) static AGENT: Command = Command {
    name: "agent",
    usage: "--server URL --token TOKEN [OPTIONS]",
    about: "Run pods on this machine for a cluster whose servers are elsewhere",
    examples: "  knarr token create                                      on a server: a token that is good for a day
  knarr agent --server https://10.0.0.1:6443 --token K10...::abcdef.0123456789abcdef
  knarr agent                                             again, on a machine that has joined

Pods run on when it ends and while no server answers.",
    flags: &[agent::FLAGS, crate::node::FLAGS, settings::FLAGS],
    interspersed: true,
    arity: Arity::None,
    run: |context, matches| agent::run(context.settings(), matches),
};

const KUBECONFIG: Flag =
    text("kubeconfig", "The administrator's kubeconfig (default: the server's of this run directory, or KUBECONFIG)");

pub(super) static CREATE: Command = Command {
    name: "create",
    usage: "[OPTIONS]",
    about: "Create a token by which nodes join, and show it",
    examples: "  knarr token create
  knarr token create --ttl 1h --description 'rack 7'
  knarr token create --ttl 0s                         one that does not expire",
    flags: &[
        &[
            duration("ttl", "How long it is good for; 0s is for good").default("24h"),
            text("description", "What it is for"),
            KUBECONFIG,
        ],
        settings::FLAGS,
    ],
    interspersed: true,
    arity: Arity::None,
    run: create,
};

pub(super) static LS: Command = Command {
    name: "ls",
    usage: "[OPTIONS]",
    about: "List tokens by which nodes join",
    examples: "  knarr token ls\n  knarr token ls --format json",
    flags: &[
        &[
            text("format", "Format output using a custom template: table, table TEMPLATE, json, or a Go template"),
            switch("quiet", "Only show their identifiers").short('q'),
            KUBECONFIG,
        ],
        settings::FLAGS,
    ],
    interspersed: true,
    arity: Arity::None,
    run: ls,
};

pub(super) static RM: Command = Command {
    name: "rm",
    usage: "TOKEN [TOKEN...]",
    about: "Remove tokens: nodes that have joined by them stay",
    examples: "  knarr token rm abcdef",
    flags: &[&[KUBECONFIG], settings::FLAGS],
    interspersed: true,
    arity: Arity::AtLeast(1),
    run: rm,
};

/// The cluster's API as its administrator.
fn access(context: &Context, matches: &Matches) -> Result<Access, Failure> {
    let environment = || std::env::var_os("KUBECONFIG").filter(|path| !path.is_empty()).map(PathBuf::from);
    let running = || Running::find(&context.settings().run).map(|running| PathBuf::from(running.kubeconfig));
    let running = || running().filter(|path| !path.as_os_str().is_empty());
    let path = matches.text("kubeconfig").map(PathBuf::from).or_else(running).or_else(environment);
    let path = path.ok_or("no server runs here: name its kubeconfig with --kubeconfig")?;
    Access::read(&path).map_err(Failure::new)
}

/// Asks the API from a command that is nothing else.
fn asking<T>(question: impl Future<Output = Result<T, client::Status>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(format!("start: {error}")))?;
    runtime.block_on(question).map_err(|status| Failure::new(status.message))
}

fn create(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let ttl = units::parse_duration(matches.text("ttl").unwrap_or("24h")).map_err(Failure::new)?;
    let access = access(context, matches)?;
    let token = Token::random(&access.authority);
    let ttl = Some(Duration::from_nanos(ttl.unsigned_abs())).filter(|ttl| !ttl.is_zero());
    asking(token::create(&access.client, &token, ttl, matches.text("description").unwrap_or_default()))?;
    out(&format!("{}\n", token.show()))?;
    Ok(0)
}

const HEADINGS: Headings = &[("ID", "ID"), ("Token", "TOKEN"), ("Expires", "EXPIRES"), ("Description", "DESCRIPTION")];

fn ls(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let access = access(context, matches)?;
    let all = asking(token::list(&access.client))?;
    let digest = token::digest(&access.authority);
    let rows: Vec<Value> = all
        .into_iter()
        .map(|mut listed| {
            listed.token.authority = Some(digest.clone());
            json!({"ID": listed.token.id, "Token": listed.token.show(), "Description": listed.description,
                "Expires": listed.expires.as_deref().unwrap_or("never")})
        })
        .collect();
    let format = match matches.text("format").unwrap_or("table") {
        _ if matches.is("quiet") => "{{.ID}}",
        "table" => "table {{.ID}}\t{{.Token}}\t{{.Expires}}\t{{.Description}}",
        format => format,
    };
    out(&show::rows(format, HEADINGS, &rows)?)?;
    Ok(0)
}

fn rm(context: &Context, matches: &Matches) -> Result<u8, Failure> {
    let access = access(context, matches)?;
    for_each(&matches.arguments, |word| {
        // The whole token, or its identifier.
        let id = Token::parse(word).map_or_else(|_| word.to_owned(), |token| token.id);
        asking(token::delete(&access.client, &id))?;
        out(&format!("{id}\n"))?;
        Ok(())
    })
}
