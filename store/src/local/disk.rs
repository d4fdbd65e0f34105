//! The blocking half of the local store: files, links, locks and syncs.
//!
//! What makes a version differ after every replacement: the new file's time of change is set to be later than the old
//! one's, under the lock. Inode and size may come again, and two writes may fall into one tick of the kernel's clock; a
//! time that only goes forward cannot come again.
use std::{
    fs::{self, File, Metadata, OpenOptions, TryLockError},
    io::{self, ErrorKind, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

use object_store::PutPayload;
use uuid::Uuid;

use crate::clock;

pub(super) const STAGING: &str = ".staging";
pub(super) const LOCKS: &str = ".locks";

/// A staging file lives for the seconds that its write and sync take. Shorter: a slow writer loses its file and starts
/// again. Longer: what a killed process left stays longer.
const STAGING_STALE: Duration = Duration::from_secs(3600);

/// How much later a new file is made than the one it replaces, until the disk can tell the difference: some keep
/// seconds only.
const STEPS: [Duration; 4] =
    [Duration::from_micros(1), Duration::from_millis(1), Duration::from_secs(1), Duration::from_secs(2)];

#[derive(Debug)]
pub(super) struct Disk {
    root: PathBuf,
}

pub(super) enum Replaced {
    Done(String),
    Conflict,
}

/// A file that is written and synced and has no name yet. It is removed if it never gets one.
pub(super) struct Staged {
    file: File,
    path: PathBuf,
}

impl Drop for Staged {
    fn drop(&mut self) {
        let _renamed_or_removed = fs::remove_file(&self.path);
    }
}

impl Disk {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// Gives the bytes the name if none has it; `AlreadyExists` if one has.
    pub(super) fn create(&self, payload: &PutPayload, name: &Path) -> io::Result<String> {
        if fs::symlink_metadata(name).is_ok() {
            return Err(ErrorKind::AlreadyExists.into()); // saves the loser writing and syncing a file
        }
        let staged = self.stage(payload)?;
        let etag = etag_of(&staged.file.metadata()?);
        let folder = folder_of(name)?;
        make_folders(folder)?;
        fs::hard_link(&staged.path, name).map_err(explain_link)?;
        sync_folder(folder)?;
        Ok(etag)
    }

    /// Writes and syncs the bytes outside the tables.
    pub(super) fn stage(&self, payload: &PutPayload) -> io::Result<Staged> {
        let folder = self.root.join(STAGING);
        make_folders(&folder)?;
        let path = folder.join(Uuid::new_v4().to_string());
        let mut staged = Staged { file: OpenOptions::new().write(true).create_new(true).open(&path)?, path };
        for part in payload {
            staged.file.write_all(part)?;
        }
        staged.file.set_modified(clock::now())?;
        staged.file.sync_all()?;
        Ok(staged)
    }

    /// Gives a staged file the name, if the present one has the `expected` version (`None`: whatever is there).
    pub(super) fn replace(
        &self,
        staged: Staged,
        name: &Path,
        expected: Option<&str>,
        shard: u64,
        wait: Duration,
    ) -> io::Result<Replaced> {
        let folder = folder_of(name)?;
        if expected.is_none() {
            make_folders(folder)?;
        }
        let lock = self.lock(shard, wait)?;
        let present = metadata_of(name)?;
        if expected.is_some() && present.as_ref().map(etag_of).as_deref() != expected {
            return Ok(Replaced::Conflict);
        }
        if let Some(present) = present {
            make_later(&staged.file, present.modified()?)?;
        }
        let etag = etag_of(&staged.file.metadata()?);
        fs::rename(&staged.path, name)?;
        drop(lock);
        sync_folder(folder)?;
        Ok(Replaced::Done(etag))
    }

    /// Takes the name away. Under the lock, lest a replacement that has just compared brings it back.
    pub(super) fn remove(&self, name: &Path, shard: u64, wait: Duration) -> io::Result<()> {
        if metadata_of(name)?.is_none() {
            return Err(ErrorKind::NotFound.into());
        }
        let lock = self.lock(shard, wait)?;
        fs::remove_file(name)?;
        drop(lock);
        sync_folder(folder_of(name)?)
    }

    /// Waits for the lock of a shard. The kernel releases it when the file is closed, so also when the process is killed.
    fn lock(&self, shard: u64, wait: Duration) -> io::Result<File> {
        let folder = self.root.join(LOCKS);
        make_folders(&folder)?;
        let path = folder.join(format!("{shard:02}"));
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        let started = Instant::now();
        let mut pause = Duration::from_micros(100);
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::Error(error)) => return Err(error),
                Err(TryLockError::WouldBlock) if started.elapsed() >= wait => {
                    let text = format!(
                        "waited {wait:?} for the lock on {LOCKS}/{shard:02}; is a process stopped that holds it?"
                    );
                    return Err(io::Error::new(ErrorKind::TimedOut, text));
                }
                Err(TryLockError::WouldBlock) => thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Removes staging files that nobody can be writing any more. What cannot be removed is left to the next start.
    pub(super) fn clear_stale_staging(&self) {
        let Ok(entries) = fs::read_dir(self.root.join(STAGING)) else { return };
        let stale_before = clock::now() - STAGING_STALE;
        for entry in entries.flatten() {
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            if modified.is_ok_and(|modified| modified < stale_before) {
                let _left_to_the_next_start = fs::remove_file(entry.path());
            }
        }
    }
}

/// The version of a file, in object_store's words, for a version that was read there is compared here.
fn etag_of(metadata: &Metadata) -> String {
    let modified = metadata.modified().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let micros = modified.unwrap_or_default().as_micros();
    format!("{:x}-{micros:x}-{:x}", inode_of(metadata), metadata.len())
}

#[cfg(unix)]
fn inode_of(metadata: &Metadata) -> u64 {
    std::os::unix::fs::MetadataExt::ino(metadata)
}

#[cfg(not(unix))]
fn inode_of(_: &Metadata) -> u64 {
    0
}

/// Sees to it that a file's time of change is later than `earlier`, as the disk keeps it and in whole microseconds.
fn make_later(file: &File, earlier: SystemTime) -> io::Result<()> {
    let micros = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros();
    for step in STEPS {
        if micros(file.metadata()?.modified()?) > micros(earlier) {
            return Ok(());
        }
        file.set_modified(earlier + step)?;
        file.sync_all()?;
    }
    if micros(file.metadata()?.modified()?) > micros(earlier) {
        return Ok(());
    }
    Err(io::Error::new(ErrorKind::Unsupported, "the disk keeps no time of change, so versions cannot be told apart"))
}

fn metadata_of(name: &Path) -> io::Result<Option<Metadata>> {
    match fs::metadata(name) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn folder_of(name: &Path) -> io::Result<&Path> {
    name.parent().ok_or_else(|| io::Error::new(ErrorKind::InvalidInput, "the name has no folder"))
}

/// Makes a folder and those above it, each one synced into the one that holds it.
pub(super) fn make_folders(folder: &Path) -> io::Result<()> {
    if folder.is_dir() {
        return Ok(());
    }
    let above = folder_of(folder)?;
    make_folders(above)?;
    match fs::create_dir(folder) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && folder.is_dir() => {}
        made => made?,
    }
    sync_folder(above)
}

/// Makes links, renames and removals in a folder outlive a crash of the machine.
#[cfg(unix)]
fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(not(unix))]
fn sync_folder(_: &Path) -> io::Result<()> {
    Ok(()) // a folder cannot be opened as a file there
}

/// Disks without hard links (FAT, some network mounts) refuse them as if permission were missing.
fn explain_link(error: io::Error) -> io::Error {
    match error.kind() {
        ErrorKind::PermissionDenied | ErrorKind::Unsupported => {
            io::Error::new(ErrorKind::Unsupported, format!("the file system refuses hard links: {error}"))
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk() -> (tempfile::TempDir, Disk) {
        let folder = tempfile::tempdir().unwrap();
        let disk = Disk::new(folder.path().to_path_buf());
        (folder, disk)
    }

    #[test]
    fn a_version_never_comes_again_even_if_the_clock_goes_back() {
        let (_folder, disk) = disk();
        let name = disk.root().join("t/x");
        let mut seen = std::collections::BTreeSet::from([disk.create(&"0".into(), &name).unwrap()]);
        for round in 0..50 {
            let staged = disk.stage(&"0".into()).unwrap();
            if round % 2 == 0 {
                staged.file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1)).unwrap();
            }
            let Replaced::Done(etag) = disk.replace(staged, &name, None, 0, Duration::ZERO).unwrap() else { panic!() };
            assert!(seen.insert(etag));
        }
    }

    #[test]
    fn a_held_lock_is_waited_for_and_not_for_ever() {
        let (_folder, disk) = disk();
        let held = disk.lock(7, Duration::ZERO).unwrap();
        assert_eq!(disk.lock(7, Duration::from_millis(20)).unwrap_err().kind(), ErrorKind::TimedOut);
        assert!(disk.lock(8, Duration::ZERO).is_ok());
        let wait = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            drop(held);
        });
        assert!(disk.lock(7, Duration::from_secs(10)).is_ok());
        wait.join().unwrap();
    }

    #[test]
    fn only_stale_staging_files_are_cleared_and_used_ones_leave_none() {
        let (_folder, disk) = disk();
        let names = || fs::read_dir(disk.root().join(STAGING)).unwrap().count();
        disk.create(&"x".into(), &disk.root().join("a")).unwrap();
        assert!(disk.create(&"y".into(), &disk.root().join("a")).is_err());
        assert_eq!(names(), 0);
        let (stale, fresh) = (disk.stage(&"".into()).unwrap(), disk.stage(&"".into()).unwrap());
        stale.file.set_modified(clock::now() - 2 * STAGING_STALE).unwrap();
        disk.clear_stale_staging();
        assert!(!stale.path.exists() && fresh.path.exists());
        assert!(fs::hard_link(&stale.path, disk.root().join("b")).is_err(), "its writer notices");
    }
}
