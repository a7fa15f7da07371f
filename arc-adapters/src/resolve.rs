//! The rule that this project is built on: a decoder's name resolves to an encoder and an adapter.
//!
//! 1. The decoder is the entry of that name or alias.
//! 2. Its encoder is the one that the caller names, else the one that its entry names (`encoder`),
//!    else `default_encoder`. A name that no encoder has is an error wherever it stands. Where
//!    nothing names one there is none: the decoder reads latents that come from elsewhere.
//! 3. Its adapter is the package that the entry names for that encoder (`adapters`), else its usual
//!    one (`plugin` or `adapter`), which may be for another encoder and then says so when latents
//!    meet it.
//!
//! Encoders are compared by their own names, whatever alias was written, so that one answer is given
//! to all who ask. Nothing else spells the rule: the fields that it reads are private to this crate.

use std::collections::BTreeMap;
use std::path::Path;

use crate::{
    Adapter, AdapterManifest, DecoderEntry, DecoderOptions, EncoderEntry, Error, PluginEntry, PluginPolicy,
    Registry, Result,
};

/// What a decoder's name resolves to, alone or with an encoder's beside it.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Pair<'a> {
    /// The decoder.
    pub decoder: &'a DecoderEntry,
    /// The encoder whose latents it reads. None where nothing names one; its latents then come from
    /// elsewhere.
    pub encoder: Option<&'a EncoderEntry>,
    /// Why it is this encoder.
    pub encoder_from: EncoderFrom,
    /// The adapter between them, if the entry names one that may be it.
    pub adapter: Option<AdapterPlace<'a>>,
    /// Why it is this adapter.
    pub adapter_from: AdapterFrom,
}

/// Where an adapter is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterPlace<'a> {
    /// A package.
    Package {
        /// Its folder.
        folder: &'a Path,
        /// The SHA-256 that its `adapter.json` must have, where the entry pins it.
        pin: Option<&'a str>,
    },
    /// A code plugin, which is always pinned.
    Plugin(&'a PluginEntry),
}

/// Who names the encoder of a [`Pair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EncoderFrom {
    /// Whoever asks.
    Caller,
    /// The decoder's entry.
    Entry,
    /// `default_encoder` of a registry.
    Default,
    /// Nobody.
    Nowhere,
}

/// Which field of the entry names the adapter of a [`Pair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum AdapterFrom {
    /// `adapters`, under the encoder's name.
    ForEncoder,
    /// `adapter` or `plugin`: `adapters` has none for the encoder.
    Usual,
    /// None of them.
    Nowhere,
}

impl<'a> AdapterPlace<'a> {
    /// The package folder or the library.
    #[must_use]
    pub fn path(&self) -> &'a Path {
        match self {
            Self::Package { folder, .. } => folder,
            Self::Plugin(plugin) => &plugin.path,
        }
    }

    /// `package` or `plugin`.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Package { .. } => "package",
            Self::Plugin(_) => "plugin",
        }
    }
}

impl<'a> Pair<'a> {
    /// The encoder, where latents are to be made.
    ///
    /// # Errors
    /// [`Error::NoEncoder`] where nothing names one.
    pub fn encoder(&self) -> Result<&'a EncoderEntry> {
        self.encoder.ok_or_else(|| Error::NoEncoder { decoder: Some(self.decoder.name.clone()) })
    }

    /// Where the adapter is.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] where the entry names none that may be it.
    pub fn adapter(&self) -> Result<AdapterPlace<'a>> {
        self.adapter.ok_or_else(|| Error::NoAdapter {
            decoder: self.decoder.name.clone(),
            encoder: self.encoder.map(|encoder| encoder.name.clone()),
            origin: self.decoder.origin.clone(),
        })
    }

    /// How the decoder is used where the caller says nothing.
    #[must_use]
    pub fn options(&self) -> &'a DecoderOptions {
        &self.decoder.options
    }

    /// Reads and verifies the adapter, be it a package or a code plugin, and that it is the one that
    /// the entry pins.
    ///
    /// # Errors
    /// [`Error::NoAdapter`], [`Error::PackageChanged`], otherwise as [`Adapter::open`] and
    /// [`Adapter::load_plugin`].
    pub fn open(&self, policy: &PluginPolicy) -> Result<Adapter> {
        let adapter = self.open_whatever_it_is(policy)?;
        self.check_pin(&adapter)?;
        Ok(adapter)
    }

    /// The same, whether or not it is the one that the entry pins: [`Pair::check_pin`] says that.
    ///
    /// # Errors
    /// As [`Pair::open`], but for the pin.
    pub fn open_whatever_it_is(&self, policy: &PluginPolicy) -> Result<Adapter> {
        match self.adapter()? {
            AdapterPlace::Package { folder, .. } => Adapter::open(folder),
            AdapterPlace::Plugin(plugin) => Adapter::load_plugin(plugin, policy),
        }
    }

    /// Checks that an adapter that was opened here is the one that the entry pins, if it pins one.
    ///
    /// # Errors
    /// [`Error::PackageChanged`].
    pub fn check_pin(&self, adapter: &Adapter) -> Result<()> {
        let Some(AdapterPlace::Package { pin, .. }) = self.adapter else { return Ok(()) };
        match self.changed(pin, &adapter.manifest.name, &adapter.manifest_sha256) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The error that a package is not the one that is pinned, if it is not.
    pub(crate) fn changed(&self, pin: Option<&str>, adapter: &str, found: &str) -> Option<Error> {
        let pin = pin.filter(|pin| *pin != found)?;
        Some(Error::PackageChanged {
            decoder: self.decoder.name.clone(),
            adapter: adapter.to_owned(),
            path: self.adapter?.path().join(crate::MANIFEST_FILE),
            expected: pin.to_owned(),
            found: found.to_owned(),
        })
    }

    /// What a package says about itself, whether or not its weights are here. A plugin says it only
    /// when it runs: [`Pair::open`].
    ///
    /// # Errors
    /// As [`AdapterManifest::open`].
    pub fn described(&self) -> Result<Option<AdapterManifest>> {
        match self.adapter {
            Some(AdapterPlace::Package { folder, .. }) => AdapterManifest::open(folder).map(Some),
            _ => Ok(None),
        }
    }

    /// What to call its adapter beside the others of the decoder.
    #[must_use]
    pub fn label(&self) -> String {
        match (self.encoder_from, self.encoder) {
            (EncoderFrom::Caller, Some(encoder)) => format!("adapter for encoder `{}`", encoder.name),
            (EncoderFrom::Caller, None) => "adapter for other encoders".to_owned(),
            _ => "adapter".to_owned(),
        }
    }

    /// Why it is this encoder and this adapter, in one line.
    #[must_use]
    pub fn why(&self) -> String {
        let encoder = match (self.encoder, self.encoder_from) {
            (Some(encoder), EncoderFrom::Caller) => format!("encoder `{}` was named", encoder.name),
            (Some(encoder), EncoderFrom::Entry) => format!("its entry names encoder `{}`", encoder.name),
            (Some(encoder), _) => format!("encoder `{}` is the default", encoder.name),
            (None, EncoderFrom::Caller) => "any encoder that `adapters` does not name".to_owned(),
            (None, _) => "nothing names an encoder".to_owned(),
        };
        let adapter = match self.adapter_from {
            AdapterFrom::ForEncoder => "and its entry names this adapter for it",
            AdapterFrom::Usual => "and this is the decoder's usual adapter",
            AdapterFrom::Nowhere => "and no adapter is named for it",
        };
        format!("{encoder}, {adapter}")
    }
}

impl Registry {
    /// What a decoder resolves to: with an encoder, or with the one that it is used with where none
    /// is named. Both are names or aliases.
    ///
    /// # Errors
    /// [`Error::UnknownName`] with the nearest names; [`Error::NamesNoEncoder`] where an entry or
    /// `default_encoder` names an encoder that is not there; [`Error::Invalid`] where `adapters` has
    /// two for one encoder.
    pub fn resolve(&self, decoder: &str, encoder: Option<&str>) -> Result<Pair<'_>> {
        let entry = self.decoder(decoder)?;
        let (encoder, encoder_from) = self.encoder_with(entry, encoder)?;
        self.pair(entry, encoder, encoder_from)
    }

    /// The encoder that a name means, or the default one where none is given.
    ///
    /// # Errors
    /// [`Error::UnknownName`] and [`Error::NamesNoEncoder`] as [`Registry::resolve`],
    /// [`Error::NoEncoder`] where nothing names one.
    pub fn encoder_or_default(&self, name: Option<&str>) -> Result<&EncoderEntry> {
        match name {
            Some(name) => self.encoder(name),
            None => self.default_encoder()?.ok_or(Error::NoEncoder { decoder: None }),
        }
    }

    /// The encoder to use where none is named, if a registry says which.
    ///
    /// # Errors
    /// [`Error::NamesNoEncoder`] where it says one that is not there.
    pub fn default_encoder(&self) -> Result<Option<&EncoderEntry>> {
        let Some((name, origin)) = self.default_encoder_text() else { return Ok(None) };
        let named = || "`default_encoder`".to_owned();
        self.encoder(name).map(Some).map_err(|unknown| names_no_encoder(named(), origin, unknown))
    }

    /// Every adapter of a decoder with the encoder that it is used with: first what
    /// [`Registry::resolve`] gives for the name alone, then those for other encoders, then the usual
    /// one where neither of them is it, which goes with every encoder that `adapters` does not name.
    ///
    /// # Errors
    /// As [`Registry::resolve`].
    pub fn pairs(&self, decoder: &str) -> Result<Vec<Pair<'_>>> {
        let entry = self.decoder(decoder)?;
        let (encoder, encoder_from) = self.encoder_with(entry, None)?;
        let usual = self.pair(entry, encoder, encoder_from)?;
        let mut pairs = vec![usual];
        for name in self.adapters_of(entry)?.into_keys() {
            if encoder.is_none_or(|encoder| encoder.name != name) {
                pairs.push(self.pair(entry, Some(self.encoder(name)?), EncoderFrom::Caller)?);
            }
        }
        let place = entry.usual_adapter();
        if usual.adapter_from != AdapterFrom::Usual && place.is_some() {
            pairs.push(Pair {
                decoder: entry,
                encoder: None,
                encoder_from: EncoderFrom::Caller,
                adapter: place,
                adapter_from: AdapterFrom::Usual,
            });
        }
        Ok(pairs)
    }

    /// The encoder that an entry is used with, and who says so.
    pub(crate) fn encoder_with<'a>(
        &'a self,
        entry: &DecoderEntry,
        asked: Option<&str>,
    ) -> Result<(Option<&'a EncoderEntry>, EncoderFrom)> {
        if let Some(name) = asked {
            return Ok((Some(self.encoder(name)?), EncoderFrom::Caller));
        }
        if let Some(name) = &entry.encoder {
            let named = || format!("`encoder` of decoder `{}`", entry.name);
            let found = self.encoder(name);
            let encoder = found.map_err(|unknown| names_no_encoder(named(), &entry.origin, unknown))?;
            return Ok((Some(encoder), EncoderFrom::Entry));
        }
        let default = self.default_encoder()?;
        Ok((default, if default.is_some() { EncoderFrom::Default } else { EncoderFrom::Nowhere }))
    }

    /// The packages that an entry names for encoders, by the encoders' own names.
    pub(crate) fn adapters_of<'a>(
        &'a self,
        entry: &'a DecoderEntry,
    ) -> Result<BTreeMap<&'a str, AdapterPlace<'a>>> {
        let mut adapters = BTreeMap::new();
        for (key, folder) in &entry.adapters {
            let named = || format!("`adapters.{key}` of decoder `{}`", entry.name);
            let found = self.encoder(key);
            let encoder = found.map_err(|unknown| names_no_encoder(named(), &entry.origin, unknown))?;
            if adapters.insert(encoder.name.as_str(), entry.package(folder)).is_some() {
                return Err(Error::Invalid {
                    path: entry.origin.clone(),
                    what: crate::registry::WHAT,
                    reason: format!(
                        "`decoders.{}.adapters` names encoder `{}` twice: `{key}` is an alias of it",
                        entry.name, encoder.name
                    ),
                });
            }
        }
        Ok(adapters)
    }

    fn pair<'a>(
        &'a self,
        entry: &'a DecoderEntry,
        encoder: Option<&'a EncoderEntry>,
        encoder_from: EncoderFrom,
    ) -> Result<Pair<'a>> {
        let adapters = self.adapters_of(entry)?;
        let for_encoder = encoder.and_then(|encoder| adapters.get(encoder.name.as_str()).copied());
        let (adapter, adapter_from) = match (for_encoder, entry.usual_adapter()) {
            (Some(place), _) => (Some(place), AdapterFrom::ForEncoder),
            (None, Some(place)) => (Some(place), AdapterFrom::Usual),
            (None, None) => (None, AdapterFrom::Nowhere),
        };
        Ok(Pair { decoder: entry, encoder, encoder_from, adapter, adapter_from })
    }
}

impl DecoderEntry {
    /// What its entry has as `adapter` or `plugin`. Which adapter is used with an encoder is
    /// [`Registry::resolve`]'s to say: this is for who changes the entry.
    #[must_use]
    pub fn usual_adapter(&self) -> Option<AdapterPlace<'_>> {
        match (&self.plugin, &self.adapter) {
            (Some(plugin), _) => Some(AdapterPlace::Plugin(plugin)),
            (None, Some(folder)) => Some(self.package(folder)),
            (None, None) => None,
        }
    }

    /// Whether the entry names an adapter for an encoder, by its name or an alias.
    #[must_use]
    pub fn names_adapter_for(&self, encoder: &EncoderEntry) -> bool {
        self.adapters.keys().any(|key| encoder.is_called(key))
    }

    /// The same, used with the default encoder of whatever registry it is written to.
    #[must_use]
    pub fn for_the_default_encoder(self) -> Self {
        Self { encoder: None, ..self }
    }

    /// Whether the entry names any adapter.
    #[must_use]
    pub fn names_an_adapter(&self) -> bool {
        self.usual_adapter().is_some() || !self.adapters.is_empty()
    }

    /// Every adapter that the entry names, whichever encoder it is for.
    pub fn adapter_places(&self) -> impl Iterator<Item = AdapterPlace<'_>> {
        self.usual_adapter().into_iter().chain(self.adapters.values().map(|folder| self.package(folder)))
    }

    fn package<'a>(&'a self, folder: &'a Path) -> AdapterPlace<'a> {
        AdapterPlace::Package { folder, pin: self.package_pins.get(folder).map(String::as_str) }
    }
}

impl DecoderEntry {
    /// Whether this is its name or one of its aliases.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}

impl EncoderEntry {
    /// Whether this is its name or one of its aliases.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        self.name == name || self.aliases.iter().any(|alias| alias == name)
    }
}

fn names_no_encoder(key: String, origin: &Path, unknown: Error) -> Error {
    Error::NamesNoEncoder { key, path: origin.to_owned(), unknown: Box::new(unknown) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "schema = 1\ndefault_encoder = 'first'\n\
        [encoders.one]\npackage = 'one'\naliases = ['first']\n\
        [encoders.two]\npackage = 'two'\naliases = ['second']\n\
        [encoders.three]\npackage = 'three'\n\
        [decoders.d]\naliases = ['dd']\nsource = 'file:m'\nadapter = 'usual'\nadapters = { second = 'for-two' }\n";

    fn registry(text: &str) -> Registry {
        Registry::parse(text, Path::new("/r/registry.toml")).unwrap()
    }

    fn path<'a>(pair: &Pair<'a>) -> Option<&'a Path> {
        pair.adapter.map(|place| place.path())
    }

    #[test]
    fn an_encoder_is_the_callers_else_the_entrys_else_the_default() {
        let registry = registry(&format!("{TEXT}[decoders.own]\nsource = 'file:m'\nencoder = 'second'\n"));
        for (decoder, asked, name, from) in [
            ("d", None, "one", EncoderFrom::Default),
            ("own", None, "two", EncoderFrom::Entry),
            ("own", Some("three"), "three", EncoderFrom::Caller),
            ("dd", Some("first"), "one", EncoderFrom::Caller),
        ] {
            let pair = registry.resolve(decoder, asked).unwrap();
            assert_eq!(pair.encoder().unwrap().name, name, "{decoder} {asked:?}");
            assert_eq!(pair.encoder_from, from, "{decoder} {asked:?}");
        }
    }

    #[test]
    fn an_alias_in_adapters_means_the_encoder_that_it_is_an_alias_of() {
        let registry = registry(TEXT);
        for asked in ["two", "second"] {
            let pair = registry.resolve("d", Some(asked)).unwrap();
            assert_eq!(path(&pair), Some(Path::new("/r/for-two")), "{asked}");
            assert_eq!(pair.adapter_from, AdapterFrom::ForEncoder);
        }
        let pair = registry.resolve("d", Some("three")).unwrap();
        assert_eq!((path(&pair), pair.adapter_from), (Some(Path::new("/r/usual")), AdapterFrom::Usual));
        // The default encoder may be named by an alias just as well.
        let by_alias = TEXT.replace("default_encoder = 'first'", "default_encoder = 'second'");
        let registry = self::registry(&by_alias);
        assert_eq!(path(&registry.resolve("d", None).unwrap()), Some(Path::new("/r/for-two")));
        assert_eq!(registry.default_encoder().unwrap().unwrap().name, "two");
    }

    #[test]
    fn a_name_that_no_encoder_has_is_an_error_wherever_it_stands() {
        for (from, to, key) in [
            ("default_encoder = 'first'", "default_encoder = 'thre'", "`default_encoder`"),
            ("source = 'file:m'", "source = 'file:m'\nencoder = 'thre'", "`encoder` of decoder `d`"),
            ("second = 'for-two'", "thre = 'for-two'", "`adapters.thre` of decoder `d`"),
        ] {
            let registry = registry(&TEXT.replace(from, to));
            let error = registry.resolve("d", None).unwrap_err();
            let text = error.to_string();
            assert!(text.starts_with(key), "{text}");
            assert!(text.ends_with("no encoder is called `thre`, the nearest name is `three`"), "{text}");
            assert!(error.hint().unwrap().to_string().contains("/r/registry.toml"), "{:?}", error.hint());
        }
        let error = registry(TEXT).resolve("d", Some("thre")).unwrap_err();
        assert!(matches!(error, Error::UnknownName { .. }), "{error}");
    }

    #[test]
    fn one_encoder_has_one_adapter_of_a_decoder() {
        let twice = TEXT.replace("second = 'for-two'", "second = 'for-two', two = 'other'");
        let error = registry(&twice).resolve("d", None).unwrap_err();
        assert!(error.to_string().contains("`decoders.d.adapters` names encoder `two` twice"), "{error}");
    }

    #[test]
    fn a_decoder_without_an_encoder_has_its_usual_adapter() {
        let registry = registry(&TEXT.replace("default_encoder = 'first'\n", ""));
        let pair = registry.resolve("d", None).unwrap();
        assert_eq!((pair.encoder, pair.encoder_from), (None, EncoderFrom::Nowhere));
        assert_eq!(path(&pair), Some(Path::new("/r/usual")));
        let error = pair.encoder().unwrap_err();
        assert_eq!(
            error.to_string(),
            "no encoder is named for decoder `d`, neither by its entry nor as `default_encoder`"
        );
    }

    #[test]
    fn every_adapter_is_among_the_pairs_once() {
        let paths = |text: &str| {
            let registry = registry(text);
            let pairs = registry.pairs("d").unwrap();
            pairs.iter().map(|pair| (pair.label(), path(pair).unwrap().to_owned())).collect::<Vec<_>>()
        };
        let pair = |label: &str, path: &str| (label.to_owned(), Path::new("/r").join(path));
        assert_eq!(paths(TEXT), [pair("adapter", "usual"), pair("adapter for encoder `two`", "for-two")]);
        // With the other encoder as the default, what was usual goes with all that are not named.
        let other = TEXT.replace("default_encoder = 'first'", "default_encoder = 'two'");
        assert_eq!(paths(&other), [pair("adapter", "for-two"), pair("adapter for other encoders", "usual")]);
    }

    #[test]
    fn the_shipped_registry_resolves_with_either_of_its_encoders_as_the_default() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../registry.toml");
        let text = std::fs::read_to_string(&path).unwrap();
        for encoder in ["arc-mini", "smollm2-start"] {
            let changed =
                text.replace("default_encoder = \"arc-mini\"", &format!("default_encoder = {encoder:?}"));
            let registry = Registry::parse(&changed, &path).unwrap();
            let id = |path: &Path| crate::EncoderManifest::open(path).unwrap().encoder_id;
            for name in ["smollm2-135m", "gemma3-270m", "qwen2.5-coder-0.5b"] {
                let pair = registry.resolve(name, None).unwrap();
                assert_eq!(pair.encoder().unwrap().name, encoder);
                let manifest = pair.described().unwrap().unwrap();
                manifest.check_encoder(&id(&pair.encoder().unwrap().package)).unwrap();
            }
        }
    }
}
