//! Arguments that name documents: files, folders, patterns, standard input.

use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use crate::{Error, Format, Result};

/// A place that a document is read from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Source {
    /// A file.
    File(PathBuf),
    /// Standard input.
    Stdin,
}

/// The places that an argument means: a file itself, `-` for standard input, of a folder the documents in it
/// and below by their names' endings ([`Format::EXTENSIONS`]), of a pattern the files that match it; sorted.
/// What begins with a dot is passed over, unless it is named. A file of that name comes before a pattern.
///
/// # Errors
/// [`Error::NoDocument`] for a folder or a pattern that leads to none; [`Error::Pattern`], [`Error::Io`].
pub fn expand(argument: &Path) -> Result<Vec<Source>> {
    expand_also(argument, |_| false)
}

/// As [`expand`], where of a folder files that `is_document` says yes to are documents too, of kinds that are
/// not read here.
///
/// # Errors
/// As [`expand`].
pub fn expand_also(argument: &Path, is_document: impl Fn(&Path) -> bool) -> Result<Vec<Source>> {
    if argument == Path::new("-") {
        return Ok(vec![Source::Stdin]);
    }
    if argument.is_dir() {
        let is_document = |path: &Path| Format::of_name(path).is_some() || is_document(path);
        return found(argument, in_folder(argument, is_document)?);
    }
    let text = argument.to_string_lossy();
    if text.contains(['*', '?', '[']) && argument.symlink_metadata().is_err() {
        return found(argument, matching(&text)?);
    }
    Ok(vec![Source::File(argument.to_owned())])
}

fn found(argument: &Path, files: Vec<PathBuf>) -> Result<Vec<Source>> {
    match files.is_empty() {
        true => Err(Error::NoDocument { name: argument.display().to_string() }),
        false => Ok(files.into_iter().map(Source::File).collect()),
    }
}

fn in_folder(folder: &Path, is_document: impl Fn(&Path) -> bool) -> Result<Vec<PathBuf>> {
    let is_hidden = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with('.');
    let entries = WalkDir::new(folder)
        .sort_by_file_name()
        .into_iter()
        .filter_entry(|entry| entry.depth() == 0 || !is_hidden(entry.file_name()));
    let mut files = Vec::new();
    for entry in entries {
        let entry = entry.map_err(|error| Error::Io {
            path: error.path().unwrap_or(folder).to_owned(),
            source: error.into(),
        })?;
        // Through a link, but not into folders behind one: those may lead back here.
        if entry.path().is_file() && is_document(entry.path()) {
            files.push(entry.into_path());
        }
    }
    Ok(files)
}

fn matching(pattern: &str) -> Result<Vec<PathBuf>> {
    let options = glob::MatchOptions { require_literal_leading_dot: true, ..glob::MatchOptions::new() };
    let paths = glob::glob_with(pattern, options)
        .map_err(|error| Error::Pattern { pattern: pattern.to_owned(), reason: error.msg.to_owned() })?;
    let mut files = Vec::new();
    for path in paths {
        let path = path.map_err(|error| Error::Io { path: error.path().to_owned(), source: error.into() })?;
        if path.is_file() {
            files.push(path);
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "text").unwrap();
        }
        folder
    }

    fn names(folder: &tempfile::TempDir, argument: &str) -> Vec<String> {
        let sources = expand(&folder.path().join(argument)).unwrap();
        let name = |source: &Source| match source {
            Source::File(path) => {
                path.strip_prefix(folder.path()).unwrap().to_string_lossy().replace('\\', "/")
            }
            Source::Stdin => "-".into(),
        };
        sources.iter().map(name).collect()
    }

    #[test]
    fn a_folder_gives_its_documents_sorted_without_hidden_ones_and_what_is_none() {
        let folder = place(&["b.md", "a.TXT", "sub/c.pdf", "d.png", ".hidden/e.txt", ".f.txt", "Makefile"]);
        assert_eq!(names(&folder, ""), ["a.TXT", "b.md", "sub/c.pdf"]);
        let also = expand_also(folder.path(), |path| path.ends_with("d.png")).unwrap();
        assert_eq!(also.len(), 4);
        let empty = place(&["d.png"]);
        assert!(matches!(expand(empty.path()), Err(Error::NoDocument { .. })));
    }

    #[test]
    fn a_pattern_gives_what_matches_and_a_file_of_its_name_comes_first() {
        let folder = place(&["a1.txt", "a2.txt", "b.txt", "sub/a3.txt", "x[1].txt", ".a4.txt"]);
        assert_eq!(names(&folder, "a?.txt"), ["a1.txt", "a2.txt"]);
        assert_eq!(names(&folder, "**/a*.txt"), ["a1.txt", "a2.txt", "sub/a3.txt"]);
        assert_eq!(names(&folder, "x[1].txt"), ["x[1].txt"]);
        assert!(matches!(expand(&folder.path().join("z*.txt")), Err(Error::NoDocument { .. })));
        assert!(matches!(expand(Path::new("a/***/b")), Err(Error::Pattern { .. })));
        assert_eq!(expand(Path::new("-")).unwrap(), [Source::Stdin]);
    }

    #[cfg(unix)]
    #[test]
    fn a_link_that_leads_back_ends() {
        let folder = place(&["a.txt"]);
        std::os::unix::fs::symlink(folder.path(), folder.path().join("again")).unwrap();
        std::os::unix::fs::symlink(folder.path().join("a.txt"), folder.path().join("b.txt")).unwrap();
        assert_eq!(names(&folder, ""), ["a.txt", "b.txt"]);
    }
}
