//! `conf.d`: finds the descriptor files, reads each within limits, and lets no file spoil another.
//!
//! A mounted ConfigMap is a folder of links (`orders.yaml` to `..data/orders.yaml`, `..data` to a dated folder) that is swapped
//! as a whole, so links to regular files are followed and names with a dot in front are not looked at. Nothing but a regular
//! file is ever read from: opening does not wait for a pipe's other end.
//!
//! Whoever writes descriptors decides what the agent does, with the agent's rights. So a privileged agent reads only what
//! nobody but root and itself can have written: directory and file are theirs, neither group nor others may write to them, and
//! a link does not lead out of the directory. Where the file system is mounted read-only (a ConfigMap, whose directory has
//! mode 0777), those bits give nobody anything and do not count.

use super::Surroundings;
use super::parse::parse;
use super::settings::Settings;
use super::spec::{Descriptor, MadeOf, Rendering};
use crate::report::Problem;
use crate::template;
use md5::Digest as _;
use md5::Md5;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, StatVfsMountFlags};
use rustix::io::Errno;
use std::{
    fs,
    io::{self, Read as _},
    os::{fd::AsFd, unix::fs::MetadataExt as _},
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
pub fn read_directory(
    settings: &Settings,
    around: &Surroundings,
) -> Result<Vec<File>, Box<Problem>> {
    let directory = &settings.catalog.conf_dir;
    let paths = match list(directory) {
        Ok(paths) => paths,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => {
            return Err(Box::new(Problem::of_whole(
                directory,
                format!("cannot be read: {error}"),
                None,
            )));
        }
    };
    if paths.len() > MAX_FILES {
        return Err(Box::new(Problem::of_whole(
            directory,
            format!("holds more than {MAX_FILES} descriptors"),
            Some("put several services and configurations into one file"),
        )));
    }
    if around.privileged && !paths.is_empty() {
        let open = fs::File::open(directory);
        if let Some(why) = open.map_or(None, |open| strange(&open, around)) {
            return Err(Box::new(Problem::of_whole(directory, why, Some(TAKE))));
        }
    }
    let mut left = MAX_ALL;
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        let (digest, descriptor) = match read(&path, left, around) {
            Ok(Some(bytes)) => {
                left = left.saturating_sub(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
                let descriptor = match std::str::from_utf8(&bytes) {
                    Ok(text) => parse(&path, text, settings, around)
                        .and_then(|found| with_templates(&path, found, &mut left, around)),
                    Err(error) => {
                        let message = format!("not UTF-8 after {} bytes", error.valid_up_to());
                        Err(vec![Problem::of_whole(&path, message, None)])
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

/// The descriptor with the texts of its templates, which are files beside it: as it must be written by nobody else, so they are.
fn with_templates(
    path: &Path,
    mut descriptor: Descriptor,
    left: &mut u64,
    around: &Surroundings,
) -> Result<Descriptor, Vec<Problem>> {
    let mut problems = Vec::new();
    let places = &descriptor.places;
    let of_configs = descriptor.configs.iter_mut().enumerate();
    let of_configs = of_configs.filter_map(|(at, config)| match &mut config.made_of {
        MadeOf::Several { template, .. } => Some((
            format!("configs[{at}].template"),
            places.config_templates.get(at),
            &template.file,
            &mut template.text,
        )),
        MadeOf::One(_) => None,
    });
    let of_lists = descriptor.subscriptions.iter_mut().enumerate();
    let of_lists = of_lists.filter_map(|(at, list)| match &mut list.rendering {
        Rendering::Template { file, text } => Some((
            format!("subscriptions[{at}].template"),
            places.templates.get(at),
            &*file,
            text,
        )),
        _ => None,
    });
    for (key, written, file, text) in of_configs.chain(of_lists) {
        match template_text(file, *left, around) {
            Ok(found) => {
                *left = left.saturating_sub(u64::try_from(found.len()).unwrap_or(u64::MAX));
                *text = found.into();
            }
            Err(message) => {
                problems.push(Problem {
                    source: path.to_owned(),
                    place: written.and_then(|written| written.place),
                    key,
                    message,
                    help: None,
                    excerpt: written.and_then(|written| written.excerpt.clone()),
                });
            }
        }
    }
    match problems.is_empty() {
        true => Ok(descriptor),
        false => Err(problems),
    }
}

/// The text of a template, or why there is none.
fn template_text(file: &Path, left: u64, around: &Surroundings) -> Result<String, String> {
    let shown = file.display();
    let bytes = read(file, left, around)
        .map_err(|problem| format!("{shown}: {}", problem.message))?
        .ok_or_else(|| format!("{shown}: there is no such file"))?;
    if bytes.len() > template::LONGEST {
        return Err(format!("{shown}: more than {} bytes", template::LONGEST));
    }
    let text = String::from_utf8(bytes).map_err(|_| format!("{shown}: not UTF-8"))?;
    template::check(&text).map_err(|error| format!("{shown}: {error}"))?;
    Ok(text)
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
    let failed = |error: io::Error| {
        Box::new(Problem::of_whole(
            path,
            format!("cannot be read: {error}"),
            None,
        ))
    };
    let wrong = |message: String, help| Err(Box::new(Problem::of_whole(path, message, Some(help))));
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
    let file = match open(path, around) {
        Ok(file) => fs::File::from(file),
        Err(Errno::XDEV) => {
            return wrong(
                "is a link that leads out of the directory, the agent runs as root".to_owned(),
                "copy the file here, or link to one beside it",
            );
        }
        Err(error) => return Err(failed(error.into())),
    };
    let found = file.metadata().map_err(failed)?;
    if !found.is_file() {
        return Ok(None);
    }
    if around.privileged
        && let Some(why) = strange(&file, around)
    {
        return wrong(why, TAKE);
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

/// What to do where somebody else may write.
const TAKE: &str =
    "give it to root and chmod go-w: whoever writes descriptors decides what root does";

/// Opens a file without waiting for anybody; for a privileged agent only what lies in its directory, links resolved.
fn open(path: &Path, around: &Surroundings) -> Result<rustix::fd::OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    let (Some(parent), Some(name), true) = (path.parent(), path.file_name(), around.privileged)
    else {
        return rustix::fs::openat(CWD, path, flags, Mode::empty());
    };
    let seen = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(CWD, parent, seen, Mode::empty())?;
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    match rustix::fs::openat2(&directory, name, flags, Mode::empty(), inside) {
        // A kernel before 5.6, or a sandbox that does not know the call.
        Err(Errno::NOSYS | Errno::PERM) => {
            let leads = fs::canonicalize(path).ok();
            let stays = leads.zip(fs::canonicalize(parent).ok());
            if !stays.is_some_and(|(leads, parent)| leads.starts_with(parent)) {
                return Err(Errno::XDEV);
            }
            rustix::fs::openat(CWD, path, flags, Mode::empty())
        }
        opened => opened,
    }
}

/// Why somebody else than root and the agent may have written this, if so.
fn strange(open: &fs::File, around: &Surroundings) -> Option<String> {
    let found = match open.metadata() {
        Ok(found) => found,
        Err(error) => return Some(format!("cannot be looked at: {error}")),
    };
    if found.uid() != 0 && found.uid() != around.uid {
        return Some(format!(
            "belongs to user {}, the agent runs as root",
            found.uid()
        ));
    }
    let writable = match found.mode() & 0o022 {
        0 => return None,
        bits if bits & 0o002 != 0 => "everybody",
        _ => "its group",
    };
    (!is_read_only(open)).then(|| format!("can be written by {writable}, the agent runs as root"))
}

fn is_read_only(open: impl AsFd) -> bool {
    rustix::fs::fstatvfs(open).is_ok_and(|found| found.f_flag.contains(StatVfsMountFlags::RDONLY))
}

#[cfg(test)]
mod tests {
    use super::super::Flags;
    use super::super::settings_file::resolve;
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use tempfile::TempDir;

    fn write(path: &Path, text: &[u8]) {
        use std::io::Write as _;
        fs::File::create(path).unwrap().write_all(text).unwrap();
    }

    fn settings(directory: &Path) -> Settings {
        let flags = Flags {
            config: None,
            conf_dir: Some(directory.to_owned()),
        };
        resolve(
            Path::new("outrigger.yaml"),
            None,
            &flags,
            &Surroundings::default(),
        )
        .unwrap()
    }

    fn read_all(directory: &Path, around: &Surroundings) -> Vec<File> {
        read_directory(&settings(directory), around).unwrap()
    }

    /// Each file's name with its first service or its first problem.
    fn outcomes(directory: &Path, around: &Surroundings) -> Vec<(String, String)> {
        read_all(directory, around)
            .into_iter()
            .map(|file| {
                let outcome = match file.descriptor {
                    Ok(found) => found.services.first().map(|one| one.name.clone()),
                    Err(problems) => problems.first().map(|one| one.message.clone()),
                };
                let name = file.path.file_name().unwrap().to_string_lossy();
                (name.into_owned(), outcome.unwrap_or_default())
            })
            .collect()
    }

    fn service(name: &str) -> Vec<u8> {
        format!("services: [{{ name: {name}, port: 1 }}]\n").into_bytes()
    }

    #[test]
    fn a_missing_directory_holds_nothing_and_a_file_is_no_directory() {
        let home = TempDir::new().unwrap();
        assert!(read_all(&home.path().join("none"), &Surroundings::default()).is_empty());
        let file = home.path().join("file");
        write(&file, b"");
        let problem = read_directory(&settings(&file), &Surroundings::default()).unwrap_err();
        assert!(
            problem.message.starts_with("cannot be read"),
            "{}",
            problem.message
        );
    }

    #[test]
    fn a_template_is_a_file_beside_its_descriptor_and_its_mistakes_are_the_descriptors() {
        let home = TempDir::new().unwrap();
        let at = |name: &str| home.path().join(name);
        let descriptor = b"subscriptions:\n  - { service: a, path: /run/a, template: a.j2 }\n";
        write(&at("a.yaml"), descriptor);
        let outcome = |around: &Surroundings| {
            let mut files = read_all(home.path(), around);
            assert_eq!(files.len(), 1);
            files.remove(0).descriptor.map_err(|problems| {
                assert_eq!(problems[0].key, "subscriptions[0].template");
                assert_eq!(
                    problems[0].place.map(|at| (at.line, at.column)),
                    Some((2, 43))
                );
                problems[0].message.clone()
            })
        };
        let nobody = Surroundings::default();
        assert!(
            outcome(&nobody)
                .unwrap_err()
                .ends_with("a.j2: there is no such file")
        );
        write(&at("a.j2"), b"{% for one in instances %}");
        let said = outcome(&nobody).unwrap_err();
        assert!(said.contains("a.j2: line 1: "), "{said}");
        write(&at("a.j2"), b"{{ service }}\n");
        let found = outcome(&nobody).unwrap();
        let Rendering::Template { text, .. } = &found.subscriptions[0].rendering else {
            panic!("{found:?}");
        };
        assert_eq!(&**text, "{{ service }}\n");
        // Whoever could write a template would decide what a privileged agent writes.
        fs::set_permissions(at("a.j2"), fs::Permissions::from_mode(0o666)).unwrap();
        let privileged = Surroundings {
            privileged: true,
            uid: rustix::process::geteuid().as_raw(),
            ..Surroundings::default()
        };
        let said = outcome(&privileged).unwrap_err();
        assert!(said.contains("can be written by everybody"), "{said}");
    }

    #[test]
    fn one_bad_file_spoils_no_other() {
        let home = TempDir::new().unwrap();
        let at = |name: &str| home.path().join(name);
        write(&at("b.yml"), &service("b"));
        write(&at("a.yaml"), b"services: [");
        write(&at("c.yaml"), b"\xff");
        write(&at("d.yaml"), &vec![b'#'; (1 << 20) + 1]);
        symlink("nowhere", at("e.yaml")).unwrap();
        write(&at("f.yaml"), &service("f"));
        // None of these counts.
        write(&at(".hidden.yaml"), b"x: 1");
        write(&at("notes.txt"), b"x: 1");
        write(&at("g.yaml~"), b"x: 1");
        fs::create_dir(at("folder.yaml")).unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            at("pipe.yaml"),
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RWXU,
            0,
        )
        .unwrap();
        let outcomes = outcomes(home.path(), &Surroundings::default());
        let shown: Vec<_> = outcomes
            .iter()
            .map(|(name, outcome)| format!("{name}: {outcome}"))
            .collect();
        insta::assert_snapshot!(shown.join("\n"), @r"
        a.yaml: unclosed bracket '['
        b.yml: b
        c.yaml: not UTF-8 after 0 bytes
        d.yaml: more than 1048576 bytes
        e.yaml: is a link to nothing
        f.yaml: f
        ");
    }

    #[test]
    fn a_config_map_is_read_through_its_links_before_and_after_a_swap() {
        let home = TempDir::new().unwrap();
        let at = |name: &str| home.path().join(name);
        for (folder, name) in [("..2024_1", "old"), ("..2024_2", "new")] {
            fs::create_dir(at(folder)).unwrap();
            write(&at(folder).join("orders.yaml"), &service(name));
        }
        symlink("..2024_1", at("..data")).unwrap();
        symlink("..data/orders.yaml", at("orders.yaml")).unwrap();
        let around = Surroundings::default();
        let before = read_all(home.path(), &around);
        assert_eq!(
            outcomes(home.path(), &around),
            [("orders.yaml".into(), "old".into())]
        );
        symlink("..2024_2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert_eq!(
            outcomes(home.path(), &around),
            [("orders.yaml".into(), "new".into())]
        );
        assert_ne!(before[0].digest, read_all(home.path(), &around)[0].digest);
    }

    #[test]
    fn what_all_files_weigh_together_is_limited() {
        let home = TempDir::new().unwrap();
        let mut text = vec![b'#'; (1 << 20) - 1];
        text.push(b'\n');
        for number in 10..43 {
            write(&home.path().join(format!("{number}.yaml")), &text);
        }
        let files = read_all(home.path(), &Surroundings::default());
        let wrong: Vec<_> = files
            .iter()
            .filter(|file| file.descriptor.is_err())
            .collect();
        assert_eq!((files.len(), wrong.len()), (33, 1));
        assert!(wrong[0].path.ends_with("42.yaml"));
    }

    #[test]
    fn too_many_files_are_one_problem_of_the_directory() {
        let home = TempDir::new().unwrap();
        for number in 0..=MAX_FILES {
            write(&home.path().join(format!("{number}.yaml")), b"");
        }
        let around = Surroundings::default();
        let problem = read_directory(&settings(home.path()), &around).unwrap_err();
        assert_eq!(problem.message, "holds more than 2000 descriptors");
    }

    /// Root, or somebody with root's rights.
    fn root(uid: u32) -> Surroundings {
        Surroundings {
            privileged: true,
            uid,
            ..Surroundings::default()
        }
    }

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_descriptor_owned_by_the_application_is_refused_when_privileged() {
        let home = TempDir::new().unwrap();
        let (path, other) = (home.path().join("a.yaml"), home.path().join("b.yaml"));
        write(&path, &service("a"));
        write(&other, &service("b"));
        for path in [&path, &other] {
            chmod(path, 0o644);
        }
        let uid = fs::metadata(&path).unwrap().uid();
        let outcome = |around: &Surroundings| outcomes(home.path(), around)[0].1.clone();
        assert_eq!(outcome(&root(uid)), "a");
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
            let stranger = outcome(&root(0));
            assert_eq!(stranger, "belongs to user 12345, the agent runs as root");
            std::os::unix::fs::chown(&path, Some(0), None).unwrap();
        }
        for (mode, who) in [(0o646, "everybody"), (0o664, "its group")] {
            chmod(&path, mode);
            let expected = format!("can be written by {who}, the agent runs as root");
            assert_eq!(outcome(&root(uid)), expected);
            // One file is refused and named, the others count; and without rights to lend nobody can borrow any.
            assert_eq!(outcomes(home.path(), &root(uid))[1].1, "b");
            assert_eq!(outcome(&Surroundings::default()), "a");
        }
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_refused_when_privileged() {
        let home = TempDir::new().unwrap();
        let path = home.path().join("a.yaml");
        write(&path, &service("a"));
        chmod(&path, 0o644);
        let uid = fs::metadata(&path).unwrap().uid();
        for mode in [0o777, 0o775, 0o1777] {
            chmod(home.path(), mode);
            let problem = read_directory(&settings(home.path()), &root(uid)).unwrap_err();
            assert!(
                problem.message.starts_with("can be written by"),
                "{}",
                problem.message
            );
            assert_eq!(outcomes(home.path(), &Surroundings::default())[0].1, "a");
        }
        chmod(home.path(), 0o755);
        assert_eq!(outcomes(home.path(), &root(uid))[0].1, "a");
    }

    #[test]
    fn a_link_out_of_the_directory_is_refused_when_privileged() {
        let home = TempDir::new().unwrap();
        let (inside, outside) = (home.path().join("conf.d"), home.path().join("out.yaml"));
        fs::create_dir(&inside).unwrap();
        fs::create_dir(inside.join("..data")).unwrap();
        write(&outside, &service("out"));
        write(&inside.join("..data/in.yaml"), &service("in"));
        for path in [&outside, &inside.join("..data/in.yaml")] {
            chmod(path, 0o644);
        }
        for path in [&inside, &inside.join("..data")] {
            chmod(path, 0o755);
        }
        symlink("..data/in.yaml", inside.join("a.yaml")).unwrap();
        symlink("../out.yaml", inside.join("b.yaml")).unwrap();
        symlink(&outside, inside.join("c.yaml")).unwrap();
        let uid = fs::metadata(&outside).unwrap().uid();
        let found: Vec<_> = outcomes(&inside, &root(uid))
            .into_iter()
            .map(|(_, outcome)| outcome)
            .collect();
        let out = "is a link that leads out of the directory, the agent runs as root";
        assert_eq!(found, ["in", out, out]);
        let found = outcomes(&inside, &Surroundings::default());
        assert!(
            found
                .iter()
                .all(|(_, outcome)| outcome == "in" || outcome == "out")
        );
    }
}
