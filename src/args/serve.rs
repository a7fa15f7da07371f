//! `arc serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;

/// What `arc serve` takes. It is the same where this build has no server, so that the manual is.
#[derive(Debug, Args)]
pub(crate) struct Serve {
    /// The address to listen on; other than on a loopback address a key is needed
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// The port to listen on; 0 is any that is free
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// A key that requests are to have, of 16 characters or more; may be repeated. Others see the arguments of a
    /// process: `--api-key-file` and the variable keep it to yourself
    #[arg(long, value_name = "KEY", env = "ARC_API_KEY", hide_env_values = true)]
    pub api_key: Vec<String>,
    /// A file of such keys, one a line
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// A folder of latents files, as `arc compress DIR -o DIR` writes it: requests name them by id
    #[arg(long, value_name = "DIR")]
    pub documents: Option<PathBuf>,
    /// Decoders to load at the start, of which `/ready` tells; the registry's `default_decoder` where there is one
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub preload: Option<Vec<String>>,
    /// Texts that one decoder writes at a time
    #[arg(long, value_name = "COUNT", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub batch: u16,
    /// Requests that may wait for a place in a batch: of more, the next are told to come again
    #[arg(long, value_name = "COUNT", default_value_t = 64)]
    pub queue: u16,
    /// Requests that are worked on or wait at a time, with those whose documents are being compressed
    #[arg(long, value_name = "COUNT", default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..))]
    pub requests: u16,
    /// New tokens of one answer, at most
    #[arg(long, value_name = "COUNT", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_tokens: u32,
    /// The longest body of a request
    #[arg(long, value_name = "BYTES", default_value = "8MiB")]
    pub max_body: bytesize::ByteSize,
    /// Memory for keys and values of what is being written
    #[arg(long, value_name = "BYTES", default_value = "2GiB")]
    pub kv_memory: bytesize::ByteSize,
    /// Memory for latents, so that a document is compressed once whoever asks
    #[arg(long, value_name = "BYTES", default_value = "512MiB")]
    pub latents_memory: bytesize::ByteSize,
    /// Memory for weights: what was used least recently is let go; all stay where it is left out
    #[arg(long, value_name = "BYTES")]
    pub weights_memory: Option<bytesize::ByteSize>,
    /// How many seconds a request may take
    #[arg(long, value_name = "SECONDS", default_value_t = 300, value_parser = clap::value_parser!(u32).range(1..))]
    pub timeout: u32,
    /// Write the log as JSON, one object a line
    #[arg(long)]
    pub log_json: bool,
}
