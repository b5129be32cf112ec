//! `conf.d`: finds the descriptor files, reads each within limits, and lets no file spoil another.
//!
//! A mounted ConfigMap is a folder of links (`orders.yaml` to `..data/orders.yaml`, `..data` to a dated folder) that is swapped
//! as a whole, so links to regular files are followed and names with a dot in front are not looked at. Nothing but a regular
//! file is ever read from: opening does not wait for a pipe's other end.

use super::Surroundings;
use super::parse::parse;
use super::settings::Settings;
use super::spec::Descriptor;
use crate::report::Problem;
use md5::Digest as _;
use md5::Md5;
use rustix::fs::OFlags;
use std::{
    fs,
    io::{self, Read as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

/// Descriptor files of one directory.
const MAX_FILES: usize = 2000;
/// Bytes of one file.
const MAX_FILE: u64 = 1 << 20;
/// Bytes of all files.
const MAX_ALL: u64 = 32 << 20;

/// One file of the directory.
#[derive(Clone, Debug)]
pub struct File {
    /// The directory's path with the file's name.
    pub path: PathBuf,
    /// MD5 of the content (of the reason where it could not be read): the same digest, the same outcome.
    pub digest: [u8; 16],
    /// What it says, or everything that is wrong with it.
    pub descriptor: Result<Descriptor, Vec<Problem>>,
}

/// Reads all descriptors of `catalog.conf_dir`, sorted by name: `*.yaml` and `*.yml`, no dot files, no sub-folders. A directory
/// that does not exist holds none. Blocks: call it where blocking is allowed.
///
/// # Errors
///
/// The directory cannot be read or holds too many files. What is wrong with one file is that file's.
pub fn read_directory(settings: &Settings, around: &Surroundings) -> Result<Vec<File>, Problem> {
    let directory = &settings.catalog.conf_dir;
    let paths = match list(directory) {
        Ok(paths) => paths,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(whole(directory, format!("cannot be read: {error}"), None)),
    };
    if paths.len() > MAX_FILES {
        return Err(whole(
            directory,
            format!("holds more than {MAX_FILES} descriptors"),
            Some("put several services and configurations into one file"),
        ));
    }
    let mut left = MAX_ALL;
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let (digest, descriptor) = match read(&path, left, around) {
            Ok(Some(bytes)) => {
                left = left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                let descriptor = match std::str::from_utf8(&bytes) {
                    Ok(text) => parse(&path, text, settings, around),
                    Err(error) => {
                        let message = format!("not UTF-8 after {} bytes", error.valid_up_to());
                        Err(vec![whole(&path, message, None)])
                    }
                };
                (Md5::digest(&bytes).into(), descriptor)
            }
            Ok(None) => continue,
            Err(problem) => (
                Md5::digest(problem.message.as_bytes()).into(),
                Err(vec![*problem]),
            ),
        };
        files.push(File {
            path,
            digest,
            descriptor,
        });
    }
    Ok(files)
}

/// The names that count, sorted; one more than allowed at most.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name();
        let counts = name.to_str().is_some_and(|name| {
            !name.starts_with('.') && (name.ends_with(".yaml") || name.ends_with(".yml"))
        });
        if counts {
            paths.push(directory.join(name));
        }
        if paths.len() > MAX_FILES {
            break;
        }
    }
    paths.sort();
    Ok(paths)
}

/// A file's content; `None` for what is no regular file, or gone since the directory was listed.
fn read(path: &Path, left: u64, around: &Surroundings) -> Result<Option<Vec<u8>>, Box<Problem>> {
    let failed = |error: io::Error| Box::new(whole(path, format!("cannot be read: {error}"), None));
    let wrong = |message: String, help| Err(Box::new(whole(path, message, Some(help))));
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => return Ok(None),
        Ok(_) => {}
        // A link to nothing is a mistake, a file that is gone is not.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match fs::symlink_metadata(path) {
                Ok(_) => wrong(
                    "is a link to nothing".to_owned(),
                    "remove the link or restore what it names",
                ),
                Err(_) => Ok(None),
            };
        }
        Err(error) => return Err(failed(error)),
    }
    let flags = i32::try_from(OFlags::NONBLOCK.bits() | OFlags::NOCTTY.bits()).unwrap_or_default();
    let file = fs::File::options()
        .read(true)
        .custom_flags(flags)
        .open(path)
        .map_err(failed)?;
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Ok(None);
    }
    if around.privileged && found.uid() != 0 && found.uid() != around.uid {
        return wrong(
            format!("belongs to user {}, the agent runs as root", found.uid()),
            "give it to root: whoever writes descriptors decides what root does",
        );
    }
    if around.privileged && found.mode() & 0o002 != 0 {
        return wrong(
            "can be written by everybody, the agent runs as root".to_owned(),
            "take the right to write away from others: chmod o-w",
        );
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE.min(left).saturating_add(1))
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > MAX_FILE {
        return wrong(
            format!("more than {MAX_FILE} bytes"),
            "split it into several files",
        );
    }
    if length > left {
        return wrong(
            format!("with it all descriptors have more than {MAX_ALL} bytes"),
            "remove what is not needed",
        );
    }
    Ok(Some(bytes))
}

fn whole(path: &Path, message: String, help: Option<&str>) -> Problem {
    Problem {
        source: path.to_owned(),
        place: None,
        key: String::new(),
        message,
        help: help.map(str::to_owned),
        excerpt: None,
    }
}
