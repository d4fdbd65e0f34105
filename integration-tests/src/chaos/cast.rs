//! The processes of a world: several builds and roles, each with its own door to the store; they are killed, frozen, and added to.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rand::Rng;
use rand::rngs::StdRng;

use super::proxy::{Door, Proxy, Side};
use crate::sandbox::{Process, Sandbox};

/// What processes do: roles alone, and several in one.
const KINDS: [&str; 6] = [
    "collector",
    "aggregator",
    "evaluator",
    "collector,aggregator,evaluator",
    "collector,aggregator",
    "aggregator,evaluator",
];
/// A world never has more processes at once.
const ACTORS_MAX: usize = 7;
/// The number of the signal that asks a process to end.
const SIGTERM: i32 = 15;
/// A process that is asked to end drains for half a minute at the most; the rest is for a busy machine.
const ENDS_WITHIN: Duration = Duration::from_secs(75);
/// A killed process starts again after so many milliseconds.
pub(super) const REBIRTH_MILLIS: std::ops::Range<u64> = 100..2_500;

/// One process through all its lives.
#[derive(Debug)]
struct Actor {
    name: String,
    roles: &'static str,
    binary: PathBuf,
    door: Option<Door>,
    state: State,
    /// Deaths by a door that were seen.
    killed_at_door: u64,
}

#[derive(Debug)]
enum State {
    Lives(Process),
    /// Stopped by SIGSTOP until then.
    Frozen(Process, Instant),
    /// Starts again then.
    Dead(Instant),
}

/// All processes of a world.
#[derive(Debug)]
pub struct Cast {
    actors: Vec<Actor>,
    proxy: Option<Proxy>,
    builds: Vec<PathBuf>,
    born: usize,
}

/// Deaths that a look at the cast has found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deaths {
    /// By a door, at a write.
    pub at_writes: u64,
}

impl Cast {
    /// Nobody yet. Processes run the `builds` in turn, and reach the store through the proxy if there is one.
    pub fn new(builds: Vec<PathBuf>, proxy: Option<Proxy>) -> Self {
        Cast { actors: Vec::new(), proxy, builds, born: 0 }
    }

    /// Adds one process of each role, and of some that do several.
    pub async fn open(&mut self, sandbox: &Sandbox) -> Result<()> {
        for roles in &KINDS[..4] {
            self.add(sandbox, roles).await?;
        }
        Ok(())
    }

    /// Adds a process of some kind; `false` if there are enough.
    pub async fn scale_out(&mut self, sandbox: &Sandbox, rng: &mut StdRng) -> Result<bool> {
        if self.actors.len() >= ACTORS_MAX {
            return Ok(false);
        }
        let roles = KINDS[rng.random_range(0..KINDS.len())];
        self.add(sandbox, roles).await?;
        Ok(true)
    }

    async fn add(&mut self, sandbox: &Sandbox, roles: &'static str) -> Result<()> {
        self.born += 1;
        let binary = self.builds[self.born % self.builds.len()].clone();
        let door = match &self.proxy {
            Some(proxy) => Some(proxy.open().await?),
            None => None,
        };
        let name = format!("{}-{}", roles.replace(',', "+"), self.born);
        let state = State::Dead(Instant::now());
        let mut actor = Actor { name, roles, binary, door, state, killed_at_door: 0 };
        actor.start(sandbox)?;
        self.actors.push(actor);
        Ok(())
    }

    /// Asks a process to end, unless it is the last that does something; `false` then. It must drain and end with 0.
    pub async fn scale_in(&mut self, rng: &mut StdRng) -> Result<bool> {
        let spare: Vec<usize> = (0..self.actors.len()).filter(|at| self.is_spare(*at)).collect();
        if spare.is_empty() {
            return Ok(false);
        }
        let actor = self.actors.remove(spare[rng.random_range(0..spare.len())]);
        actor.end().await.map(|()| true)
    }

    /// Whether all that a living process does is done by another one that lives, too.
    fn is_spare(&self, at: usize) -> bool {
        let others = || self.actors.iter().enumerate().filter(move |(other, _)| *other != at).map(|(_, actor)| actor);
        matches!(self.actors[at].state, State::Lives(_))
            && self.actors[at].roles.split(',').all(|role| {
                others()
                    .any(|other| matches!(other.state, State::Lives(_)) && other.roles.split(',').any(|r| r == role))
            })
    }

    /// SIGKILL to some process that lives.
    pub async fn kill(&mut self, rng: &mut StdRng) -> Result<bool> {
        let Some(at) = self.pick(rng) else { return Ok(false) };
        let back = Instant::now() + Duration::from_millis(rng.random_range(REBIRTH_MILLIS));
        self.actors[at].kill(back).await?;
        Ok(true)
    }

    /// SIGKILL to all that read from Kafka, frozen ones too; how many there were. They come back at `back`.
    pub async fn kill_collectors(&mut self, back: Instant) -> Result<u64> {
        let mut killed = 0;
        for actor in self.actors.iter_mut().filter(|actor| actor.roles.contains("collector")) {
            killed += u64::from(actor.kill(back).await?);
        }
        Ok(killed)
    }

    /// The dead come back then.
    pub fn raise(&mut self, back: Instant) {
        for actor in &mut self.actors {
            if let State::Dead(at) = &mut actor.state {
                *at = back;
            }
        }
    }

    /// The next writes of some process are counted, and it dies at one of them.
    pub fn kill_at_write(&mut self, rng: &mut StdRng, nth: u64, side: Side) -> bool {
        let Some(at) = self.pick(rng) else { return false };
        let actor = &self.actors[at];
        let (Some(door), State::Lives(process)) = (&actor.door, &actor.state) else { return false };
        let Some(id) = process.id() else { return false };
        door.kill_at(id, nth, side);
        true
    }

    /// SIGSTOP to some process until then.
    pub async fn freeze(&mut self, rng: &mut StdRng, until: Instant) -> Result<bool> {
        let Some(at) = self.pick(rng) else { return Ok(false) };
        let actor = &mut self.actors[at];
        actor.state = match std::mem::replace(&mut actor.state, State::Dead(until)) {
            State::Lives(process) => {
                process.signal("STOP").await?;
                State::Frozen(process, until)
            }
            other => other,
        };
        Ok(true)
    }

    /// Continues those whose time has come, lets the dead live again, and finds those that died at a door.
    ///
    /// # Errors
    /// A process has ended by itself.
    pub async fn look(&mut self, sandbox: &Sandbox, rng: &mut StdRng) -> Result<Deaths> {
        let (now, mut deaths) = (Instant::now(), Deaths::default());
        for actor in &mut self.actors {
            if let State::Lives(process) = &mut actor.state
                && process.has_ended()?
            {
                let by_door = actor.door.as_ref().map_or(0, Door::killed);
                if by_door == actor.killed_at_door {
                    bail!("{} ended by itself:\n{}", actor.name, process.log());
                }
                actor.killed_at_door = by_door;
                deaths.at_writes += 1;
                let back = now + Duration::from_millis(rng.random_range(REBIRTH_MILLIS));
                actor.state = State::Dead(back);
            }
            match &actor.state {
                State::Frozen(_, until) if *until <= now => actor.thaw().await?,
                State::Dead(back) if *back <= now => actor.start(sandbox)?,
                _ => {}
            }
        }
        Ok(deaths)
    }

    /// Everything goes on: no plan to kill holds, the frozen continue, the dead live again.
    pub async fn heal(&mut self, sandbox: &Sandbox, rng: &mut StdRng) -> Result<Deaths> {
        for actor in &mut self.actors {
            actor.door.as_ref().map(Door::spare);
        }
        // A kill that was under way when it was taken back has shown by now.
        tokio::time::sleep(Duration::from_millis(100)).await;
        let deaths = self.look(sandbox, rng).await?;
        for actor in &mut self.actors {
            match actor.state {
                State::Frozen(..) => actor.thaw().await?,
                State::Dead(_) => actor.start(sandbox)?,
                State::Lives(_) => {}
            }
        }
        Ok(deaths)
    }

    /// Asks all to end, which must drain and end with 0.
    pub async fn end(&mut self) -> Result<()> {
        let ends = std::mem::take(&mut self.actors).into_iter().map(Actor::end);
        for ended in futures::future::join_all(ends).await {
            ended?;
        }
        Ok(())
    }

    /// Whether somebody is frozen.
    pub fn has_frozen(&self) -> bool {
        self.actors.iter().any(|actor| matches!(actor.state, State::Frozen(..)))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.actors.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.actors.is_empty()
    }

    /// The ends of all logs, for a failure's report.
    pub fn logs(&self) -> String {
        let log = |actor: &Actor| match &actor.state {
            State::Lives(process) | State::Frozen(process, _) => format!("--- {}\n{}\n", actor.name, process.log()),
            State::Dead(_) => format!("--- {} is dead\n", actor.name),
        };
        self.actors.iter().map(log).collect()
    }

    fn pick(&self, rng: &mut StdRng) -> Option<usize> {
        let living: Vec<usize> =
            (0..self.actors.len()).filter(|at| matches!(self.actors[*at].state, State::Lives(_))).collect();
        (!living.is_empty()).then(|| living[rng.random_range(0..living.len())])
    }
}

impl Actor {
    fn start(&mut self, sandbox: &Sandbox) -> Result<()> {
        let door = self.door.as_ref().map(|door| ("DRIFTLINE__STORE__OPTIONS__ENDPOINT_URL", door.endpoint.as_str()));
        let variables: Vec<(&str, &str)> = door.into_iter().collect();
        let arguments = ["run", "--roles", self.roles];
        let process = sandbox.spawn_build(&self.binary, &self.name, &arguments, &variables)?;
        self.state = State::Lives(process);
        Ok(())
    }

    async fn thaw(&mut self) -> Result<()> {
        self.state = match std::mem::replace(&mut self.state, State::Dead(Instant::now())) {
            State::Frozen(process, _) => {
                process.signal("CONT").await?;
                State::Lives(process)
            }
            other => other,
        };
        Ok(())
    }

    /// Whether it was alive.
    async fn kill(&mut self, back: Instant) -> Result<bool> {
        self.door.as_ref().map(Door::spare);
        match std::mem::replace(&mut self.state, State::Dead(back)) {
            State::Lives(process) | State::Frozen(process, _) => {
                process.kill().await.with_context(|| self.name.clone())?;
                self.killed_at_door = self.door.as_ref().map_or(0, Door::killed);
                Ok(true)
            }
            State::Dead(_) => Ok(false),
        }
    }

    async fn end(self) -> Result<()> {
        let name = self.name;
        match self.state {
            State::Lives(mut process) => {
                process.signal("TERM").await?;
                let status = process.wait(ENDS_WITHIN).await.with_context(|| format!("end {name}"))?;
                // A process that has only just been started knows no signals yet, and has nothing to drain.
                let is_unborn = !process.has_begun() && status.signal() == Some(SIGTERM);
                ensure!(
                    is_unborn || status.code() == Some(0),
                    "SIGTERM ended {name} with {status}:\n{}",
                    process.log()
                );
                Ok(())
            }
            State::Frozen(..) => bail!("{name} is frozen"),
            State::Dead(_) => Ok(()),
        }
    }
}
