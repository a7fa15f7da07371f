//! Training: the shared encoder and the adapters of one or several frozen decoders.
//!
//! A run is one TOML file ([`RunConfig`]). Its text is prepared once ([`prepare`]) into shards of
//! encoder tokens ([`Corpus`]); each step cuts spans of them ([`BatchPlan`]), asks one decoder to
//! continue or to repeat a text that it sees only as latents ([`training_loss`]), and moves the
//! encoder, the projector and the two special vectors of that decoder ([`AdamW`]). Decoders are
//! constants of the graph: they have no gradient and no place in the optimiser.
//!
//! Everything that is drawn is drawn from the seed and the number of the step, so a run that was
//! interrupted continues as if it had not been ([`Checkpoint`]).
//!
//! Source of the recipe: ARC-Encoder, arXiv 2510.20535, section 3 and appendix A.

mod batch;
mod begin;
mod checkpoint;
mod config;
mod corpus;
mod course;
mod draw;
mod encoder_pass;
mod evaluation;
mod inputs;
mod latents_cache;
mod load;
mod loss;
mod metrics;
mod model;
mod objective;
mod observer;
mod optimizer;
mod package;
mod parameters;
mod passages;
mod prepare;
mod process;
mod provenance;
mod question_prompts;
mod question_writer;
mod questions;
mod ranks;
mod reader_answers;
mod register;
mod report_page;
mod run;
mod runner;
mod schedule;
mod start_from;
mod step;
mod throughput;

pub use batch::{Sample, SampleSpan};
pub use checkpoint::{Checkpoint, CheckpointState, Checkpoints};
pub use config::{
    AdapterConfig, AnswerTargets, DataConfig, EncoderConfig, EvaluationConfig, MeasuredText, ObjectiveConfig,
    OptimizerConfig, QuestionForm, QuestionsConfig, RunConfig, ScheduleConfig, ScheduleShape, SourceConfig,
    Start, StartFrom, StoredWeights, TrainPrecision, TrainedPart,
};
pub use corpus::{Corpus, CorpusManifest, Mixture, ShardRecord, SourceRecord, Window};
pub use course::Ending;
pub use evaluation::{AnswerScore, Evaluation, ReconstructionScore};
pub use loss::{TargetLoss, Targets, target_loss};
pub use metrics::{Event, StepMetrics};
pub use model::{TrainedAdapter, TrainedModel};
pub use objective::{BatchPlan, Objective};
pub use observer::Observer;
pub use optimizer::{AdamW, Gradients, ParameterGroup};
pub use parameters::{named_parameters, with_parameters};
pub use prepare::{PrepareOptions, PrepareReport, PrepareSource, prepare, prepare_questions};
pub use process::{cpu_seconds, peak_memory};
pub use provenance::TrainingPart;
pub use question_prompts::Rejected;
pub use question_writer::{QuestionOptions, QuestionProgress, write_questions};
pub use questions::Questions;
pub use ranks::{Role, Workers};
pub use reader_answers::answer_questions;
pub use register::{RegisterOptions, Registration, register};
pub use run::{RunReport, TrainOptions, train};
pub use schedule::OneCycle;
pub use step::{BatchLoss, StepOptions, training_loss};
pub use throughput::{StepThroughput, measure_peak, measure_steps};
