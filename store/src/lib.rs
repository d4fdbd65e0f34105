//! The two primitives of the object store, and the chains, manifest and heartbeats that stand on them.
//!
//! Nothing above this crate knows which store it runs on, and nothing in it knows what the objects mean:
//!
//! ```text
//!            chain · manifest · heartbeat                what Driftline keeps
//!                        │
//!        create-if-absent · replace-if · get …           Store: retries, and what ambiguous answers meant
//!                        │
//!      metered → failing (tests) → S3 · GCS · Azure · local disk · memory
//! ```
//!
//! The one rule: after any answer that is not a plain success the writer reads the object under that name and adopts
//! what it says. So two live writers, zombies and answers lost on the way are harmless.
mod error;
mod object;
pub mod paths;

mod create;
mod open;
mod probe;
mod replace;
mod retry;
mod store;

pub mod boundary;
pub mod chain;
mod footer;
pub mod heartbeat;
pub mod manifest;

mod clock;
pub mod failing;
mod local;
mod metered;
mod operation;
mod patient;

pub use boundary::Boundary;
pub use chain::{Appended, Chain};
pub use create::Created;
pub use error::{Disposition, Error};
pub use failing::{Fault, FaultPlan};
pub use heartbeat::{Heartbeat, rendezvous};
pub use manifest::{ChainRef, Manifest, TopicIncarnation, TopicKind};
pub use metered::SECONDS;
pub use object::{Listed, Meta, Object, Version};
pub use operation::Operation;
pub use paths::{chain_name, decode_segment, encode_segment};
pub use replace::{Expected, Replaced};
pub use retry::RetryPolicy;
pub use store::Store;
