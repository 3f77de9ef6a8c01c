//! The kinds that parts of the cluster read and write.

use client::Gvr;

macro_rules! kinds {
    ($($name:ident: $group:literal $version:literal $plural:literal $kind:literal;)*) => {
        /// A kind of object.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Kind {
            $($name,)*
        }

        impl Kind {
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            pub const fn gvr(self) -> Gvr {
                match self {
                    $(Self::$name => Gvr::new($group, $version, $plural),)*
                }
            }

            /// As `kind` in an object.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $kind,)*
                }
            }

            /// As `apiVersion` in an object.
            pub fn api_version(self) -> String {
                match self {
                    $(Self::$name => if $group.is_empty() { $version.into() } else { concat!($group, "/", $version).into() },)*
                }
            }
        }
    };
}

kinds! {
    Pod: "" "v1" "pods" "Pod";
    Node: "" "v1" "nodes" "Node";
    Namespace: "" "v1" "namespaces" "Namespace";
    Service: "" "v1" "services" "Service";
    Endpoints: "" "v1" "endpoints" "Endpoints";
    EndpointSlice: "discovery.k8s.io" "v1" "endpointslices" "EndpointSlice";
    ConfigMap: "" "v1" "configmaps" "ConfigMap";
    Secret: "" "v1" "secrets" "Secret";
    Claim: "" "v1" "persistentvolumeclaims" "PersistentVolumeClaim";
    Volume: "" "v1" "persistentvolumes" "PersistentVolume";
    StorageClass: "storage.k8s.io" "v1" "storageclasses" "StorageClass";
    CsiNode: "storage.k8s.io" "v1" "csinodes" "CSINode";
    ReplicationController: "" "v1" "replicationcontrollers" "ReplicationController";
    Deployment: "apps" "v1" "deployments" "Deployment";
    ReplicaSet: "apps" "v1" "replicasets" "ReplicaSet";
    StatefulSet: "apps" "v1" "statefulsets" "StatefulSet";
    DaemonSet: "apps" "v1" "daemonsets" "DaemonSet";
    ControllerRevision: "apps" "v1" "controllerrevisions" "ControllerRevision";
    Job: "batch" "v1" "jobs" "Job";
    CronJob: "batch" "v1" "cronjobs" "CronJob";
    HorizontalPodAutoscaler: "autoscaling" "v2" "horizontalpodautoscalers" "HorizontalPodAutoscaler";
    DisruptionBudget: "policy" "v1" "poddisruptionbudgets" "PodDisruptionBudget";
    NetworkPolicy: "networking.k8s.io" "v1" "networkpolicies" "NetworkPolicy";
    Lease: "coordination.k8s.io" "v1" "leases" "Lease";
}
