//! The one way to read a small file that somebody else provides: a secret, a certificate, a process number.
//!
//! Opening never waits for a pipe's other end and never takes a terminal, nothing but a regular file is read, and no more of it
//! than a limit. Links are followed (a mounted Secret is full of them) unless the caller opens the file itself; so a privileged
//! agent takes only what belongs to root or to itself and what not everybody can write to: through a link somebody could have
//! it read what he cannot.
//!
//! Everything here blocks.

use super::rights::privileged;
use crate::secret::Secret;
use rustix::{
    fs::{FileType, Mode, OFlags, Stat, fstat, open, stat},
    io::Errno,
    process::geteuid,
};
use std::{
    fs::File,
    io::{self, Read as _},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

/// A password, token or key has no more bytes.
const SECRET: u64 = 64 * 1024;
/// How such a file is opened.
pub(super) const FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::NONBLOCK)
    .union(OFlags::NOCTTY)
    .union(OFlags::CLOEXEC);

/// Why a file was not read. Display names it and the next step, and has nothing of its content.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not there, or not ours to read.
    #[error("{}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said; part of the text, because there is no better word for it.
        source: io::Error,
    },
    /// A pipe, a device, a directory.
    #[error("{}: is not a regular file; name one", path.display())]
    NotAFile {
        /// The file.
        path: PathBuf,
    },
    /// It goes on and on.
    #[error("{}: has more than {limit} bytes; is it the right file?", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// What it may have.
        limit: u64,
    },
    /// Somebody else could change what we read.
    #[error("{}: {what}, the agent is privileged; give it to root, writable for its owner only", path.display())]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// Whose it is, or who can write to it.
        what: String,
    },
    /// Others could read or change what only its owner should.
    #[error("{}: others may read or change it (mode {mode:04o}); chmod 600 {}", path.display(), path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// A secret of no bytes is a file that is still being written, or the wrong one.
    #[error("{}: is empty; write the secret into it", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// A secret is text.
    #[error("{}: is not UTF-8; is it the right file?", path.display())]
    NotText {
        /// The file.
        path: PathBuf,
    },
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// [`Error`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    read_with(path, limit, 0)
}

/// The same of a text that others must neither read nor change; its group may read it.
///
/// # Errors
/// [`Error`].
pub fn private(path: &Path, limit: u64) -> Result<String, Error> {
    let text = String::from_utf8(read_with(path, limit, 0o027)?);
    text.map_err(|_| Error::NotText {
        path: path.to_owned(),
    })
}

/// Reads a file whose mode has none of the bits of `closed`.
fn read_with(path: &Path, limit: u64, closed: u32) -> Result<Vec<u8>, Error> {
    let unreadable = |errno: Errno| Error::Unreadable {
        path: path.to_owned(),
        source: errno.into(),
    };
    let file = open(path, FLAGS, Mode::empty()).map_err(unreadable)?;
    let stat = fstat(&file).map_err(unreadable)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile && stat.st_mode & closed != 0
    {
        return Err(Error::Exposed {
            path: path.to_owned(),
            mode: stat.st_mode & 0o7777,
        });
    }
    let bytes = rest(file, &stat, path, limit)?;
    if privileged() {
        let not_ours = |what| Error::NotOurs {
            path: path.to_owned(),
            what,
        };
        if stat.st_uid != 0 && stat.st_uid != geteuid().as_raw() {
            return Err(not_ours(format!("belongs to user {}", stat.st_uid)));
        }
        if stat.st_mode & 0o002 != 0 {
            return Err(not_ours("everybody can write to it".to_owned()));
        }
    }
    Ok(bytes)
}

/// What a file that was opened with [`FLAGS`] holds.
pub(super) fn rest(file: OwnedFd, stat: &Stat, path: &Path, limit: u64) -> Result<Vec<u8>, Error> {
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Err(Error::NotAFile {
            path: path.to_owned(),
        });
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(limit.saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Unreadable {
            path: path.to_owned(),
            source,
        })?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length <= limit) {
        Ok(bytes)
    } else {
        Err(Error::TooLarge {
            path: path.to_owned(),
            limit,
        })
    }
}

/// Reads a password, token or key; one line end after it is cut.
///
/// # Errors
/// [`Error`], also when nothing is left.
pub fn secret(path: &Path) -> Result<Secret, Error> {
    let not_text = || Error::NotText {
        path: path.to_owned(),
    };
    let mut text = String::from_utf8(read(path, SECRET)?).map_err(|_| not_text())?;
    if text.ends_with('\n') {
        text.pop();
    }
    if text.is_empty() {
        return Err(Error::Empty {
            path: path.to_owned(),
        });
    }
    Ok(Secret::new(text))
}

/// What the system says of a file: another one once it was exchanged or written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64),
    size: i64,
    changed: (i64, u64),
    mode: u32,
}

impl Stamp {
    /// Whether everybody can read it.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.mode & 0o004 != 0
    }
}

/// The stamp of a file, or of what its links lead to; nothing where the system has none.
#[must_use]
pub fn stamp(path: &Path) -> Option<Stamp> {
    let stat = stat(path).ok()?;
    Some(Stamp {
        file: (stat.st_dev, stat.st_ino),
        size: stat.st_size,
        changed: (stat.st_ctime, stat.st_ctime_nsec),
        mode: stat.st_mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        fs,
        io::Write as _,
        os::unix::fs::{PermissionsExt as _, chown, symlink},
    };

    fn file(folder: &Path, bytes: &[u8]) -> PathBuf {
        let path = folder.join("secret");
        File::create(&path).unwrap().write_all(bytes).unwrap();
        path
    }

    #[test]
    fn a_secret_is_a_text_without_its_line_end_and_never_nothing() {
        let folder = tempfile::tempdir().unwrap();
        for (bytes, text) in [("hunter2\n", "hunter2"), ("a b", "a b"), ("x\n\n", "x\n")] {
            let path = file(folder.path(), bytes.as_bytes());
            assert_eq!(secret(&path).unwrap().expose(), text);
        }
        let link = folder.path().join("link");
        symlink("secret", &link).unwrap();
        assert_eq!(secret(&link).unwrap().expose(), "x\n");
        for nothing in ["", "\n"] {
            let path = file(folder.path(), nothing.as_bytes());
            assert_eq!(
                secret(&path).unwrap_err().to_string(),
                format!("{}: is empty; write the secret into it", path.display())
            );
        }
        let error = secret(&file(folder.path(), b"\xff\xfe")).unwrap_err();
        assert!(matches!(error, Error::NotText { .. }), "{error}");
        let missing = secret(&folder.path().join("none")).unwrap_err();
        assert!(matches!(missing, Error::Unreadable { .. }), "{missing}");
    }

    #[test]
    fn reading_a_fifo_an_endless_device_or_too_much_as_a_secret_fails_within_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let fifo = folder.path().join("fifo");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            FileType::Fifo,
            Mode::RUSR | Mode::WUSR,
            0,
        )
        .unwrap();
        let large = file(folder.path(), &[b'x'; 64 * 1024 + 1]);
        let all = [
            fifo,
            "/dev/zero".into(),
            folder.path().to_owned(),
            large.clone(),
        ];
        let (done, outcome) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let said: Vec<_> = all.iter().map(|path| secret(path).unwrap_err()).collect();
            done.send(said).unwrap();
        });
        let said = outcome
            .recv_timeout(std::time::Duration::from_secs(1))
            .unwrap();
        let words: Vec<_> = said
            .iter()
            .map(|error| matches!(error, Error::NotAFile { .. }))
            .collect();
        assert_eq!(words, [true, true, true, false]);
        assert!(matches!(said[3], Error::TooLarge { limit: 65_536, .. }));
        assert_eq!(read(&large, 64 * 1024 + 1).unwrap().len(), 64 * 1024 + 1);
    }

    #[test]
    fn a_privileged_agent_reads_no_secret_that_somebody_else_could_have_put_there() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), b"hunter2");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o606)).unwrap();
        if !geteuid().is_root() {
            eprintln!("SKIPPED in part: only a privileged agent refuses");
            secret(&path).unwrap();
            return;
        }
        let said = secret(&path).unwrap_err().to_string();
        assert!(said.contains("everybody can write to it"), "{said}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(54_321), None).unwrap();
        let said = secret(&path).unwrap_err().to_string();
        assert!(
            said.contains("belongs to user 54321") && !said.contains("hunter2"),
            "{said}"
        );
    }

    #[test]
    fn a_text_that_others_may_read_or_change_is_not_read_as_private() {
        let folder = tempfile::tempdir().unwrap();
        let path = file(folder.path(), b"ann:canary admin");
        for (mode, read) in [
            (0o600, true),
            (0o640, true),
            (0o400, true),
            (0o644, false),
            (0o660, false),
            (0o602, false),
        ] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            match private(&path, 100) {
                Ok(text) => assert!(read && text == "ann:canary admin", "{mode:o}"),
                Err(error) => {
                    assert!(!read && matches!(error, Error::Exposed { .. }), "{mode:o}");
                    let said = error.to_string();
                    assert!(
                        said.contains("chmod 600") && !said.contains("canary"),
                        "{said}"
                    );
                }
            }
        }
    }

    #[test]
    fn a_stamp_is_another_one_after_each_way_to_exchange_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (file(folder.path(), b"one"), folder.path().join("link"));
        symlink("secret", &link).unwrap();
        let mut before = stamp(&link);
        assert!(before.is_some() && stamp(&path) == before);
        let mut is_another = |what: &str| {
            let now = stamp(&link);
            assert_ne!(now, before, "{what}");
            before = now;
        };
        let other = folder.path().join("other");
        File::create(&other).unwrap().write_all(b"two").unwrap();
        fs::rename(&other, &path).unwrap();
        is_another("by rename");
        File::create(&path).unwrap().write_all(b"three").unwrap();
        is_another("in place");
        File::create(&other).unwrap().write_all(b"three").unwrap();
        fs::remove_file(&link).unwrap();
        symlink("other", &link).unwrap();
        is_another("behind a link");
        fs::remove_file(&other).unwrap();
        is_another("gone");
        assert_eq!(before, None);
        for (mode, open) in [(0o644, true), (0o640, false), (0o602, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(stamp(&path).unwrap().is_open(), open, "{mode:o}");
        }
    }
}
