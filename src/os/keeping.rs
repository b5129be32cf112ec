//! What a new file takes over from the one it replaces besides its name: the context of SELinux, the ACL, attributes of users.
//!
//! A rename puts another inode at the name, and everything that hung on the old one would be gone: an operator's `setfacl`, the
//! label that lets a confined nginx read its configuration. Owner and mode are not taken over, the descriptor says them; the mode
//! is given once more after the ACL, so its group bits are the ACL's mask, as `chmod` has it. Nothing else is carried: what a
//! program is granted (`security.capability`) or what was signed (`security.ima`) belongs to the bytes that are gone.

use rustix::{
    fs::{XattrFlags, fgetxattr, flistxattr, fsetxattr},
    io::Errno,
};
use std::os::fd::AsFd;

/// The kernel's own limits: of a list of names, and of one value.
const MOST: usize = 65_536;

/// The label that SELinux goes by.
const LABEL: &str = "security.selinux";
/// Who else may read and write.
const ACL: &str = "system.posix_acl_access";
/// What users hang on files.
const OF_USERS: &str = "user.";

/// An attribute that could not be taken over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    /// Its name.
    pub(super) name: String,
    /// What the system said.
    pub(super) errno: Errno,
}

/// Gives `new` the attributes of `old`; says which it could not give. A file system without attributes has none to lose.
pub(super) fn carry(old: impl AsFd, new: impl AsFd) -> Vec<Lost> {
    let mut lost = Vec::new();
    for name in names(&old) {
        let carried = value(&old, &name).and_then(|value| match value {
            // Whatever the file system gave the new file by itself may be the same already.
            Some(value) if self::value(&new, &name) == Ok(Some(value.clone())) => Ok(()),
            Some(value) => fsetxattr(&new, name.as_str(), &value, XattrFlags::empty()),
            None => Ok(()),
        });
        if let Err(errno) = carried {
            lost.push(Lost { name, errno });
        }
    }
    lost
}

/// The names of what is carried.
fn names(file: impl AsFd) -> Vec<String> {
    let mut list = vec![0_u8; MOST];
    // Where they cannot be listed there are none.
    let length = flistxattr(file, list.as_mut_slice()).unwrap_or(0);
    let list = list.get(..length).unwrap_or_default();
    list.split(|byte| *byte == 0)
        .filter_map(|name| str::from_utf8(name).ok())
        .filter(|name| *name == LABEL || *name == ACL || name.starts_with(OF_USERS))
        .map(str::to_owned)
        .collect()
}

/// The value of one; `None` when it is not there (any more).
fn value(file: impl AsFd, name: &str) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0_u8; MOST];
    match fgetxattr(file, name, value.as_mut_slice()) {
        Ok(length) => {
            value.truncate(length);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(None),
        Err(errno) => Err(errno),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{fs::File, os::unix::fs::PermissionsExt as _};

    /// An ACL as the kernel keeps it: version 2, then tag, rights and number of each entry.
    pub(in crate::os) fn acl_with_user(uid: u32) -> Vec<u8> {
        let mut acl = 2_u32.to_le_bytes().to_vec();
        let none = u32::MAX;
        for (tag, rights, id) in [
            (0x01_u16, 6_u16, none),
            (0x02, 4, uid),
            (0x04, 4, none),
            (0x10, 4, none),
            (0x20, 0, none),
        ] {
            acl.extend(tag.to_le_bytes());
            acl.extend(rights.to_le_bytes());
            acl.extend(id.to_le_bytes());
        }
        acl
    }

    #[test]
    fn an_acl_and_attributes_of_users_are_carried_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let [old, new] = ["old", "new"].map(|name| File::create(folder.path().join(name)).unwrap());
        let acl = acl_with_user(54_321);
        let given = [
            ("user.note", b"kept".to_vec()),
            (ACL, acl.clone()),
            ("trusted.note", b"not carried".to_vec()),
        ];
        for (name, value) in &given {
            match fsetxattr(&old, *name, value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(errno) if *name == "trusted.note" => eprintln!("SKIPPED in part: {errno}"),
                Err(errno) => {
                    eprintln!("SKIPPED: this file system has no attributes: {errno}");
                    return;
                }
            }
        }
        assert_eq!(carry(&old, &new), []);
        assert_eq!(value(&new, "user.note"), Ok(Some(b"kept".to_vec())));
        assert_eq!(value(&new, ACL), Ok(Some(acl)));
        assert_eq!(value(&new, "trusted.note"), Ok(None));
        assert_eq!(new.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        assert_eq!(carry(&old, &new), [], "once more is no harm");
    }

    #[test]
    fn a_file_system_without_attributes_loses_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let old = File::open("/proc/self/status").unwrap();
        let new = File::create(folder.path().join("new")).unwrap();
        assert_eq!(carry(&old, &new), []);
    }

    #[test]
    fn what_cannot_be_carried_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let old = File::create(folder.path().join("old")).unwrap();
        if let Err(errno) = fsetxattr(&old, "user.note", b"x", XattrFlags::empty()) {
            eprintln!("SKIPPED: this file system has no attributes: {errno}");
            return;
        }
        let new = File::open("/proc/self/status").unwrap();
        let lost = carry(&old, &new);
        assert_eq!(lost.len(), 1, "{lost:?}");
        assert_eq!(lost[0].name, "user.note");
    }
}
