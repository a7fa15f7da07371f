//! Where a store lies: a folder, or a prefix in an object store.

use std::fmt;
use std::fs::File;
use std::future::Future;
use std::ops::Range;
use std::path::{Component, Path as FilePath, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::SystemTime;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt as _, PutMode, PutOptions};
use tokio::runtime::{Builder, Runtime};

use crate::error::ObjectErrorKind;
use crate::{Error, Result};

/// How many may write to a store at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Writers {
    /// Any number. The place must refuse to write over an object that is there; every folder and most
    /// object stores do.
    #[default]
    Many,
    /// One, and whoever opens the store answers for it: for places without conditional writes.
    One,
}

/// A folder, or a prefix in an object store.
#[derive(Clone)]
pub struct Place {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    name: String,
    /// The folder, where it is one.
    folder: Option<PathBuf>,
    writers: Writers,
}

/// An object as it is listed.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    /// Its name in the store: `segments/….parquet`.
    pub(crate) name: String,
    pub(crate) modified: SystemTime,
}

impl Place {
    /// Reads the name of a place: a folder, or `file://`, `s3://`, `gs://`, `az://` and their kin. Cloud
    /// stores take their credentials from the usual variables (`AWS_ACCESS_KEY_ID`, …).
    ///
    /// # Errors
    ///
    /// [`Error::Place`] if it is none, or of a kind that this build leaves out.
    pub fn parse(name: &str, writers: Writers) -> Result<Self> {
        let invalid = |reason: String| Error::Place { place: name.to_owned(), reason };
        let Some((scheme, _)) = name.split_once("://") else {
            return Self::folder(FilePath::new(name), writers);
        };
        let url = url::Url::parse(name).map_err(|error| invalid(error.to_string()))?;
        if scheme == "file" {
            let folder = url.to_file_path().map_err(|()| invalid("it names no file path".into()))?;
            return Self::folder(&folder, writers);
        }
        let (objects, prefix) = cloud(&url).map_err(|error| invalid(one_line(&error)))?;
        let name = name.trim_end_matches('/').to_owned();
        Ok(Self { objects, prefix, name, folder: None, writers })
    }

    /// A folder of this machine, which need not be there yet.
    ///
    /// # Errors
    ///
    /// [`Error::Place`] if the path cannot be made absolute.
    pub fn folder(folder: &FilePath, writers: Writers) -> Result<Self> {
        let name = folder.display().to_string();
        let invalid = |reason: String| Error::Place { place: name.clone(), reason };
        let absolute = absolute(folder).map_err(|error| invalid(error.to_string()))?;
        let prefix = Path::from_absolute_path(&absolute).map_err(|error| invalid(error.to_string()))?;
        // What is reported as committed survives a power cut.
        let objects = Arc::new(LocalFileSystem::new().with_fsync(true));
        Ok(Self { objects, prefix, name, folder: Some(absolute), writers })
    }

    /// The place of objects that somebody else opened, under a prefix.
    #[must_use]
    pub fn of_objects(objects: Arc<dyn ObjectStore>, prefix: &str, writers: Writers) -> Self {
        Self { objects, prefix: Path::from(prefix), name: prefix.to_owned(), folder: None, writers }
    }

    /// The folder, where it is one.
    #[must_use]
    pub fn as_folder(&self) -> Option<&FilePath> {
        self.folder.as_deref()
    }

    /// An object's name with the place before it, for messages.
    pub(crate) fn full_name(&self, object: &str) -> String {
        format!("{}/{object}", self.name.trim_end_matches('/'))
    }

    fn path(&self, object: &str) -> Path {
        object.split('/').fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn failed(&self, action: &'static str, object: &str) -> impl FnOnce(object_store::Error) -> Error {
        let object = self.full_name(object);
        move |error| Error::Object { action, object, kind: kind(&error), reason: one_line(&error) }
    }

    /// The whole of an object.
    pub(crate) fn read(&self, object: &str) -> Result<Bytes> {
        let (objects, path) = (Arc::clone(&self.objects), self.path(object));
        let read = wait(async move { objects.get(&path).await?.bytes().await });
        read.map_err(self.failed("read", object))
    }

    /// A part of an object.
    pub(crate) fn read_range(&self, object: &str, range: Range<u64>) -> Result<Bytes> {
        let (objects, path) = (Arc::clone(&self.objects), self.path(object));
        wait(async move { objects.get_range(&path, range).await }).map_err(self.failed("read", object))
    }

    /// The file of an object, where the place is a folder.
    pub(crate) fn open_file(&self, object: &str) -> Option<Result<File>> {
        let path = object.split('/').fold(self.folder.clone()?, |path, part| path.join(part));
        Some(File::open(path).map_err(|error| Error::Object {
            action: "read",
            object: self.full_name(object),
            kind: kind_of_io(error.kind()),
            reason: error.to_string(),
        }))
    }

    /// The size of an object, in bytes.
    pub(crate) fn size(&self, object: &str) -> Result<u64> {
        let (objects, path) = (Arc::clone(&self.objects), self.path(object));
        let head = wait(async move { objects.head(&path).await }).map_err(self.failed("read", object))?;
        Ok(head.size)
    }

    /// Writes an object under a name that nobody else uses. It is there whole or not at all.
    pub(crate) fn write(&self, object: &str, bytes: Bytes) -> Result<()> {
        let (objects, path) = (Arc::clone(&self.objects), self.path(object));
        let written = wait(async move { objects.put(&path, bytes.into()).await });
        written.map(drop).map_err(self.failed("write", object))
    }

    /// Writes an object unless there is one of that name; `false` if there is. Of several who try, one
    /// succeeds.
    pub(crate) fn create(&self, object: &str, bytes: Bytes) -> Result<bool> {
        if self.writers == Writers::One {
            return match self.size(object) {
                Ok(_) => Ok(false),
                Err(error) if error.is_not_found() => self.write(object, bytes).map(|()| true),
                Err(error) => Err(error),
            };
        }
        let (objects, path) = (Arc::clone(&self.objects), self.path(object));
        let options = PutOptions::from(PutMode::Create);
        let put = wait(async move { objects.put_opts(&path, bytes.into(), options).await });
        match put {
            Ok(_) => Ok(true),
            Err(object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }) => {
                Ok(false)
            }
            Err(error) if is_not_implemented(&error) => {
                Err(Error::NoConditionalPut { place: self.name.clone(), reason: one_line(&error) })
            }
            Err(error) => Err(self.failed("write", object)(error)),
        }
    }

    /// Deletes an object; one that is not there is no failure.
    pub(crate) fn delete(&self, object: &str) -> Result<()> {
        let (objects, path) = (Arc::clone(&self.objects), self.path(object));
        match wait(async move { objects.delete(&path).await }) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed("delete", object)(error)),
        }
    }

    /// The objects of a folder of the store, sorted by name.
    pub(crate) fn list(&self, folder: &str) -> Result<Vec<Listed>> {
        let (objects, path) = (Arc::clone(&self.objects), self.path(folder));
        let listed = wait(async move { objects.list(Some(&path)).try_collect::<Vec<_>>().await });
        let mut listed: Vec<Listed> = listed
            .map_err(self.failed("list", folder))?
            .into_iter()
            .filter_map(|meta| {
                let name = format!("{folder}/{}", meta.location.filename()?);
                Some(Listed { name, modified: meta.last_modified.into() })
            })
            .collect();
        listed.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(listed)
    }

    /// Deletes what interrupted writers left in a folder of this machine: files that were being written
    /// under a name of their own (`NAME#1`), older than `age`.
    pub(crate) fn delete_unfinished(&self, folder: &str, age: std::time::Duration) -> u64 {
        let Some(root) = &self.folder else { return 0 };
        let Ok(entries) = std::fs::read_dir(root.join(folder)) else { return 0 };
        let unfinished = entries.flatten().filter(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            let staged = name.rsplit_once('#').is_some_and(|(_, digits)| digits.parse::<u32>().is_ok());
            let modified = entry.metadata().and_then(|metadata| metadata.modified());
            staged && modified.is_ok_and(|modified| modified.elapsed().is_ok_and(|since| since > age))
        });
        unfinished.filter(|entry| std::fs::remove_file(entry.path()).is_ok()).count() as u64
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("name", &self.name)
            .field("writers", &self.writers)
            .finish_non_exhaustive()
    }
}

/// A path from the root, without links and `..`, whether or not all of it is there yet.
fn absolute(path: &FilePath) -> std::io::Result<PathBuf> {
    let absolute = std::path::absolute(path)?;
    let there = absolute.ancestors().find_map(|part| Some((part, part.canonicalize().ok()?)));
    let Some((there, mut real)) = there else { return Ok(absolute) };
    for component in absolute.strip_prefix(there).unwrap_or(FilePath::new("")).components() {
        match component {
            Component::ParentDir => drop(real.pop()),
            component => real.push(component),
        }
    }
    Ok(real)
}

/// The objects behind a URL, and the prefix in them.
#[cfg(feature = "cloud")]
fn cloud(url: &url::Url) -> Result<(Arc<dyn ObjectStore>, Path), object_store::Error> {
    install_tls();
    // `AWS_ENDPOINT_URL` and its kin; keys that a store does not know are passed over.
    let (objects, prefix) = object_store::parse_url_opts(url, std::env::vars())?;
    Ok((objects.into(), prefix))
}

/// TLS is rustls on ring, as it is for downloads; reqwest takes what the process has installed.
#[cfg(feature = "cloud")]
fn install_tls() {
    let _ = rustls::crypto::ring::default_provider().install_default();
}

#[cfg(not(feature = "cloud"))]
fn cloud(url: &url::Url) -> Result<(Arc<dyn ObjectStore>, Path), object_store::Error> {
    Err(object_store::Error::NotSupported {
        source: format!("this build reads folders alone; `{}://` needs the feature `cloud`", url.scheme())
            .into(),
    })
}

/// Waits for something that the object store does, on threads of its own: the caller may be on a thread of
/// another runtime, which must not be blocked on from within.
fn wait<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| {
        let mut builder = Builder::new_multi_thread();
        builder.worker_threads(2).thread_name("arc-store").enable_all();
        builder.build().expect("the system gives threads")
    });
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    runtime.spawn(async move {
        let _ = sender.send(future.await);
    });
    receiver.recv().expect("a task of the runtime ends with its value")
}

fn is_not_implemented(error: &object_store::Error) -> bool {
    match error {
        object_store::Error::NotImplemented { .. } | object_store::Error::NotSupported { .. } => true,
        // What S3's kin answer who do not know the header.
        error => {
            let text = one_line(error);
            text.contains("NotImplemented") || text.contains("501 Not Implemented")
        }
    }
}

fn kind(error: &object_store::Error) -> ObjectErrorKind {
    match error {
        object_store::Error::NotFound { .. } => ObjectErrorKind::NotFound,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. } => {
            ObjectErrorKind::Exists
        }
        object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. } => {
            ObjectErrorKind::Denied
        }
        error => {
            let mut source = std::error::Error::source(error);
            while let Some(inner) = source {
                if let Some(io) = inner.downcast_ref::<std::io::Error>() {
                    return kind_of_io(io.kind());
                }
                source = inner.source();
            }
            ObjectErrorKind::Other
        }
    }
}

fn kind_of_io(kind: std::io::ErrorKind) -> ObjectErrorKind {
    use std::io::ErrorKind::{FileTooLarge, NotFound, PermissionDenied, QuotaExceeded, StorageFull};
    match kind {
        NotFound => ObjectErrorKind::NotFound,
        PermissionDenied => ObjectErrorKind::Denied,
        StorageFull | QuotaExceeded | FileTooLarge => ObjectErrorKind::Full,
        _ => ObjectErrorKind::Other,
    }
}

/// An error with what it was caused by, in one line, each reason once.
fn one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        let reason = inner.to_string();
        if !text.contains(&reason) {
            text = format!("{text}: {reason}");
        }
        source = inner.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}
