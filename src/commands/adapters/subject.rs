//! What an ADAPTER argument means: a decoder of the registry, or a file or folder.

use std::path::{Path, PathBuf};

use arc_adapters::{
    Adapter, AdapterPlace, EntryKind, MANIFEST_FILE, PluginEntry, PluginPolicy, Registry, Staging,
    sha256_file, unpack,
};

use crate::Failure;
use crate::args::Global;
use crate::commands::registries::registry;

/// What a name is of: said, or known from the registry. One that is of both is not guessed at.
pub(super) fn kind_of(
    registry: &Registry,
    name: &str,
    is_decoder: bool,
    is_encoder: bool,
) -> Result<EntryKind, Failure> {
    if is_encoder {
        return Ok(EntryKind::Encoder);
    }
    if is_decoder {
        return Ok(EntryKind::Decoder);
    }
    match (registry.decoder(name), registry.encoder(name)) {
        (Ok(_), Ok(_)) => Err(Failure::usage(
            format!("`{name}` names a decoder and an encoder"),
            "say which is meant with `--decoder` or `--encoder`",
        )),
        (Ok(_), Err(_)) => Ok(EntryKind::Decoder),
        (Err(_), Ok(_)) => Ok(EntryKind::Encoder),
        (Err(_), Err(_)) => Err(registry.unknown_name(name).into()),
    }
}

/// Something that holds an adapter.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "there is one in a command")]
pub(super) enum Subject {
    /// A decoder of the registry, by its name.
    Decoder(Registry, String),
    /// A package folder.
    Package(PathBuf),
    /// An archive file.
    Archive(PathBuf),
    /// A shared library.
    Plugin(PathBuf),
}

impl Subject {
    /// A name of the registry, unless the text is written as a path; else what lies at the path.
    pub(super) fn find(global: &Global, text: &str) -> Result<Self, Failure> {
        let path = Path::new(text);
        if !text.contains(['/', std::path::MAIN_SEPARATOR]) {
            let found = registry(global).and_then(|registry| {
                let name = registry.decoder(text)?.name.clone();
                Ok((registry, name))
            });
            match found {
                Ok((registry, name)) => return Ok(Self::Decoder(registry, name)),
                Err(unknown) if !path.exists() => return Err(unknown),
                Err(_) => {}
            }
        }
        Ok(Self::at(path))
    }

    /// What lies at a path.
    pub(super) fn at(path: &Path) -> Self {
        let is_library = path.to_string_lossy().ends_with(std::env::consts::DLL_SUFFIX);
        if path.is_dir() || path.join(MANIFEST_FILE).exists() {
            Self::Package(path.to_owned())
        } else if is_library {
            Self::Plugin(path.to_owned())
        } else {
            Self::Archive(path.to_owned())
        }
    }

    /// The package folder, if it is one: of a decoder, the one that its name resolves to.
    pub(super) fn folder(&self) -> Option<&Path> {
        match self {
            Self::Decoder(registry, name) => match registry.resolve(name, None).ok()?.adapter? {
                AdapterPlace::Package { folder, .. } => Some(folder),
                _ => None,
            },
            Self::Package(folder) => Some(folder),
            Self::Archive(_) | Self::Plugin(_) => None,
        }
    }

    /// Reads and verifies the adapter.
    pub(super) fn open(&self, policy: &PluginPolicy) -> arc_adapters::Result<Adapter> {
        match self {
            Self::Decoder(registry, name) => registry.resolve(name, None)?.open(policy),
            Self::Package(folder) => Adapter::open(folder),
            Self::Archive(path) => {
                // Swept by the next one where this process is killed.
                let folder = Staging::within(&std::env::temp_dir())?;
                let mut adapter = Adapter::open(&unpack(path, &folder.new_folder(), None)?.path)?;
                adapter.origin.clone_from(path);
                Ok(adapter)
            }
            Self::Plugin(path) => {
                // It is pinned by what it is now: the user points at this very file.
                let plugin = PluginEntry::new(path.clone(), sha256_file(path)?);
                Adapter::load_plugin(&plugin, &policy_for(path, policy))
            }
        }
    }
}

/// The policy with the folder of a plugin that the user has pointed at.
pub(super) fn policy_for(plugin: &Path, policy: &PluginPolicy) -> PluginPolicy {
    let mut policy = policy.clone();
    let folder = plugin.parent().filter(|folder| !folder.as_os_str().is_empty());
    policy.folders.push(folder.unwrap_or(Path::new(".")).to_owned());
    policy
}
