//! What to do about an error, for a library's user and for a program that has options for it.

use std::fmt;
use std::path::PathBuf;

/// What to do about an error.
///
/// As text it is advice to somebody who calls this crate. A program with options of its own matches what
/// it can say better, as the command line `arc` does.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Hint {
    /// Advice that holds whoever asked.
    Advice(String),
    /// A download was declined: agree to downloads.
    AgreeToDownloads,
    /// A file that anybody on the way could have changed: pin it, or take it from an `https:` address.
    Sha256OrHttps,
    /// The weights of an encoder that is only described have to be imported.
    Import {
        /// The encoder's name.
        encoder: String,
    },
    /// An encoder has to be imported again, with a tokenizer.
    ImportWithTokenizer,
    /// An adapter has to be fitted.
    Fit {
        /// For which decoder.
        decoder: String,
    },
    /// Only encoders of one checkpoint can be exported together.
    ExportOne,
    /// A device is of a kind that this build does not have.
    BuildOrCpu {
        /// The feature that builds it.
        feature: String,
    },
    /// The folder of a run is not empty: resume that run, or begin another elsewhere.
    ResumeOrElsewhere,
    /// A run goes on with the configuration that it began with.
    ResumeWith(PathBuf),
    /// What a run reads has changed since it began.
    PutBackOrElsewhere,
    /// A run's device failed, and the run can go on.
    ResumeAfterFailure,
    /// A corpus has too little held out.
    LargerHeldOut,
    /// Examples hide their facts in texts of their own, of which there are too few.
    MoreTextsOrNoShots,
    /// Examples stand on the documents of the questions.
    OtherSplitOrNoShots,
    /// Questions have no answers of a decoder, which a run is to learn from.
    AnswersOf {
        /// The decoder.
        decoder: String,
    },
    /// A task's data are not there.
    FetchData,
    /// A value is none that is accepted.
    CorrectValue,
    /// A row of a data file is malformed: correct it, or leave it out.
    CorrectRow,
    /// A process of a shared run was lost, and the run can go on.
    ResumeAllRanks,
    /// A model's chat template cannot be rendered: ask in another form, or give it another template.
    OtherForm,
    /// What to do about an error of a registry, an adapter package or a plugin.
    Adapter(Box<arc_adapters::Hint>),
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Advice(advice) => advice,
            Self::AgreeToDownloads => "agree to downloads of this length",
            Self::Sha256OrHttps => "give its sha256, or an `https:` address",
            Self::Import { encoder } => return write!(f, "import the checkpoint of `{encoder}`"),
            Self::ImportWithTokenizer => "import it again with a tokenizer",
            Self::Fit { decoder } => return write!(f, "fit one for `{decoder}`"),
            Self::ExportOne => "export one decoder at a time",
            Self::BuildOrCpu { feature } => {
                return write!(f, "build with the feature `{feature}`, or compute on the CPU");
            }
            Self::ResumeOrElsewhere => "resume the run that it holds, or name another folder",
            Self::ResumeWith(path) => {
                return write!(
                    f,
                    "a run goes on with the configuration that it began with, which is `{}`",
                    path.display()
                );
            }
            Self::PutBackOrElsewhere => "put back what the run began with, or begin another in a folder of its own",
            Self::ResumeAfterFailure => "the device failed: resume the run",
            Self::LargerHeldOut => "prepare the corpus again with a larger share held out",
            Self::MoreTextsOrNoShots => {
                "examples hide their facts in texts of their own: add texts, or ask for no shots"
            }
            Self::OtherSplitOrNoShots => "take the examples from another split, or ask for no shots",
            Self::CorrectValue => "correct that value",
            Self::CorrectRow => "correct that row",
            Self::ResumeAllRanks => {
                "the last checkpoint is as it was: look at the `rank-N.log` files beside its folder, and resume the \
                 run"
            }
            Self::OtherForm => {
                "it is the model's own: ask with another form, or put a `chat_template.jinja` beside its weights"
            }
            Self::Adapter(hint) => return hint.fmt(f),
            Self::AnswersOf { decoder } => {
                return write!(f, "have `{decoder}` answer the questions, and prepare them with its answers");
            }
            Self::FetchData => "its data lie beside the task's file, or in one of the folders given for data",
        })
    }
}

impl From<&str> for Hint {
    fn from(advice: &str) -> Self {
        Self::Advice(advice.to_owned())
    }
}

impl From<String> for Hint {
    fn from(advice: String) -> Self {
        Self::Advice(advice)
    }
}
