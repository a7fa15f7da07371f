//! One file per command.

pub(crate) mod adapters;
pub(crate) mod ask;
pub(crate) mod bench;
pub(crate) mod check_reference;
pub(crate) mod compress;
mod destination;
pub(crate) mod devices;
pub(crate) mod eval;
pub(crate) mod export;
pub(crate) mod fit;
pub(crate) mod generate;
pub(crate) mod import;
pub(crate) mod models;
pub(crate) mod plan;
pub(crate) mod prepare;
mod prompt_form;
pub(crate) mod pull;
mod question_writing;
pub(crate) mod register;
mod setup;
mod shared_run;
mod target;
pub(crate) mod train;
