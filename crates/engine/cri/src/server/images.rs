//! Images, in full names: what Docker calls `busybox` is `docker.io/library/busybox` here.

use base64::Engine as _;
use engine::{Credentials, ImageListOptions, PullRequest};
use grpc::Outcome;
use pods::Runtime;
use tonic::Status;

use super::{Server, now, refused, status};
use crate::wire::*;

/// The full form of a familiar name.
pub(super) fn canonical(name: &str) -> String {
    name.parse::<vocab::Reference>().map_or_else(|_| name.to_owned(), |reference| reference.to_string())
}

fn named(spec: Option<ImageSpec>) -> Outcome<String> {
    let name = spec.unwrap_or_default().image;
    if name.is_empty() { Err(Status::invalid_argument("image name is empty")) } else { Ok(name) }
}

/// `USER` of an image: a number, or a name.
fn user(text: &str) -> (Option<Int64Value>, String) {
    let name = text.split(':').next().unwrap_or_default();
    match name.parse() {
        Ok(value) => (Some(Int64Value { value }), String::new()),
        Err(_) => (None, name.to_owned()),
    }
}

/// What a kubelet shows to a registry.
fn credentials(auth: Option<AuthConfig>) -> Outcome<Credentials> {
    let auth = auth.unwrap_or_default();
    let (mut username, mut password) = (auth.username, auth.password);
    if username.is_empty() && !auth.auth.is_empty() {
        let invalid = || Status::invalid_argument("auth is not a user and a password in base 64");
        let bytes = base64::engine::general_purpose::STANDARD.decode(&auth.auth).map_err(|_| invalid())?;
        let text = String::from_utf8(bytes).map_err(|_| invalid())?;
        let (user, secret) = text.split_once(':').ok_or_else(invalid)?;
        (username, password) = (user.to_owned(), secret.trim_end_matches('\0').to_owned());
    }
    Ok(Credentials { username, password, identity_token: auth.identity_token, ..Credentials::default() })
}

impl Server {
    async fn image(&self, name: &str) -> Outcome<Option<Image>> {
        let view = match self.engine().image_inspect(name).await {
            Ok(view) => view,
            Err(error) if error.kind() == vocab::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(refused(error)),
        };
        let (uid, username) = user(&view.config.user);
        Ok(Some(Image {
            id: view.id.to_string(),
            repo_tags: view.tags.iter().map(|tag| canonical(tag)).collect(),
            repo_digests: view.digests.iter().map(|digest| canonical(digest)).collect(),
            size: view.size_bytes.max(1),
            uid,
            username,
            spec: None,
            pinned: false,
        }))
    }

    pub(super) async fn list_images(&self, asked: ListImagesRequest) -> Outcome<ListImagesResponse> {
        let wanted = asked.filter.and_then(|filter| filter.image).map(|spec| spec.image).unwrap_or_default();
        if !wanted.is_empty() {
            return Ok(ListImagesResponse { images: self.image(&wanted).await?.into_iter().collect() });
        }
        let mut images = Vec::new();
        for summary in self.engine().image_list(ImageListOptions::default()).await.map_err(refused)? {
            // Gone meanwhile: nothing to tell.
            images.extend(self.image(&summary.id.to_string()).await?);
        }
        Ok(ListImagesResponse { images })
    }

    pub(super) async fn image_status(&self, asked: ImageStatusRequest) -> Outcome<ImageStatusResponse> {
        let image = self.image(&named(asked.image)?).await?;
        Ok(ImageStatusResponse { image, ..ImageStatusResponse::default() })
    }

    pub(super) async fn pull_image(&self, asked: PullImageRequest) -> Outcome<PullImageResponse> {
        let reference = named(asked.image)?;
        let credentials = credentials(asked.auth)?;
        let pull = PullRequest { reference: reference.clone(), all_tags: false, platform: None, credentials };
        let mut reports = self.engine().image_pull(pull).await.map_err(refused)?;
        while let Some(report) = reports.next().await {
            report.map_err(refused)?;
        }
        let image = self.image(&reference).await?;
        let image =
            image.ok_or_else(|| Status::unknown(format!("image {reference:?} is not there after it was pulled")))?;
        Ok(PullImageResponse { image_ref: image.id })
    }

    pub(super) async fn remove_image(&self, asked: RemoveImageRequest) -> Outcome<RemoveImageResponse> {
        if let Some(image) = self.image(&named(asked.image)?).await? {
            self.0.runtime.remove_image(&image.id).await.map_err(status)?;
        }
        Ok(RemoveImageResponse {})
    }

    pub(super) async fn image_fs_info(&self, _: ImageFsInfoRequest) -> Outcome<ImageFsInfoResponse> {
        let used = self.engine().disk_usage().await.map_err(refused)?.layers_bytes;
        let usage = FilesystemUsage {
            timestamp: now(),
            fs_id: Some(self.filesystem()),
            used_bytes: Some(UInt64Value { value: used }),
            inodes_used: Some(UInt64Value { value: 0 }),
        };
        Ok(ImageFsInfoResponse { image_filesystems: vec![usage.clone()], container_filesystems: vec![usage] })
    }

    pub(super) fn filesystem(&self) -> FilesystemIdentifier {
        FilesystemIdentifier { mountpoint: self.engine().config().root.to_string_lossy().into_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_is_said_in_two_ways() {
        let check = |username: &str, auth: &str| {
            let auth = AuthConfig {
                username: username.into(),
                password: "p".into(),
                auth: auth.into(),
                ..AuthConfig::default()
            };
            credentials(Some(auth))
                .map(|found| format!("{}:{}", found.username, found.password))
                .map_err(|error| error.code())
        };
        assert_eq!(check("u", "").unwrap(), "u:p");
        assert_eq!(check("", "dTpzZWNyZXQ=").unwrap(), "u:secret");
        for bad in ["!", "dQ=="] {
            assert_eq!(check("", bad), Err(tonic::Code::InvalidArgument), "{bad}");
        }
        let auth = AuthConfig { password: "hidden".into(), ..AuthConfig::default() };
        assert!(!format!("{auth:?}").contains("hidden"));
    }

    #[test]
    fn an_images_user_is_a_number_or_a_name() {
        assert_eq!(user("1000:5"), (Some(Int64Value { value: 1000 }), String::new()));
        assert_eq!(user("www"), (None, "www".to_owned()));
        assert_eq!(user(""), (None, String::new()));
        assert_eq!(canonical("busybox:1"), "docker.io/library/busybox:1");
    }
}
