//! A container's files as a whole: diff, export, commit.

use std::sync::Arc;

use super::inner::blocking;
use super::{Container, Inner};
use crate::decide::changes::apply_changes;
use crate::decide::merge::{command_line, merge_image};
use crate::decide::text::command_text;
use crate::stream::ByteSink;
use crate::{ByteStream, Change, ChangeKind, CommitRequest, ContainerConfig, Error, ImageConfig, Result, Status};

impl Inner {
    /// Blocking.
    pub(crate) fn changes(&self, container: &Container) -> Result<Vec<Change>> {
        let changes = self.images.diff(&container.id.to_string())?;
        let told = changes.into_iter().map(|change| Change {
            path: change.path.to_string_lossy().into_owned(),
            kind: match change.kind {
                image::ChangeKind::Changed => ChangeKind::Modified,
                image::ChangeKind::Added => ChangeKind::Added,
                image::ChangeKind::Deleted => ChangeKind::Deleted,
            },
        });
        Ok(told.collect())
    }

    pub(crate) fn export(self: &Arc<Self>, container: &Arc<Container>) -> ByteStream {
        let (sender, stream) = ByteStream::channel(16);
        let (inner, held) = (self.clone(), container.clone());
        tokio::task::spawn_blocking(move || {
            let mut sink = ByteSink::new(sender.clone());
            let written = inner.images.export(&held.id.to_string(), &mut sink).and_then(|()| {
                std::io::Write::flush(&mut sink).map_err(|source| image::Error::Stream { what: "export", source })
            });
            match written {
                Ok(()) => inner.container_event(&held, "export", &[]),
                Err(error) => drop(sender.blocking_send(Err(error.into()))),
            }
        });
        stream
    }

    pub(crate) async fn commit(
        self: &Arc<Self>,
        container: &Arc<Container>,
        request: CommitRequest,
    ) -> Result<vocab::Digest> {
        let reference =
            request.reference.as_deref().filter(|r| !r.is_empty()).map(super::images::parse_reference).transpose()?;
        let _alone = container.operation.lock().await;
        if container.live().removed {
            return Err(Error::NoSuchContainer(container.id.to_string()));
        }
        let record = container.record();
        let pause = request.pause && container.status() == Status::Running;
        if pause {
            self.freeze(container).await?;
        }
        let (comment, name) = (request.comment.clone(), reference.as_ref().map(vocab::Reference::familiar));
        let committed = {
            let (inner, held) = (self.clone(), container.clone());
            blocking(move || {
                let config = commit_config(&record.config, &request)?;
                let (program, args) = command_line(&record.config);
                let options = image::CommitOptions {
                    reference,
                    author: request.author,
                    message: request.comment,
                    changes: Vec::new(),
                    config: Some(super::images::to_workload(&config)),
                    created_by: command_text(&program, &args),
                };
                vocab::crash::point("engine.commit.before");
                inner.images.commit(&held.id.to_string(), &options).map_err(Error::from)
            })
            .await
        };
        vocab::crash::point("engine.commit.after");
        if pause {
            self.thaw_group(container).await?;
        }
        let id = committed?;
        if let Some(name) = &name {
            self.image_event("tag", id.to_string(), Some(name.clone()));
        }
        let mut told = vec![("comment", comment), ("imageID", id.to_string())];
        told.extend(name.map(|name| ("imageRef", name)));
        self.container_event(container, "commit", &told);
        Ok(id)
    }
}

/// The image's configuration: overrides and `--change` lines over what the container runs with.
fn commit_config(container: &ContainerConfig, request: &CommitRequest) -> Result<ImageConfig> {
    let mut asked = request.config.clone().unwrap_or_default();
    let mut overrides = super::images::image_config(&asked);
    overrides.shell = overrides.shell.or_else(|| container.shell.clone());
    overrides.working_dir.clone_from(if asked.working_dir.is_empty() {
        &container.working_dir
    } else {
        &asked.working_dir
    });
    apply_changes(&mut overrides, &request.changes)?;
    super::images::overlay_config(&mut asked, overrides);
    // A line such as `CMD` is for the container's entrypoint, as a command of the caller's own at create.
    let (entrypoint, cmd) = (asked.entrypoint.clone(), asked.cmd.clone());
    merge_image(&mut asked, &super::images::image_config(container));
    if cmd.is_some() && entrypoint.is_none() {
        asked.entrypoint.clone_from(&container.entrypoint);
    }
    Ok(super::images::image_config(&asked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_keeps_what_the_container_ran_with_and_changes_what_was_asked_for() {
        let words = |line: &str| Some(line.split(' ').map(str::to_owned).collect::<Vec<_>>());
        let container = ContainerConfig {
            env: vec!["A=1".into(), "B=1".into()],
            cmd: words("sleep 1"),
            entrypoint: words("/entry"),
            working_dir: "/srv".into(),
            hostname: "box".into(),
            labels: [("a".to_owned(), "1".to_owned())].into(),
            ..Default::default()
        };
        let request = CommitRequest {
            changes: vec!["CMD [\"ls\"]".into(), "ENV B=2".into(), "LABEL c=3".into(), "WORKDIR sub".into()],
            ..Default::default()
        };
        let config = commit_config(&container, &request).unwrap();
        assert_eq!(config.cmd, words("ls"));
        assert_eq!(config.entrypoint, words("/entry"));
        assert_eq!(config.env, ["B=2", "A=1"]);
        assert_eq!(config.labels.len(), 2);
        assert_eq!(config.working_dir, "/srv/sub");
        let plain = commit_config(&container, &CommitRequest::default()).unwrap();
        assert_eq!(plain.cmd, words("sleep 1"));
        assert_eq!(plain.env, ["A=1", "B=1"]);
    }
}
