//! `outrigger check`: every mistake of settings and descriptors at once, before anything is installed.

use super::{End, colour, print, refuse_settings};
use crate::descriptor::settings::Settings;
use crate::descriptor::spec::Descriptor;
use crate::descriptor::{self, Flags, Surroundings};
use crate::report;
use crate::report::Problem;
use std::{
    collections::BTreeSet,
    io,
    path::{Path, PathBuf},
};

/// Checks and prints.
pub(super) fn check(flags: &Flags, around: &Surroundings) -> End {
    let settings = match descriptor::read_settings(flags, around) {
        Ok(settings) => settings,
        Err(problems) => return refuse_settings(&problems, around),
    };
    let mut fixed = Vec::new();
    let mut wrong_variables = Vec::new();
    match descriptor::from_environment(&settings, around) {
        Ok(Some(descriptor)) => fixed.push((Path::new("OUTRIGGER_SERVICE").to_owned(), descriptor)),
        Ok(None) => {}
        Err(found) => wrong_variables = found,
    }
    let Read {
        good,
        mut problems,
        files,
    } = read_all(&settings, around, fixed);
    problems.splice(0..0, wrong_variables);
    let wrong: BTreeSet<&Path> = problems.iter().map(|p| p.source.as_path()).collect();
    // Variables, or the directory itself, count where they are what is wrong: never more wrong ones than there are.
    let others = wrong.iter().filter(|source| !files.contains(**source));
    let total = files.len() + others.count();
    let colour = colour(&io::stdout(), around);
    print(&report::render_all(&problems, wrong.len(), total, colour));
    if good.is_empty() && problems.is_empty() {
        print(&format!(
            "  note: no descriptors in {}\n",
            settings.catalog.conf_dir.display()
        ));
    }
    if problems.is_empty() {
        End::Done
    } else {
        End::Descriptor
    }
}

/// All descriptors there are, and all that is wrong with them.
pub(super) struct Read {
    /// Those without a mistake of their own.
    pub(super) good: Vec<(PathBuf, Descriptor)>,
    /// The mistakes of the others, and what two of the good ones both claim.
    pub(super) problems: Vec<Problem>,
    /// Every file that was found.
    pub(super) files: BTreeSet<PathBuf>,
}

/// Reads `conf.d` as somebody who wants all of it to be right; `fixed` is what needs no file.
pub(super) fn read_all(
    settings: &Settings,
    around: &Surroundings,
    fixed: Vec<(PathBuf, Descriptor)>,
) -> Read {
    let mut read = Read {
        good: fixed,
        problems: Vec::new(),
        files: BTreeSet::new(),
    };
    match descriptor::read_directory(settings, around) {
        Ok(files) => {
            for file in files {
                read.files.insert(file.path.clone());
                match file.descriptor {
                    Ok(descriptor) => read.good.push((file.path, descriptor)),
                    Err(found) => read.problems.extend(found),
                }
            }
        }
        Err(problem) => read.problems.push(*problem),
    }
    let good = read.good.iter().map(|(path, d)| (path.as_path(), d));
    let conflicts = descriptor::conflicts(&good.collect::<Vec<_>>());
    read.problems
        .extend(conflicts.into_iter().map(|(_, problem)| problem));
    read
}
