//! The harness tested: breaks of the product, planted from outside, each of which must turn a check red.
//!
//! `chaos/planted/*.patch` are small patches to the product's source. All are applied to a scratch copy and built once; each is asleep
//! until `DRIFTLINE_PLANTED` names it. Every check is run asleep first: it must be green, or its red would say nothing.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

/// Wakes the break of that name.
const PLANTED: &str = "DRIFTLINE_PLANTED";
/// Where the scratch copy is built; by default `planted` beside the profile's folder.
const TARGET: &str = "DRIFTLINE_PLANTED_TARGET";
/// A check that takes longer has stopped moving, which is red too. That of two writers takes a quarter of an hour of one core.
const CHECK_MAX: Duration = Duration::from_secs(1_800);
/// Seeds of a simulation: a break that shows in fewer shows in these.
const SEEDS: u64 = 200;

/// A break, and the check that has to catch it.
struct Break {
    /// Names the patch, and wakes it.
    name: &'static str,
    check: Check,
}

/// What is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    /// A test of `integration-tests`.
    Test(&'static str),
    /// So many seeds of the simulation.
    Simulation(u64),
}

const BREAKS: [Break; 10] = [
    Break { name: "overwrite", check: Check::Test("c3_two_writers_in_every_order_with_every_fault_leave_one_chain") },
    Break { name: "own-end", check: Check::Test("c3_two_writers_in_every_order_with_every_fault_leave_one_chain") },
    Break { name: "group-offsets", check: Check::Test("c4_group_offsets_sent_to_zero_and_to_the_end_change_nothing") },
    Break { name: "early-commit", check: Check::Simulation(SEEDS) },
    Break { name: "no-genesis", check: Check::Test("c1_a_chain_is_born_once_though_retention_moves_the_first_offset") },
    Break { name: "no-horizon", check: Check::Simulation(SEEDS) },
    Break { name: "older-revision", check: Check::Simulation(SEEDS) },
    Break { name: "resurrect", check: Check::Simulation(SEEDS) },
    Break { name: "no-index", check: Check::Simulation(SEEDS) },
    Break { name: "same-topic", check: Check::Test("c1_a_topic_created_again_while_it_is_read_starts_a_new_chain") },
];

impl std::fmt::Display for Check {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Check::Test(name) => f.write_str(name),
            Check::Simulation(seeds) => write!(f, "the simulation, {seeds} seeds at most"),
        }
    }
}

/// How a check ended.
struct Ended {
    is_green: bool,
    took: Duration,
    /// The line that says what was wrong.
    said: String,
}

/// Applies all breaks to a scratch copy of the last commit, builds it, and runs each break's check asleep and awake.
///
/// # Errors
/// A break was not caught, or a check is red without one.
pub async fn run(only: Option<&str>) -> Result<()> {
    let scratch = Scratch::make().await?;
    let wanted = |name: &str| only.is_none_or(|only| name.contains(only));
    let mut green: Vec<Check> = Vec::new();
    let (mut rows, mut missed) = (Vec::new(), Vec::new());
    for planted in BREAKS.iter().filter(|planted| wanted(planted.name)) {
        if !green.contains(&planted.check) {
            let ended = scratch.check(planted.check, None).await?;
            ensure!(ended.is_green, "{} is red without a break: {}", planted.check, ended.said);
            eprintln!("green without a break in {:.0} s: {}", ended.took.as_secs_f64(), planted.check);
            green.push(planted.check);
        }
        let ended = scratch.check(planted.check, Some(planted.name)).await?;
        let verdict = if ended.is_green { "NOT CAUGHT" } else { "caught" };
        rows.push(format!(
            "{:<16} {verdict:<10} {:>5.0} s  {}\n{:<35} {}",
            planted.name,
            ended.took.as_secs_f64(),
            planted.check,
            "",
            ended.said
        ));
        eprintln!("{}", rows.last().map_or("", String::as_str));
        if ended.is_green {
            missed.push(planted.name);
        }
    }
    println!("{:<16} {:<10} {:>7}  the check", "break", "", "");
    rows.iter().for_each(|row| println!("{row}"));
    ensure!(missed.is_empty(), "not caught: {}", missed.join(", "));
    Ok(())
}

/// A copy of the last commit with all breaks, and where it is built.
struct Scratch {
    folder: PathBuf,
    target: PathBuf,
}

impl Scratch {
    async fn make() -> Result<Self> {
        let own = std::env::current_exe().context("ask for the program's path")?;
        let profile = own.parent().context("a program lies in a folder")?;
        let beside = profile.parent().context("programs lie in target/<profile>")?.join("planted");
        let target = std::env::var_os(TARGET).map_or(beside, PathBuf::from);
        std::fs::create_dir_all(&target).context("make the target folder")?;
        let folder = target.join("source");
        if folder.exists() {
            git(&root(), &["worktree", "remove", "--force", text(&folder)?]).await?;
        }
        git(&root(), &["worktree", "add", "--detach", text(&folder)?, "HEAD"]).await?;
        for planted in &BREAKS {
            let patch = patches().join(format!("{}.patch", planted.name));
            git(&folder, &["apply", text(&patch)?]).await.with_context(|| planted.name.to_owned())?;
        }
        if !target.join("debug").exists() {
            eprintln!("copying {}, so that dependencies need not be built again", profile.display());
            let copied = Command::new("cp").arg("-a").arg(profile).arg(target.join("debug")).status().await;
            ensure!(copied.is_ok_and(|status| status.success()), "cp -a {}", profile.display());
        }
        let scratch = Scratch { folder, target };
        scratch.build().await?;
        Ok(scratch)
    }

    async fn build(&self) -> Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        // With all targets, as the folder that was copied was built: other features would build dependencies again.
        let built = Command::new(cargo)
            .args(["build", "--locked", "--workspace", "--all-targets"])
            .current_dir(&self.folder)
            .env("CARGO_TARGET_DIR", &self.target)
            .status()
            .await
            .context("run cargo build")?;
        ensure!(built.success(), "the broken copy does not build: {built}");
        Ok(())
    }

    async fn check(&self, check: Check, planted: Option<&str>) -> Result<Ended> {
        let debug = self.target.join("debug");
        let mut command = match check {
            Check::Simulation(seeds) => {
                let mut command = Command::new(debug.join("chaos"));
                command.args(["simulate", "--seed", "1", "--seeds", &seeds.to_string()]);
                command
            }
            Check::Test(name) => {
                let mut command = Command::new(newest_test(&debug)?);
                let test = format!("{}::{name}", module_of(name));
                // Some of the checks take minutes, and are left out of an ordinary run.
                command.args(["--exact", &test, "--include-ignored", "--nocapture"]);
                command
            }
        };
        command.env(PLANTED, planted.unwrap_or_default()).current_dir(self.folder.join("integration-tests"));
        command.stdin(Stdio::null()).kill_on_drop(true);
        let began = Instant::now();
        let Ok(output) = tokio::time::timeout(CHECK_MAX, command.output()).await else {
            return Ok(Ended { is_green: false, took: began.elapsed(), said: "nothing moved any more".to_owned() });
        };
        let output = output.context("run the check")?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let was_run = match check {
            Check::Test(_) => text.contains("1 passed") || text.contains("1 failed"),
            Check::Simulation(_) => text.contains("values equal the truth") || text.contains("repeat it: "),
        };
        ensure!(was_run && !text.contains("SKIPPED"), "{check} was not run:\n{text}");
        Ok(Ended { is_green: output.status.success(), took: began.elapsed(), said: verdict(&text) })
    }
}

/// The line of a failure that says most.
fn verdict(text: &str) -> String {
    let says = |line: &&str| ["FAILED: ", "Error: ", "differ", "panicked"].iter().any(|word| line.contains(word));
    let line = text.lines().find(says).unwrap_or_default();
    line.chars().take(160).collect()
}

/// The `it` binary of this package that was built last.
fn newest_test(debug: &Path) -> Result<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(debug.join("deps")).context("list the tests")? {
        let path = entry?.path();
        let is_it = path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("it-"));
        if is_it && path.extension().is_none() {
            // Every crate has a test of that name; ours is the one that knows the chaos tests.
            let listed = std::process::Command::new(&path).arg("--list").output().context("list a test's tests")?;
            if String::from_utf8_lossy(&listed.stdout).contains("chaos_interleavings::") {
                found.push((path.metadata()?.modified()?, path));
            }
        }
    }
    found.sort();
    found.pop().map(|(_, path)| path).context("there is no test binary")
}

/// The file of `tests/it` in which a test is.
fn module_of(test: &str) -> &'static str {
    match test {
        _ if test.starts_with("c4_group") => "chaos",
        _ if test.starts_with("c1_a_topic") => "chaos_topics",
        _ => "chaos_interleavings",
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn patches() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("chaos/planted")
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is text")
}

async fn git(folder: &Path, arguments: &[&str]) -> Result<()> {
    let output = Command::new("git").arg("-C").arg(folder).args(arguments).output().await.context("run git")?;
    ensure!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every patch is asleep until it is named, belongs to a break, and still fits the source.
    #[test]
    fn every_patch_fits_the_source_and_has_its_check() {
        let mut names: Vec<String> = std::fs::read_dir(patches())
            .unwrap()
            .map(|entry| entry.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        let mut expected: Vec<&str> = BREAKS.iter().map(|planted| planted.name).collect();
        expected.sort_unstable();
        assert_eq!(names, expected);
        let has_git = std::process::Command::new("git").arg("-C").arg(root()).arg("status").output();
        for name in names {
            let patch = patches().join(format!("{name}.patch"));
            let text = std::fs::read_to_string(&patch).unwrap();
            assert!(text.contains(PLANTED) && text.contains(&format!("\"{name}\"")), "{name} is always awake");
            if has_git.as_ref().is_ok_and(|output| output.status.success()) {
                let fits = std::process::Command::new("git")
                    .arg("-C")
                    .arg(root())
                    .args(["apply", "--check"])
                    .arg(&patch)
                    .output();
                let fits = fits.unwrap();
                assert!(fits.status.success(), "{name}: {}", String::from_utf8_lossy(&fits.stderr));
            }
        }
    }
}
