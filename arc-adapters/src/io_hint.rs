//! What to do about what an operating system refuses.

use std::io::{Error, ErrorKind};

/// What helps where the system has refused to `action` a file, by its reason; `action` is the word that
/// the error has for it, such as `read`, `open` or `write`.
#[must_use]
pub fn io_hint(action: &str, error: &Error) -> &'static str {
    use ErrorKind::{
        AlreadyExists, DirectoryNotEmpty, FileTooLarge, InvalidData, InvalidFilename, InvalidInput,
        IsADirectory, NotADirectory, NotFound, OutOfMemory, PermissionDenied, QuotaExceeded,
        ReadOnlyFilesystem, StorageFull, Unsupported,
    };
    let reads = matches!(action, "read" | "open" | "find" | "map");
    match error.kind() {
        NotFound if reads => "check the path: there is no such file",
        NotFound => "check the path: a folder on the way is not there",
        PermissionDenied => "check who may read and write there",
        IsADirectory | NotADirectory => {
            "check the path: a folder stands where a file should, or a file where a folder should"
        }
        AlreadyExists | DirectoryNotEmpty => "something is there already: name another place",
        InvalidFilename | InvalidInput => "check the path: the system takes no such name",
        // As `open_file` has it.
        Unsupported if reads => "name a file: what comes through a pipe or a device has to be saved first",
        ReadOnlyFilesystem => "that disk can only be read: name a place on another",
        StorageFull | QuotaExceeded => {
            "there is no room left there: free some space, or name a place on another disk"
        }
        FileTooLarge => {
            "the system lets no file be so long there: free some space, or name a place on another disk"
        }
        OutOfMemory => "there is too little memory for it: close other programs, or lift this one's limit",
        InvalidData if action == "read" => "the file is no UTF-8 text",
        _ if is_out_of_files(error) => {
            "too many files are open at once: raise the limit (`ulimit -n`), or ask for less at a time"
        }
        _ => "check the path and the disk that it is on",
    }
}

/// ENFILE and EMFILE, which have no kind of their own.
fn is_out_of_files(error: &Error) -> bool {
    cfg!(unix) && matches!(error.raw_os_error(), Some(23 | 24))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn each_reason_gets_the_hint_that_is_about_it() {
        // ENOENT, EMFILE, ENOMEM, EACCES, EISDIR, ENAMETOOLONG, ENOSPC, EROFS, EIO.
        for (code, action, says) in [
            (2, "open", "no such file"),
            (2, "write", "a folder on the way"),
            (24, "open", "ulimit -n"),
            (12, "map", "memory"),
            (13, "read", "who may"),
            (21, "read", "a folder stands"),
            (36, "create", "no such name"),
            (28, "write", "no room"),
            (30, "write", "only be read"),
            (5, "read", "the disk"),
        ] {
            let hint = io_hint(action, &Error::from_raw_os_error(code));
            assert!(hint.contains(says), "{code}: {hint}");
        }
    }
}
