//! The two primitives of the object store, and the chains, manifest and heartbeats that stand on them.
