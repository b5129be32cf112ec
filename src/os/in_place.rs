//! Writes over the file that is there: for a file that is mounted by itself, whose name cannot be given to another one.
//!
//! This is not atomic, and nothing makes it so: a reader may see the beginning of the new content before the end of the old one,
//! and a crash in the middle leaves both. What can be done is done. Room for the whole content is reserved before its first byte
//! is written, so a full disk changes nothing; the file is made shorter last, so there is no moment in which it is empty; what
//! fails half-way is undone with the content that was there. All names of the file (hard links, the other side of the mount)
//! show the new content, its number stays, and so does everything that hangs on it.

use rustix::{
    fs::{FallocateFlags, fallocate},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
};

/// Why it was not done.
#[derive(Debug)]
pub(super) enum Failure {
    /// The file has its old content.
    Undone(io::Error),
    /// It has something of both.
    Torn(io::Error),
}

/// Writes `bytes` over all of the file, which is open for reading and writing. Of a content longer than `most` nothing is put back.
pub(super) fn write_over(file: &File, bytes: &[u8], most: u64) -> Result<(), Failure> {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    reserve(file, length).map_err(Failure::Undone)?;
    let mut old = Vec::new();
    let mut reader = file;
    (&mut reader)
        .take(most)
        .read_to_end(&mut old)
        .map_err(Failure::Undone)?;
    fill(file, bytes).map_err(|source| match fill(file, &old) {
        Ok(()) => Failure::Undone(source),
        Err(_) => Failure::Torn(source),
    })
}

/// Makes sure that there is room, without changing what a reader sees.
fn reserve(file: &File, length: u64) -> io::Result<()> {
    if length == 0 {
        return Ok(());
    }
    match fallocate(file, FallocateFlags::KEEP_SIZE, 0, length) {
        Err(errno @ (Errno::NOSPC | Errno::DQUOT | Errno::FBIG)) => Err(errno.into()),
        // A file system that cannot reserve finds out while it writes, and what was there is put back then.
        _ => Ok(()),
    }
}

fn fill(file: &File, bytes: &[u8]) -> io::Result<()> {
    file.write_all_at(bytes, 0)?;
    file.set_len(u64::try_from(bytes.len()).unwrap_or(u64::MAX))?;
    file.sync_all()
}
