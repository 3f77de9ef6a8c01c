//! `docker cp`.

use std::sync::Arc;

use super::{Container, Inner};
use crate::stream::Body;
use crate::{ByteStream, Error, PathStat, Result};

#[derive(Debug, Clone, Copy)]
pub(crate) struct PutOptions {
    pub(crate) no_overwrite_dir_non_dir: bool,
    pub(crate) copy_uid_gid: bool,
}

impl Inner {
    pub(crate) fn archive_stat(&self, _container: &Container, _path: &str) -> Result<PathStat> {
        Err(Error::Unsupported("copying files is not supported by this build".into()))
    }

    pub(crate) async fn archive_get(
        self: &Arc<Self>,
        _container: &Arc<Container>,
        _path: &str,
    ) -> Result<(PathStat, ByteStream)> {
        Err(Error::Unsupported("copying files is not supported by this build".into()))
    }

    pub(crate) fn archive_put(
        &self,
        _container: &Container,
        _path: &str,
        _options: PutOptions,
        _body: Body,
    ) -> Result<()> {
        Err(Error::Unsupported("copying files is not supported by this build".into()))
    }
}
