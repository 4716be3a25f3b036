//! The kubelet's folder for device plugins: who is in it, and when that changes.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use tokio::io::unix::AsyncFd;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// How often a folder that is not there is looked for.
const ABSENT: Duration = Duration::from_millis(250);
/// How the names of this plugin's sockets begin and end.
const PREFIX: &str = "atoll-";
const SUFFIX: &str = ".sock";

/// One life of a socket: another one in its place differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SocketId {
    device: u64,
    inode: u64,
    /// Inode numbers are given again.
    modified: (i64, i64),
}

impl SocketId {
    /// Of the socket at `path`, if there is one.
    pub fn of(path: &Path) -> Option<Self> {
        let data = std::fs::metadata(path).ok().filter(|data| data.file_type().is_socket())?;
        Some(Self { device: data.dev(), inode: data.ino(), modified: (data.mtime(), data.mtime_nsec()) })
    }
}

/// A name for a socket of this plugin that none has had.
///
/// The kubelet (1.37) that is told a name which it is still connected to forgets the older connection in one of its two
/// tables only, and from then on refuses the name until it restarts. So no name is used twice.
pub(super) fn new_name() -> String {
    format!("{PREFIX}{:08x}{SUFFIX}", rand::random::<u32>())
}

/// Removes sockets that this plugin left behind when it was killed. Another one that runs beside it, as during an
/// update, answers and is left alone.
pub(super) async fn remove_abandoned(dir: &Path) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX));
        let refused = async || {
            let connected = UnixStream::connect(entry.path()).await;
            connected.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        };
        if ours && refused().await {
            // Whoever was quicker did the same.
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Counts up whenever something may have changed in `dir`, which need not be there and may be replaced.
pub(super) fn follow(dir: PathBuf, stop: CancellationToken) -> io::Result<watch::Receiver<u64>> {
    // What takes its place is unsafe, because a caller may close or replace the descriptor; an OwnedFd that only
    // `events` has is neither.
    #[expect(deprecated, reason = "the safe way")]
    let events = AsyncFd::new(inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC)?)?;
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        let mut watched = None;
        loop {
            let now = arm(&events, &dir);
            if now != watched {
                // What happened before it was watched was not seen.
                sender.send_modify(|count| *count += 1);
                if let Some(old) = watched {
                    // The kernel has removed it already when the folder is gone, and not when it was moved.
                    let _ = inotify::remove_watch(events.get_ref(), old);
                }
                watched = now;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                drained = drain(&events) => match drained {
                    Ok(()) => sender.send_modify(|count| *count += 1),
                    Err(error) => {
                        tracing::warn!(%error, "cannot read what changed in the folder of device plugins");
                        tokio::time::sleep(ABSENT).await;
                    }
                },
                () = tokio::time::sleep(ABSENT), if watched.is_none() => {}
            }
        }
    });
    Ok(receiver)
}

/// Watches the folder that is at `dir` now; the same number again for the same folder.
fn arm(events: &AsyncFd<OwnedFd>, dir: &Path) -> Option<i32> {
    let what = WatchFlags::CREATE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_TO
        | WatchFlags::MOVED_FROM
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ONLYDIR;
    inotify::add_watch(events.get_ref(), dir, what).ok()
}

/// Waits for events and throws away what they say: everybody looks at the folder itself.
async fn drain(events: &AsyncFd<OwnedFd>) -> io::Result<()> {
    let mut guard = events.readable().await?;
    let mut buffer = [0u8; 4096];
    loop {
        match guard.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?)) {
            Ok(read) => drop(read?),
            Err(_) => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    async fn changed(receiver: &mut watch::Receiver<u64>) {
        tokio::time::timeout(Duration::from_secs(10), receiver.changed()).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn changes_are_seen_also_after_the_folder_was_replaced() {
        let base = tempfile::tempdir().unwrap();
        let dir = base.path().join("plugins");
        let stop = CancellationToken::new();
        let mut changes = follow(dir.clone(), stop.clone()).unwrap();
        for _ in 0..2 {
            std::fs::create_dir(&dir).unwrap();
            changed(&mut changes).await;
            std::fs::write(dir.join("file"), "").unwrap();
            changed(&mut changes).await;
            std::fs::remove_dir_all(&dir).unwrap();
            changed(&mut changes).await;
        }
        stop.cancel();
    }

    #[tokio::test]
    async fn only_abandoned_sockets_of_our_own_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        drop(UnixListener::bind(path("atoll-old.sock")).unwrap());
        drop(UnixListener::bind(path("other.sock")).unwrap());
        let _alive = UnixListener::bind(path("atoll-alive.sock")).unwrap();
        remove_abandoned(dir.path()).await;
        let left = ["atoll-old.sock", "other.sock", "atoll-alive.sock"].map(|name| path(name).exists());
        assert_eq!(left, [false, true, true]);
    }

    #[test]
    fn a_socket_in_place_of_another_differs() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("kubelet.sock");
        assert_eq!(SocketId::of(&path), None);
        let first = UnixListener::bind(&path).unwrap();
        let id = SocketId::of(&path);
        assert!(id.is_some());
        assert_eq!(SocketId::of(&path), id);
        std::fs::remove_file(&path).unwrap();
        let _second = UnixListener::bind(&path).unwrap();
        assert_ne!(SocketId::of(&path), id);
        drop(first);
    }
}
