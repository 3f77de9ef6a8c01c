//! Several machines as one cluster: tokens by which nodes join (`token`), what an agent is (`agent`), how it comes to its
//! certificates (`join`), the way to the pods of other nodes (`mesh`), what a pod's end asks of them (`leaving`), and the API over HTTPS for commands (`kubeconfig`).

pub mod agent;
pub mod join;
pub mod kubeconfig;
pub mod leaving;
pub mod mesh;
pub mod token;
