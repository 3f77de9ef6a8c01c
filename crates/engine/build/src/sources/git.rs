//! Git repositories, by the `git` program of this machine. It runs with no configuration but ours, no hooks, no password
//! prompts, and only four ways of transport; what comes out is a folder of files, of which a subdirectory is resolved in-root
//! (BL-06).

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio_util::sync::CancellationToken;

use super::remote::{GitRemote, is_object};
use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::solve::Client;

/// What `git` may say of one command.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
const SAID_BYTES_MAX: u64 = 64 << 10;
/// A server that says nothing for so long is given up.
const COMMAND_TIME: Duration = Duration::from_secs(30 * 60);

/// Everything that decides how `git` behaves, instead of any file on this machine.
const SETTINGS: &[(&str, &str)] = &[
    ("core.hooksPath", "/dev/null"),
    ("core.fsmonitor", "false"),
    ("core.symlinks", "true"),
    ("core.autocrlf", "false"),
    ("protocol.allow", "never"),
    ("protocol.http.allow", "always"),
    ("protocol.https.allow", "always"),
    ("protocol.git.allow", "always"),
    ("protocol.ssh.allow", "always"),
    ("credential.helper", ""),
    ("init.defaultBranch", "main"),
    ("advice.detachedHead", "false"),
    ("gc.auto", "0"),
    ("maintenance.auto", "false"),
    ("http.lowSpeedLimit", "1"),
    ("http.lowSpeedTime", "60"),
];

/// The only ways of transport, also for submodules.
const PROTOCOLS: &str = "http:https:git:ssh";

/// One commit of a repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) commit: String,
    /// The reference that led to it, if it was one: `refs/heads/main`.
    reference: Option<String>,
}

/// One repository for one build.
pub(crate) struct Git<'a> {
    pub(crate) remote: &'a GitRemote,
    /// Knows tokens (`GIT_AUTH_TOKEN`) and the ssh agent.
    pub(crate) client: &'a dyn Client,
    pub(crate) cancel: &'a CancellationToken,
}

impl Git<'_> {
    /// Which commit is meant.
    pub(crate) async fn head(&self, scratch: &Context) -> Result<Head> {
        let head = if self.remote.is_commit() {
            Head { commit: self.remote.reference.to_ascii_lowercase(), reference: None }
        } else {
            let wanted = if self.remote.reference.is_empty() { "HEAD" } else { &self.remote.reference };
            let peeled = format!("{wanted}^{{}}");
            let words = ["ls-remote", "--", &self.remote.url, wanted, &peeled];
            let answer = self.run(scratch, &words, false).await?;
            choose(&answer, wanted).ok_or_else(|| {
                BuildError::Invalid(format!("repository does not contain ref {wanted}: {}", self.remote.url))
            })?
        };
        if let Some(checksum) = &self.remote.checksum
            && !head.commit.starts_with(&checksum.to_ascii_lowercase())
        {
            return Err(BuildError::Invalid(format!(
                "expected checksum to match {checksum}, got {}: {}",
                head.commit,
                self.remote.shown()
            )));
        }
        Ok(head)
    }

    /// The files of a commit, in `folder`. The subdirectory is not looked at.
    pub(crate) async fn check_out(&self, head: &Head, keep_git_dir: bool, folder: &Context) -> Result<()> {
        let url = self.remote.url.as_str();
        self.run(folder, &["init", "--quiet", "--template=", "."], true).await?;
        self.run(folder, &["remote", "add", "--", "origin", url], true).await?;
        // By its name where the server lets us; by what leads to it; everything where neither helps (plain file servers).
        let mut ways: Vec<Vec<&str>> = vec![vec!["--depth=1", "--no-tags", "--", "origin", &head.commit]];
        if let Some(reference) = &head.reference {
            ways.push(vec!["--depth=1", "--no-tags", "--", "origin", reference]);
        }
        ways.push(vec!["--", "origin", "+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"]);
        let mut first_error = None;
        for way in ways {
            let words: Vec<&str> = ["fetch", "--quiet", "--no-recurse-submodules"].into_iter().chain(way).collect();
            if let Err(error) = self.run(folder, &words, true).await {
                if matches!(error, BuildError::Cancelled) {
                    return Err(error);
                }
                first_error.get_or_insert(error);
                continue;
            }
            let object = format!("{}^{{commit}}", head.commit);
            if self.run(folder, &["cat-file", "-e", &object], true).await.is_ok() {
                first_error = None;
                break;
            }
        }
        if let Some(error) = first_error {
            return Err(error);
        }
        self.run(folder, &["checkout", "--quiet", "--detach", &head.commit, "--"], true).await?;
        if self.remote.submodules && folder.path().join(".gitmodules").symlink_metadata().is_ok() {
            let words = ["submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"];
            self.run(folder, &words, true).await?;
        }
        if !keep_git_dir {
            let root = folder.root().open_dir("/")?;
            tokio::task::spawn_blocking(move || forget_git(&root))
                .await
                .map_err(|e| BuildError::Invalid(format!("the checkout was cut short: {e}")))??;
        }
        Ok(())
    }

    /// Runs one command in the folder. Its text is for the user when it fails.
    async fn run(&self, folder: &Context, words: &[&str], inside: bool) -> Result<String> {
        let home = folder.path().parent().unwrap_or(Path::new("/")).to_owned();
        let mut command = tokio::process::Command::new("git");
        command.args(words).env_clear().stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.current_dir(if inside { folder.path() } else { &home }).kill_on_drop(true).process_group(0);
        command.envs(self.environment(&home).await?);
        let failed = |detail: String| {
            let what = words.first().copied().unwrap_or_default();
            BuildError::Invalid(format!("failed to fetch {}: git {what}: {detail}", self.remote.shown()))
        };
        let mut child = command.spawn().map_err(|e| match e.kind() {
            std::io::ErrorKind::NotFound => failed("there is no git program on this machine: install git".into()),
            _ => failed(e.to_string()),
        })?;
        let group = child.id().map(|pid| -(pid as i32));
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let reading = async {
            let (mut text, mut said) = (Vec::new(), Vec::new());
            let read_out = async {
                if let Some(out) = out {
                    let _ = out.take(ANSWER_BYTES_MAX).read_to_end(&mut text).await;
                }
            };
            let read_err = async {
                if let Some(err) = err {
                    let _ = err.take(SAID_BYTES_MAX).read_to_end(&mut said).await;
                }
            };
            tokio::join!(read_out, read_err);
            let status = child.wait().await;
            (text, said, status)
        };
        let (text, said, status) = tokio::select! {
            done = reading => done,
            () = self.cancel.cancelled() => {
                end(group);
                return Err(BuildError::Cancelled);
            }
            () = tokio::time::sleep(COMMAND_TIME) => {
                end(group);
                return Err(failed(format!("it took longer than {} minutes", COMMAND_TIME.as_secs() / 60)));
            }
        };
        let status = status.map_err(|e| failed(e.to_string()))?;
        if !status.success() {
            let said = String::from_utf8_lossy(&said);
            return Err(failed(said.trim().lines().collect::<Vec<_>>().join("; ")));
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    async fn environment(&self, home: &Path) -> Result<Vec<(String, String)>> {
        let mut settings: Vec<(String, String)> =
            SETTINGS.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        settings.extend(self.authorization().await?);
        if vocab::weak::without("git-protocols") {
            settings.push(("protocol.file.allow".into(), "always".into()));
        }
        let home = home.display();
        let protocols = if vocab::weak::without("git-protocols") { "http:https:git:ssh:file" } else { PROTOCOLS };
        let mut all = vec![
            ("HOME".to_owned(), home.to_string()),
            ("GIT_CONFIG_NOSYSTEM".into(), "1".into()),
            ("GIT_CONFIG_GLOBAL".into(), "/dev/null".into()),
            ("GIT_TERMINAL_PROMPT".into(), "0".into()),
            ("GIT_ASKPASS".into(), "/bin/false".into()),
            ("GIT_ALLOW_PROTOCOL".into(), protocols.into()),
            ("GIT_CEILING_DIRECTORIES".into(), home.to_string()),
            // The first key that a host shows is taken, for this one checkout; those the machine knows are held to it.
            (
                "GIT_SSH_COMMAND".into(),
                format!(
                    "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=accept-new -o UserKnownHostsFile='{home}/known_hosts'"
                ),
            ),
            ("LC_ALL".into(), "C".into()),
            ("GIT_CONFIG_COUNT".into(), settings.len().to_string()),
        ];
        let path = std::env::var("PATH").unwrap_or_else(|_| "/usr/local/bin:/usr/bin:/bin".into());
        all.push(("PATH".into(), path));
        for proxy in crate::plan::proxy_names() {
            all.extend(std::env::var(proxy).ok().map(|value| (proxy.to_owned(), value)));
        }
        if let Some(socket) = self.ssh_agent().await? {
            all.push(("SSH_AUTH_SOCK".into(), socket.display().to_string()));
        }
        for (at, (key, value)) in settings.into_iter().enumerate() {
            all.push((format!("GIT_CONFIG_KEY_{at}"), key));
            all.push((format!("GIT_CONFIG_VALUE_{at}"), value));
        }
        Ok(all)
    }

    async fn ssh_agent(&self) -> Result<Option<PathBuf>> {
        let url = &self.remote.url;
        if url.starts_with("ssh://") || !url.contains("://") { self.client.ssh("default").await } else { Ok(None) }
    }

    /// The header for this repository's own origin, in the environment and so in no list of processes that others can read.
    async fn authorization(&self) -> Result<Option<(String, String)>> {
        use base64::Engine;
        let url = &self.remote.url;
        let Some((scheme, rest)) = url.split_once("://") else { return Ok(None) };
        if !scheme.starts_with("http") {
            return Ok(None);
        }
        let authority = rest.split('/').next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        for (name, is_token) in [
            (format!("GIT_AUTH_TOKEN.{host}"), true),
            (format!("GIT_AUTH_HEADER.{host}"), false),
            ("GIT_AUTH_TOKEN".to_owned(), true),
            ("GIT_AUTH_HEADER".to_owned(), false),
        ] {
            let Some(secret) = self.client.secret(&name).await? else { continue };
            let secret = String::from_utf8_lossy(&secret).trim().to_owned();
            let value = if is_token {
                let pair = format!("x-access-token:{secret}");
                format!("basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
            } else {
                secret
            };
            return Ok(Some((format!("http.{scheme}://{host}/.extraHeader"), format!("Authorization: {value}"))));
        }
        Ok(None)
    }
}

fn end(group: Option<i32>) {
    if let Some(group) = group {
        // Its own group: the transport helpers end with it. It may have ended a moment ago.
        let _ = linux::process::kill(group, 9);
    }
}

/// The commit in the lines of `ls-remote`: tags that are objects of their own are followed by what they stand for.
fn choose(answer: &str, wanted: &str) -> Option<Head> {
    let mut found: Vec<(String, String)> = answer
        .lines()
        .filter_map(|line| line.split_once('\t'))
        .filter(|(object, _)| is_object(object))
        .map(|(object, name)| (name.to_owned(), object.to_owned()))
        .collect();
    found.sort_by_key(|(name, _)| {
        let plain = name.strip_suffix("^{}").unwrap_or(name);
        // `ls-remote x` also gives `refs/heads/y/x`: the exact ones come first, tags before branches, as git has it.
        let order = if plain == wanted {
            0
        } else if plain == format!("refs/tags/{wanted}") {
            1
        } else if plain == format!("refs/heads/{wanted}") {
            2
        } else {
            3
        };
        (order, !name.ends_with("^{}"))
    });
    let (name, commit) = found.into_iter().next()?;
    let plain = name.strip_suffix("^{}").unwrap_or(&name).to_owned();
    let exact = plain == wanted || plain == format!("refs/tags/{wanted}") || plain == format!("refs/heads/{wanted}");
    exact.then_some(Head { commit, reference: Some(plain) })
}

/// Removes `.git` here and, of submodules, below: no file that git checks out can have this name.
fn forget_git(dir: &std::os::fd::OwnedFd) -> Result<()> {
    for entry in linux::tree::entries(dir)? {
        if entry.name == ".git" {
            linux::tree::remove_all(dir, &entry.name)?;
        } else if entry.kind == linux::fs::FileType::Directory {
            forget_git(&linux::tree::open_dir(dir, &entry.name)?)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_chosen_as_git_chooses_them() {
        let hash = |c: char| c.to_string().repeat(40);
        let line = |c, name: &str| format!("{}\t{name}\n", hash(c));
        let answer = [line('a', "refs/heads/x/v1"), line('b', "refs/heads/v1"), line('c', "refs/tags/v1")].concat();
        let choose_name = |answer: &str, wanted| choose(answer, wanted).map(|head| head.commit);
        assert_eq!(choose_name(&answer, "v1"), Some(hash('c')));
        assert_eq!(choose_name(&(answer.clone() + &line('d', "refs/tags/v1^{}")), "v1"), Some(hash('d')));
        assert_eq!(choose_name(&answer, "refs/heads/v1"), Some(hash('b')));
        assert_eq!(choose_name(&line('a', "refs/heads/x/v1"), "v1"), None);
        assert_eq!(choose_name("fatal: no\n", "v1"), None);
    }
}
