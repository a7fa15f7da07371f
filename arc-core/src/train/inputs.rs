//! What a run is to read and to write, looked at before anything is pulled, loaded or fitted.

use std::fs::File;

use arc_adapters::{Adapter, EncoderManifest, NAME_FORM, Registry, is_name};

use super::config::{RunConfig, Start};
use super::corpus::CorpusManifest;
use crate::prompt::PromptTemplate;
use crate::{Error, Result};

impl RunConfig {
    /// Looks for everything that the run names: encoders and decoders in a registry, adapters that it starts
    /// from, text and questions. What their contents mean for each other is found when they are loaded.
    ///
    /// # Errors
    ///
    /// [`Error::Adapter`] for names and packages, [`Error::Template`], and whatever keeps a file from being
    /// read.
    pub fn check_inputs(&self, registry: &Registry) -> Result<()> {
        // The package at the end of the run has it, and its registry.
        if !is_name(&self.encoder.name) {
            return Err(Error::InvalidValue {
                what: "`encoder.name`".into(),
                found: self.encoder.name.escape_debug().to_string(),
                expected: NAME_FORM.into(),
            });
        }
        if let Some(name) = &self.encoder.start {
            EncoderManifest::open(&registry.encoder(name)?.package)?;
        }
        if let Some(name) = &self.encoder.backbone {
            registry.decoder(name)?;
        }
        for decoder in &self.decoders {
            registry.decoder(&decoder.name)?;
            PromptTemplate::parse(&decoder.template)?;
            if let Start::Package(folder) = &decoder.start {
                Adapter::open(folder)?;
            }
        }
        for source in &self.data.sources {
            CorpusManifest::open(&source.path)?;
        }
        for questions in &self.data.questions {
            File::open(&questions.path).map_err(Error::io("read", &questions.path))?;
        }
        Ok(())
    }
}
