//! What to do about an error, in the words of the command line: the libraries say what, and know no options.

use std::path::Path;

use arc_adapters::{Check, Outcome, Remedy};
use arc_core::hub::Cache;
use arc_core::{Error, Hint};

/// What to do about an error.
pub(crate) fn of_error(error: &Error) -> Option<String> {
    match error {
        // The cache is the one place that is not named on the command line.
        Error::Io { path, .. } if error.is_disk_full() && is_in_cache(path) => {
            Some("free some space, or set `ARC_HOME` to a folder on another disk".to_owned())
        }
        error => error.hint().map(|hint| worded(&hint)),
    }
}

/// Whether a path lies in the folder that models are pulled into.
fn is_in_cache(path: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    Cache::from_env().is_ok_and(|cache| absolute(path).starts_with(absolute(cache.folder())))
}

/// A hint of `arc-core`, with the option that does what it says.
pub(crate) fn worded(hint: &Hint) -> String {
    match hint {
        Hint::Adapter(hint) => of_adapter(hint),
        Hint::AgreeToDownloads => "pass `--yes` to agree to downloads".to_owned(),
        Hint::Sha256OrHttps => "give its `--sha256`, or an `https:` address".to_owned(),
        Hint::Import { encoder } => {
            format!("`arc import --name {encoder}` fetches and imports its checkpoint")
        }
        Hint::ImportWithTokenizer => "import it again with `--tokenizer FILE`".to_owned(),
        Hint::Fit { decoder } => format!("make one with `arc fit --decoder {decoder}`"),
        Hint::ExportOne => "export one decoder, with `--decoder-names`".to_owned(),
        Hint::BuildOrCpu { feature } => {
            format!("build with `cargo build --release --features {feature}`, or use `--device cpu`")
        }
        Hint::ResumeOrElsewhere => "go on with `--resume`, or name another folder".to_owned(),
        Hint::ResumeWith(configuration) => format!(
            "a run goes on with the configuration that it began with: `arc train {} --resume`",
            configuration.display()
        ),
        Hint::PutBackOrElsewhere => {
            "put back what the run began with, or begin another with `--out`".to_owned()
        }
        Hint::ResumeAfterFailure => "the device failed: start the run again with `--resume`".to_owned(),
        Hint::ResumeAllRanks => {
            "the last checkpoint is as it was: look at the `rank-N.log` files beside its folder, and go on with \
             `--resume`"
                .to_owned()
        }
        Hint::LargerHeldOut => "prepare the corpus again with a larger `--held-out`".to_owned(),
        Hint::MoreTextsOrNoShots => {
            "examples hide their facts in texts of their own: add texts, or say `--shots 0`".to_owned()
        }
        Hint::OtherSplitOrNoShots => {
            "take the examples from another split, or say `--shots 0`".to_owned()
        }
        Hint::AnswersOf { decoder } => {
            format!("have it written with `arc data prepare questions --answered-by {decoder}`")
        }
        Hint::FetchData => {
            "fetch SQuAD and BoolQ with `arc data prepare eval`; other data lie beside the task's file, or in a \
             folder named with `--data DIR`"
                .to_owned()
        }
        Hint::OtherForm => {
            "it is the model's own: ask with another `--form`, or put a `chat_template.jinja` beside its weights"
                .to_owned()
        }
        hint => hint.to_string(),
    }
}

/// A hint of `arc-adapters`, with the option that does what it says.
pub(crate) fn of_adapter(hint: &arc_adapters::Hint) -> String {
    use arc_adapters::Hint;
    match hint {
        Hint::NameRegistry => {
            "no registry was read: run where a `registry.toml` is, or pass `--registry FILE`".to_owned()
        }
        Hint::NameEncoder => "name one with `--encoder`, or set `default_encoder` in a registry".to_owned(),
        Hint::OtherName { kind: "encoder" } => {
            "choose another name with `--name`: `arc adapters list` shows what has this one".to_owned()
        }
        Hint::Import { encoder } => {
            format!("`arc import --name {encoder}` fetches and imports its checkpoint")
        }
        Hint::Fit { decoder } => format!(
            "fit one with `arc fit --decoder {decoder}`, or add a package with `arc adapters add`"
        ),
        Hint::AddBackbone { decoder, sha256 } => format!(
            "add decoder `{decoder}` with `arc adapters add --name {decoder} --source SOURCE`, pinned as \
             `{sha256}`"
        ),
        Hint::AllowPlugins => {
            "it runs foreign code with your rights: if you trust it, pass `--allow-plugins`, or have the registry \
             that names it, and your own, say `allow_code_plugins = true` and none `false`"
                .to_owned()
        }
        Hint::IsolatedPlugin => {
            "this is a bug in the plugin, contained by `--isolate-plugins`: tell its maker".to_owned()
        }
        Hint::PinAnew => {
            "if the change is yours, pin it anew with `arc adapters add FOLDER --replace`; `--force` uses it all \
             the same, and the output will say so"
                .to_owned()
        }
        Hint::OverridePin => {
            "use the model that the adapter was made for, or pass `--force` to go on; the output will say so"
                .to_owned()
        }
        Hint::OrOtherDefault(hint) => format!("{}, or set another `default_encoder`", of_adapter(hint)),
        hint => hint.to_string(),
    }
}

/// The same hint, as text of the command line: reports of the library are printed as they are.
pub(crate) fn reworded(hint: Option<arc_adapters::Hint>) -> Option<arc_adapters::Hint> {
    hint.map(|hint| of_adapter(&hint).into())
}

/// What to do about an adapter that a check refuses.
pub(crate) fn of_refused(check: &Check) -> String {
    let Outcome::Failed { hint, .. } = &check.outcome else { return String::new() };
    let hint = hint.as_ref().map(of_adapter).unwrap_or_default();
    match &check.remedy {
        None => hint,
        Some(Remedy::OtherDecoder) => {
            format!("{hint} with `--name`, or pass `--force` to add it all the same")
        }
        Some(Remedy::ForEncoder(name)) => {
            format!("{hint}, with `--for-encoder {name}`, or pass `--force` to add it all the same")
        }
        Some(_) => {
            "add one that was made for this encoder, or pass `--force` to add it all the same".to_owned()
        }
    }
}
