//! The names that an image's parts go by: OCI's, or Docker's own, which registries and tools from before OCI read.

pub(crate) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MediaTypes {
    #[default]
    Oci,
    /// Of manifests of version 2, schema 2.
    Docker,
}

impl MediaTypes {
    pub(crate) fn manifest(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.manifest.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.v2+json",
        }
    }

    pub(crate) fn index(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.index.v1+json",
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
        }
    }

    pub(crate) fn config(self) -> &'static str {
        match self {
            Self::Oci => "application/vnd.oci.image.config.v1+json",
            Self::Docker => "application/vnd.docker.container.image.v1+json",
        }
    }

    /// The name of a layer that OCI calls `oci`. Docker has none for what is packed with zstd.
    pub(crate) fn layer(self, oci: &str) -> Option<String> {
        match (self, oci.strip_prefix(LAYER)?) {
            (Self::Oci, _) => Some(oci.to_owned()),
            (Self::Docker, "") => Some("application/vnd.docker.image.rootfs.diff.tar".to_owned()),
            (Self::Docker, "+gzip") => Some("application/vnd.docker.image.rootfs.diff.tar.gzip".to_owned()),
            (Self::Docker, _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_has_names_for_what_it_knows() {
        let names = |suffix: &str| {
            let oci = format!("{LAYER}{suffix}");
            (MediaTypes::Oci.layer(&oci) == Some(oci.clone()), MediaTypes::Docker.layer(&oci))
        };
        assert_eq!(names(""), (true, Some("application/vnd.docker.image.rootfs.diff.tar".into())));
        assert_eq!(names("+gzip"), (true, Some("application/vnd.docker.image.rootfs.diff.tar.gzip".into())));
        assert_eq!(names("+zstd"), (true, None));
        assert_eq!(MediaTypes::Oci.layer("application/vnd.in-toto+json"), None);
    }
}
