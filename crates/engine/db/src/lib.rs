//! The one transactional database of the engine: typed tables, group commit, nothing acknowledged before it is durable.
