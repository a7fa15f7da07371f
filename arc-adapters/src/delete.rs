//! Deleting what a registry no longer names.

use std::io;
use std::path::Path;

use crate::archive::is_document;
use crate::files::io_error;
use crate::{
    AdapterManifest, ENCODER_FILE, EncoderManifest, EncoderWeights, MANIFEST_FILE, Result, WeightsFile,
};

/// Deletes the adapter or encoder package in a folder: its manifest, the files that the manifest names, and the
/// documents that an archive may have beside them. The folder goes too, unless something else is in it. Returns
/// whether it is gone. A folder that is a link stays, empty.
///
/// # Errors
/// [`Error::Io`](crate::Error::Io); as [`AdapterManifest::open`] and [`EncoderManifest::open`] for a manifest
/// that cannot be read, of which nothing is deleted.
pub fn delete_package(folder: &Path) -> Result<bool> {
    let mut files: Vec<String> = Vec::new();
    if folder.join(ENCODER_FILE).is_file() {
        files.extend(files_of_encoder(EncoderManifest::open(folder)?));
        files.push(ENCODER_FILE.to_owned());
    }
    if folder.join(MANIFEST_FILE).is_file() {
        files.push(AdapterManifest::open(folder)?.weights.file);
        files.push(MANIFEST_FILE.to_owned());
    }
    if files.is_empty() {
        return Ok(!folder.exists());
    }
    let entries = folder.read_dir().map_err(io_error("read", folder))?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let documents: Vec<String> = names.filter(|name| is_document(name)).collect();
    // The manifests last: a package whose deletion was cut off can be deleted again.
    for name in documents.into_iter().chain(files) {
        let path = folder.join(name);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io_error("delete", &path)(error));
            }
            _ => {}
        }
    }
    // What is not empty, or a link, is not removed by this.
    Ok(std::fs::remove_dir(folder).is_ok())
}

fn files_of_encoder(manifest: EncoderManifest) -> Vec<String> {
    let beside = [manifest.tokenizer, manifest.memory, manifest.rarity];
    let mut files: Vec<String> = beside.into_iter().flatten().map(|WeightsFile { file, .. }| file).collect();
    if let EncoderWeights::Full { file, .. } | EncoderWeights::Lora { file, .. } = manifest.weights {
        files.push(file);
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::AdapterPackage;
    use crate::package::tests::tensors;
    use crate::{Adapter, WeightType};

    #[test]
    fn a_package_goes_whole_and_what_is_no_part_of_it_stays() {
        let root = tempfile::tempdir().unwrap();
        let manifest = crate::manifest::tests::example();
        let folder = root.path().join("tiny");
        AdapterPackage::write(&folder, &manifest, &tensors(WeightType::F16)).unwrap();
        std::fs::write(folder.join("README.md"), "read me").unwrap();
        assert!(Adapter::open(&folder).is_ok());
        assert!(delete_package(&folder).unwrap());
        assert!(!folder.exists());

        AdapterPackage::write(&folder, &manifest, &tensors(WeightType::F16)).unwrap();
        std::fs::write(folder.join("notes.txt"), "mine").unwrap();
        assert!(!delete_package(&folder).unwrap());
        let left: Vec<_> = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
        // It is no package any more, and nothing of it is touched.
        assert!(!delete_package(&folder).unwrap());
        assert!(folder.join("notes.txt").exists());
    }

    #[test]
    fn of_a_package_that_cannot_be_read_nothing_is_deleted() {
        let root = tempfile::tempdir().unwrap();
        std::fs::write(root.path().join(MANIFEST_FILE), "{}").unwrap();
        std::fs::write(root.path().join("README.md"), "read me").unwrap();
        assert!(delete_package(root.path()).is_err());
        assert_eq!(root.path().read_dir().unwrap().count(), 2);
    }
}
