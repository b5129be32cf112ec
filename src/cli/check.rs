//! `outrigger check`: every mistake of settings and descriptors at once, before anything is installed.

use super::{End, colour, print, refuse_settings};
use crate::descriptor::{self, Flags, Surroundings};
use crate::report;
use crate::report::Problem;
use std::{collections::BTreeSet, io, path::Path};

/// Checks and prints.
pub(super) fn check(flags: &Flags, around: &Surroundings) -> End {
    let settings = match descriptor::read_settings(flags, around) {
        Ok(settings) => settings,
        Err(problems) => return refuse_settings(&problems, around),
    };
    let mut problems: Vec<Problem> = Vec::new();
    let mut good = Vec::new();
    let mut total = 0;
    let mut read = BTreeSet::new();
    match descriptor::from_environment(&settings, around) {
        Ok(Some(descriptor)) => good.push((Path::new("OUTRIGGER_SERVICE").to_owned(), descriptor)),
        Ok(None) => {}
        Err(found) => problems.extend(found),
    }
    match descriptor::read_directory(&settings, around) {
        Ok(files) => {
            total = files.len();
            for file in files {
                read.insert(file.path.clone());
                match file.descriptor {
                    Ok(descriptor) => good.push((file.path, descriptor)),
                    Err(found) => problems.extend(found),
                }
            }
        }
        Err(problem) => problems.push(*problem),
    }
    let all: Vec<_> = good.iter().map(|(path, d)| (path.as_path(), d)).collect();
    problems.extend(
        descriptor::conflicts(&all)
            .into_iter()
            .map(|(_, problem)| problem),
    );
    let wrong: BTreeSet<&Path> = problems.iter().map(|p| p.source.as_path()).collect();
    // Variables, or the directory itself, count where they are what is wrong: never more wrong ones than there are.
    total += wrong
        .iter()
        .filter(|source| !read.contains(**source))
        .count();
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
