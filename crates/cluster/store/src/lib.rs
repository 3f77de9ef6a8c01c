//! etcd's data model: one revision counter, ranges, transactions, watches, leases, compaction.
