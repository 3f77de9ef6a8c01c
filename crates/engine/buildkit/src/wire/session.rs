//! What we ask of a client: credentials, secrets, bytes.

use prost::Message;

/// The `BytesMessage` of FileSend, Upload, SSH and Control.Session alike.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Bytes {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: bytes::Bytes,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct CredentialsRequest {
    #[prost(string, tag = "1")]
    pub(crate) host: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Credentials {
    #[prost(string, tag = "1")]
    pub(crate) username: String,
    #[prost(string, tag = "2")]
    pub(crate) secret: String,
}

/// Of Secrets.GetSecret and SSH.CheckAgent.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct ById {
    #[prost(string, tag = "1")]
    pub(crate) id: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Secret {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) data: bytes::Bytes,
}
