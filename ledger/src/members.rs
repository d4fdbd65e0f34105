//! Who shares the work. A wrong picture of who is alive wastes work, never correctness.
use std::sync::{Arc, RwLock};
use std::time::Duration;

use driftline_schemas::clock;
use driftline_store::{Heartbeat, Store, rendezvous};

/// A process that has not beaten for so long is taken for dead: shorter moves work sooner, longer spares the store.
pub const TTL: Duration = Duration::from_secs(15);
/// How often a process beats.
pub const BEAT: Duration = Duration::from_secs(4);

/// This process among the living.
#[derive(Debug)]
pub struct Members {
    me: String,
    roles: Vec<String>,
    living: RwLock<Vec<Heartbeat>>,
}

impl Members {
    /// A process that knows of nobody else yet.
    pub fn new(me: impl Into<String>, roles: Vec<String>) -> Arc<Self> {
        Arc::new(Self { me: me.into(), roles, living: RwLock::default() })
    }

    /// This process's name.
    pub fn me(&self) -> &str {
        &self.me
    }

    /// Whether this process is the one of its role that `key` falls to.
    pub fn is_mine(&self, role: &str, key: &str) -> bool {
        let living = self.living.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let with_role = living.iter().filter(|other| other.roles.iter().any(|r| r == role));
        let mut names: Vec<String> = with_role.map(|other| other.instance.clone()).collect();
        if !names.contains(&self.me) {
            names.push(self.me.clone());
        }
        rendezvous(key, &names) == Some(self.me.as_str())
    }

    /// Beats once and looks who else is alive. A store that does not answer leaves the picture as it was.
    pub async fn beat(&self, store: &Store, heartbeat: &mut Heartbeat) {
        let now = clock::now();
        if let Err(error) = heartbeat.beat(store, now).await {
            tracing::debug!(%error, "heartbeat not written");
            return;
        }
        match Heartbeat::living(store, now, TTL).await {
            Ok(living) => *self.living.write().unwrap_or_else(std::sync::PoisonError::into_inner) = living,
            Err(error) => tracing::debug!(%error, "heartbeats not read"),
        }
    }

    /// This process's first heartbeat.
    pub fn heartbeat(&self) -> Heartbeat {
        Heartbeat::new(&self.me, self.roles.clone(), env!("CARGO_PKG_VERSION"), clock::now())
    }
}
