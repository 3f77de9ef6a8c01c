//! What reaches registries: `pull`, `push`, `login`, `logout`, `search`, `manifest inspect`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};

use serde_json::{Value, json};

use super::{Command, Context, out};
use crate::client::http::{Body, encode};
use crate::client::{filters, query, terminal};
use crate::credentials::{self, Login, Store};
use crate::failure::Failure;
use crate::flags::{Arity, int, list, switch, text};
use crate::show::{self, Headings};
use crate::text::{ellipsis, printable};

fn parse(name: &str) -> Result<vocab::Reference, Failure> {
    name.parse().map_err(|error| Failure::new(format!("{error}")))
}

pub(super) static PULL: Command = Command {
    name: "pull",
    usage: "[OPTIONS] NAME[:TAG|@DIGEST]",
    about: "Download an image from a registry",
    examples: "  knarr pull busybox:1.36\n  knarr pull --platform linux/arm64 localhost:5000/tools",
    flags: &[&[
        switch("all-tags", "Download all tagged images in the repository").short('a'),
        text("platform", "Set platform if server is multi-platform capable"),
        switch("quiet", "Suppress verbose output").short('q'),
        switch("disable-content-trust", "").hidden(),
    ]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |context, matches| {
        let reference = parse(&matches.arguments[0])?;
        let all = matches.is("all-tags");
        if all && (reference.tag().is_some() || reference.digest().is_some()) {
            return Err("tag can't be used with --all-tags/-a".into());
        }
        let plain = reference.tag().is_none() && reference.digest().is_none();
        if plain && !all && !matches.is("quiet") {
            out("Using default tag: latest\n")?;
        }
        fetch(
            context,
            &reference,
            matches.text("platform").unwrap_or(""),
            all,
            matches.is("quiet"),
            &mut std::io::stdout(),
        )?;
        let name = if all { reference } else { reference.or_latest() };
        out(&format!("{name}\n"))?;
        Ok(0)
    },
};

/// Fetches an image for a command that needs it; what there is to say goes to standard error.
pub(super) fn pull(context: &Context, image: &str, platform: &str, quiet: bool) -> Result<(), Failure> {
    fetch(context, &parse(image)?, platform, false, quiet, &mut std::io::stderr())
}

fn fetch(
    context: &Context,
    reference: &vocab::Reference,
    platform: &str,
    all: bool,
    quiet: bool,
    screen: &mut dyn Write,
) -> Result<(), Failure> {
    let repository = reference.familiar_repository();
    let digest = reference.digest().map(|digest| digest.to_string());
    let tag = digest.as_deref().or(reference.tag()).unwrap_or("latest").to_owned();
    let mut parameters = vec![("fromImage", repository.as_str())];
    if !all {
        parameters.push(("tag", &tag));
    }
    if !platform.is_empty() {
        parameters.push(("platform", platform));
    }
    let login = credentials::header(reference.domain())?;
    let path = format!("/images/create{}", query(&parameters));
    let answer = context.client.request("POST", &path, Body::Registry(login.as_deref()))?;
    progress(answer, quiet, screen)
}

pub(super) static PUSH: Command = Command {
    name: "push",
    usage: "[OPTIONS] NAME[:TAG]",
    about: "Upload an image to a registry",
    examples: "  knarr push localhost:5000/tools:1",
    flags: &[&[
        switch("all-tags", "Push all tags of an image to the repository").short('a'),
        switch("quiet", "Suppress verbose output").short('q'),
        switch("disable-content-trust", "").hidden(),
        text("platform", "").refused("one platform of each image is kept"),
    ]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |context, matches| {
        let reference = parse(&matches.arguments[0])?;
        let (all, quiet) = (matches.is("all-tags"), matches.is("quiet"));
        if all && (reference.tag().is_some() || reference.digest().is_some()) {
            return Err("tag can't be used with --all-tags/-a".into());
        }
        if !all && reference.tag().is_none() && !quiet {
            out("Using default tag: latest\n")?;
        }
        let reference = if all { reference } else { reference.or_latest() };
        let parameters = reference.tag().map_or(String::new(), |tag| query(&[("tag", tag)]));
        let name = encode(&reference.familiar_repository());
        let login = credentials::header(reference.domain())?;
        let path = format!("/images/{name}/push{parameters}");
        let answer = context.client.request("POST", &path, Body::Registry(login.as_deref()))?;
        progress(answer, quiet, &mut std::io::stdout())?;
        if quiet {
            out(&format!("{reference}\n"))?;
        }
        Ok(0)
    },
};

/// Shows a progress stream: on a terminal each layer has a line that changes, elsewhere every change of state is a line. An
/// error in the stream is the command's.
fn progress(answer: impl Read, quiet: bool, screen: &mut dyn Write) -> Result<(), Failure> {
    let live = !quiet && terminal::is_terminal(std::io::stdout()) && terminal::is_terminal(std::io::stderr());
    // Drawn to standard error where it would be; on a terminal both are the same screen.
    let bars = if live {
        indicatif::MultiProgress::new()
    } else {
        indicatif::MultiProgress::with_draw_target(indicatif::ProgressDrawTarget::hidden())
    };
    let mut lines: BTreeMap<String, indicatif::ProgressBar> = BTreeMap::new();
    for line in BufReader::new(answer).lines() {
        let line = line?;
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if let Some(error) =
            message["error"].as_str().or(message.pointer("/errorDetail/message").and_then(Value::as_str))
        {
            return Err(Failure::new(error));
        }
        let Some(status) = message["status"].as_str().map(printable).filter(|_| !quiet) else { continue };
        let id = message["id"].as_str().map(printable);
        let detail = message["progress"].as_str().map(printable);
        match (id, live && message.get("progressDetail").is_some()) {
            (Some(id), true) => {
                let bar = lines.entry(id.clone()).or_insert_with(|| {
                    let style = indicatif::ProgressStyle::with_template("{msg}").expect("a valid template");
                    bars.add(indicatif::ProgressBar::new_spinner().with_style(style))
                });
                bar.set_message(format!("{id}: {status} {}", detail.unwrap_or_default()));
                bar.tick();
            }
            (Some(id), false) if detail.is_none() => writeln!(screen, "{id}: {status}")?,
            (None, _) if live => bars.println(&status)?,
            (None, _) => writeln!(screen, "{status}")?,
            _ => {}
        }
    }
    for bar in lines.values() {
        bar.abandon();
    }
    screen.flush()?;
    Ok(())
}

pub(super) static LOGIN: Command = Command {
    name: "login",
    usage: "[OPTIONS] [SERVER]",
    about: "Authenticate to a registry",
    examples: "  knarr login localhost:5000\n  pass show registry | knarr login -u ann --password-stdin r.example",
    flags: &[&[
        text("password", "Password or Personal Access Token (PAT)").short('p'),
        switch("password-stdin", "Take the Password or Personal Access Token (PAT) from stdin"),
        text("username", "Username").short('u'),
    ]],
    interspersed: true,
    arity: Arity::Between(0, 1),
    run: |context, matches| {
        let server = matches.arguments.first().map_or("", String::as_str);
        let key = credentials::key_of(server);
        if matches.given("password") && matches.is("password-stdin") {
            return Err("--password and --password-stdin are mutually exclusive".into());
        }
        let mut store = Store::open()?;
        let username = match matches.text("username") {
            Some(name) => name.to_owned(),
            None if matches.is("password-stdin") => return Err("Must provide --username with --password-stdin".into()),
            None => {
                let known = store.get(&key)?.unwrap_or_default().username;
                let shown = if known.is_empty() { String::new() } else { format!(" ({known})") };
                let typed = ask(&format!("Username{shown}: "), false)?;
                if typed.is_empty() { known } else { typed }
            }
        };
        if username.is_empty() {
            return Err("username is empty".into());
        }
        let password = match (matches.text("password"), matches.is("password-stdin")) {
            (_, true) => {
                let mut text = String::new();
                std::io::stdin().take(64 << 10).read_to_string(&mut text)?;
                text.trim_end_matches(['\n', '\r']).to_owned()
            }
            (Some(password), false) => {
                eprintln!("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
                password.to_owned()
            }
            (None, false) => ask("Password: ", true)?,
        };
        if password.is_empty() {
            return Err("password is empty".into());
        }
        let body = json!({"username": username, "password": password, "serveraddress": key});
        let answer = context.client.post("/auth", Some(&body))?;
        let token = answer["IdentityToken"].as_str().unwrap_or_default().to_owned();
        store.put(&key, &Login { username, password, identity_token: token })?;
        if store.helper(&key).is_none() {
            eprintln!("WARNING! Your credentials are stored unencrypted in '{}'.", store.path().display());
        }
        out(&format!("{}\n", answer["Status"].as_str().unwrap_or("Login Succeeded")))?;
        Ok(0)
    },
};

/// Asks a person; a secret is not shown while it is typed.
fn ask(question: &str, secret: bool) -> Result<String, Failure> {
    let stdin = std::io::stdin();
    if !terminal::is_terminal(&stdin) {
        return Err("cannot perform an interactive login from a non TTY device".into());
    }
    eprint!("{question}");
    let shown = rustix::termios::tcgetattr(&stdin).map_err(|error| Failure::new(format!("the terminal: {error}")))?;
    if secret {
        let mut hidden = shown.clone();
        hidden.local_modes.remove(rustix::termios::LocalModes::ECHO);
        rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &hidden)
            .map_err(|error| Failure::new(format!("the terminal: {error}")))?;
    }
    let mut line = String::new();
    let read = stdin.lock().take(64 << 10).read_line(&mut line);
    if secret {
        // The terminal as it was, whatever was typed.
        let _ = rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &shown);
        eprintln!();
    }
    read?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

pub(super) static LOGOUT: Command = Command {
    name: "logout",
    usage: "[SERVER]",
    about: "Log out from a registry",
    examples: "  knarr logout localhost:5000",
    flags: &[],
    interspersed: true,
    arity: Arity::Between(0, 1),
    run: |_, matches| {
        let key = credentials::key_of(matches.arguments.first().map_or("", String::as_str));
        match Store::open()?.remove(&key)? {
            true => out(&format!("Removing login credentials for {key}\n"))?,
            false => out(&format!("Not logged in to {key}\n"))?,
        }
        Ok(0)
    },
};

const SEARCH_HEADINGS: Headings = &[
    ("Name", "NAME"),
    ("Description", "DESCRIPTION"),
    ("StarCount", "STARS"),
    ("IsOfficial", "OFFICIAL"),
    ("IsAutomated", "AUTOMATED"),
];

pub(super) static SEARCH: Command = Command {
    name: "search",
    usage: "[OPTIONS] TERM",
    about: "Search a registry for images",
    examples: "  knarr search busybox\n  knarr search localhost:5000/tools",
    flags: &[&[
        list("filter", "Filter output based on conditions provided").short('f'),
        text("format", "Format output using a custom template: table, table TEMPLATE, json, or a Go template"),
        int("limit", "Max number of search results"),
        switch("no-trunc", "Don't truncate output"),
    ]],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |context, matches| {
        let term = &matches.arguments[0];
        let wanted = filters(matches.list("filter"))?;
        let limit = matches.text("limit").unwrap_or("0").to_owned();
        let parameters = query(&[("term", term), ("limit", &limit), ("filters", &wanted)]);
        let domain = term.split_once('/').map_or("docker.io", |(host, _)| host);
        let login = credentials::header(domain)?;
        let answer =
            context.client.request("GET", &format!("/images/search{parameters}"), Body::Registry(login.as_deref()))?;
        let answer = context.client.json(answer)?;
        let whole = matches.is("no-trunc");
        let rows: Vec<Value> = answer
            .as_array()
            .into_iter()
            .flatten()
            .map(|found| {
                let description = found["description"].as_str().unwrap_or("").replace(['\n', '\t'], " ");
                let flag = |name: &str| if found[name].as_bool() == Some(true) { "[OK]" } else { "" };
                json!({
                    "Name": found["name"], "StarCount": found["star_count"],
                    "Description": if whole { description } else { ellipsis(&description, 45) },
                    "IsOfficial": flag("is_official"), "IsAutomated": flag("is_automated"),
                })
            })
            .collect();
        let default = "table {{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
        let format = matches.text("format").filter(|format| *format != "table").unwrap_or(default);
        out(&show::rows(format, SEARCH_HEADINGS, &rows)?)?;
        Ok(0)
    },
};

pub(super) static MANIFEST_INSPECT: Command = Command {
    name: "inspect",
    usage: "NAME[:TAG|@DIGEST]",
    about: "Show what a name stands for in its registry",
    examples: "  knarr manifest inspect busybox:1.36\n\nDigest, media type and platforms; nothing is pulled.",
    flags: &[],
    interspersed: true,
    arity: Arity::Exactly(1),
    run: |context, matches| {
        let reference = parse(&matches.arguments[0])?;
        let login = credentials::header(reference.domain())?;
        let path = format!("/distribution/{}/json", encode(&matches.arguments[0]));
        let answer = context.client.request("GET", &path, Body::Registry(login.as_deref()))?;
        out(&format!("{}\n", show::indented(&context.client.json(answer)?)))?;
        Ok(0)
    },
};
