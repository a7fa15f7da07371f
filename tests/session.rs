//! A session with a real model: what threads share, what memory holds, and what a reload changes.

mod harness;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};

use arc_adapters::{AdapterPackage, EncoderManifest, ModelFile, ModelSource, Registry};
use arc_core::decoder::{FinishReason, GenerateOptions};
use arc_core::device::DeviceName;
use arc_core::encoder::{CompressOptions, Latents};
use arc_core::prompt::Prompt;
use arc_core::{AdaptedDecoder, Reloaded, Session};
use burn::tensor::Tensor;
use harness::{decoder, repository};

const TEXT: &str = "The quick brown fox jumps over the lazy dog, and the dog does not mind.";

/// The file of smollm2-135m, or `None` where models are left out.
fn model() -> Option<&'static Path> {
    static MODEL: OnceLock<Option<PathBuf>> = OnceLock::new();
    MODEL.get_or_init(|| Some(decoder("smollm2-135m")?.path().to_owned())).as_deref()
}

/// A registry in a folder of its own, with the repository's adapter in a copy that can be changed.
struct OwnRegistry {
    folder: tempfile::TempDir,
    loads: Arc<AtomicUsize>,
}

impl OwnRegistry {
    /// With a decoder for each name, all of the same model and adapter.
    fn new(names: &[&str]) -> Option<Self> {
        model()?;
        let folder = tempfile::tempdir().expect("a folder");
        let place = Self { folder, loads: Arc::default() };
        let adapter = arc_adapters::Adapter::open(&repository("plugins/smollm2-135m")).expect("the adapter");
        let weights = &adapter.weights;
        let tensors: Vec<_> = weights
            .names()
            .map(|name| {
                let tensor = weights.tensor(name).expect("a tensor that is listed");
                let dtype = arc_adapters::WeightType::F32;
                arc_adapters::AdapterTensor::new(name, &tensor.shape, &tensor.values, dtype)
            })
            .collect();
        AdapterPackage::write(&place.path("adapter"), &adapter.manifest, &tensors).expect("a package");
        place.write(names, "");
        Some(place)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the registry, with more fields in each decoder's entry.
    fn write(&self, names: &[&str], fields: &str) {
        let model = model().expect("the model").display();
        let encoder = repository("encoders/smollm2-start");
        let sha256 =
            EncoderManifest::open(&encoder).expect("the encoder").backbone.expect("a backbone").sha256;
        let mut text = format!(
            "schema = 1\ndefault_encoder = 'start'\n[encoders.start]\npackage = '{}'\n\
             [decoders.smollm2-135m]\nsource = 'file:{model}'\nsha256 = '{sha256}'\n",
            encoder.display()
        );
        for name in names {
            text += &format!("[decoders.{name}]\nsource = 'file:{model}'\nadapter = 'adapter'\n{fields}");
        }
        std::fs::write(self.path("registry.toml"), text).expect("the registry");
    }

    /// A session that counts how often a model is asked for.
    fn session(&self) -> Session {
        let registry = Registry::open(&self.path("registry.toml")).expect("the registry");
        let loads = Arc::clone(&self.loads);
        let locate = move |model: &ModelFile, _: &str| {
            loads.fetch_add(1, Ordering::SeqCst);
            match &model.source {
                ModelSource::File { path } => Ok(path.clone()),
                other => panic!("no test pulls {other}"),
            }
        };
        Session::new(registry, DeviceName::CPU, Box::new(locate)).expect("the CPU")
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }
}

fn latents(session: &Session) -> Latents {
    let encoder = session.encoder().expect("the encoder");
    encoder.compress(TEXT, CompressOptions::default()).expect("latents")
}

fn values(tensor: Tensor<2>) -> Vec<f32> {
    tensor.try_into_vec_as::<f32>().expect("f32")
}

fn answer(decoder: &AdaptedDecoder, latents: &Latents, max_tokens: usize) -> Vec<u32> {
    let options = GenerateOptions::default().max_tokens(max_tokens);
    let answers = decoder.ask(std::slice::from_ref(latents), "What does the dog do?", &options);
    answers.expect("an answer").rows[0].token_ids.clone()
}

fn names(session: &Session) -> Vec<String> {
    let mut names: Vec<_> = session.loaded().into_iter().map(|model| model.name).collect();
    names.sort();
    names
}

#[test]
fn eight_threads_share_one_load_and_agree() {
    let Some(place) = OwnRegistry::new(&["a"]) else { return };
    let session = place.session();
    let start = Barrier::new(8);
    let found: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let decoder = session.adapted_decoder("a").expect("the decoder");
                    let projected = decoder.project(&latents(&session)).expect("projected latents");
                    (Arc::as_ptr(&decoder) as usize, values(projected))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
    });
    assert!(found.iter().all(|one| *one == found[0]), "one decoder, and the same numbers");
    assert_eq!(place.loads(), 2, "the decoder's model once and the encoder's once");
}

#[test]
fn the_same_latents_feed_several_decoders() {
    let Some(place) = OwnRegistry::new(&["a", "b"]) else { return };
    let session = place.session();
    let latents = latents(&session);
    let (a, b) = (session.adapted_decoder("a").expect("a"), session.adapted_decoder("b").expect("b"));
    assert!(!Arc::ptr_eq(&a, &b));
    assert_eq!(answer(&a, &latents, 4), answer(&b, &latents, 4), "one model, one adapter, two names");
}

#[test]
fn the_least_recently_used_is_let_go_when_the_budget_is_spent() {
    let Some(place) = OwnRegistry::new(&["a", "b", "c"]) else { return };
    let one = place.session();
    let kept = one.adapted_decoder("a").expect("a");
    let bytes = one.loaded()[0].bytes;
    // The table, the blocks and the adapter are counted: the model's file has little else.
    let file = std::fs::metadata(model().expect("the model")).expect("its size").len();
    let adapter = kept.adapter_bytes();
    assert!(bytes > file * 9 / 10 && bytes < file + adapter, "{bytes} of {file} and {adapter}");

    let session = place.session().with_memory_budget(2 * bytes + bytes / 2);
    let first = session.adapted_decoder("a").expect("a");
    session.adapted_decoder("b").expect("b");
    assert_eq!(names(&session), ["a", "b"]);
    session.adapted_decoder("a").expect("a again");
    let loads = place.loads();
    session.adapted_decoder("c").expect("c");
    assert_eq!(names(&session), ["a", "c"], "b was used least recently");
    assert_eq!(session.loaded()[0].name, "c", "the most recent one comes first");
    assert!(Arc::ptr_eq(&first, &session.adapted_decoder("a").expect("a is still there")));
    session.adapted_decoder("b").expect("b is loaded again");
    assert_eq!(names(&session), ["a", "b"]);
    assert_eq!(place.loads(), loads + 2, "c and b");
}

#[test]
fn what_is_let_go_goes_on_answering_who_holds_it() {
    let Some(place) = OwnRegistry::new(&["a", "b"]) else { return };
    // Nothing fits but what has just been loaded.
    let session = place.session().with_memory_budget(0);
    let latents = latents(&session);
    let a = session.adapted_decoder("a").expect("a");
    let before = answer(&a, &latents, 4);
    session.adapted_decoder("b").expect("b");
    assert_eq!(names(&session), ["b"]);
    assert_eq!(Arc::strong_count(&a), 1, "the session has let it go");
    assert_eq!(answer(&a, &latents, 4), before);
}

#[test]
fn a_reload_is_seen_by_the_next_call_and_not_by_the_one_in_flight() {
    let Some(place) = OwnRegistry::new(&["a", "gone"]) else { return };
    let session = place.session();
    let latents = latents(&session);
    let old = session.adapted_decoder("a").expect("a");
    session.adapted_decoder("gone").expect("gone");
    let expected = answer(&old, &latents, 24);
    let loads = place.loads();
    let (in_flight, seen) = std::thread::scope(|scope| {
        let (session, latents) = (&session, &latents);
        let (started, wait) = std::sync::mpsc::channel();
        let call = scope.spawn(move || {
            let decoder = session.adapted_decoder("a").expect("a");
            let prompt = decoder.prompt(std::slice::from_ref(latents), "What does the dog do?");
            let options = GenerateOptions::default().max_tokens(24);
            let answers = decoder.decoder.generate(&[prompt.expect("a prompt")], &options, |_, _| {
                // Said at every token: the first is when the answer is under way.
                let _ = started.send(());
            });
            answers.expect("an answer").rows[0].token_ids.clone()
        });
        wait.recv().expect("the first token");
        place.write(&["a", "new"], "options = { prompt_template = '{{ document }}' }\n");
        let reloaded = session.reload().expect("a registry");
        (call.join().expect("no panic"), reloaded)
    });
    assert_eq!(in_flight, expected, "the call in flight is not disturbed");
    let text = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
    let mut expected = Reloaded::default();
    (expected.added, expected.removed, expected.changed) = (text(&["new"]), text(&["gone"]), text(&["a"]));
    assert_eq!(seen, expected);

    let new = session.adapted_decoder("a").expect("a as it is now");
    assert!(!Arc::ptr_eq(&old, &new) && Arc::ptr_eq(&old.decoder, &new.decoder), "the model is kept");
    assert_eq!(place.loads(), loads, "nothing but the prompt has changed");
    let ids = |decoder: &AdaptedDecoder| {
        decoder.prompt(std::slice::from_ref(&latents), "What?").expect("a prompt").token_ids().len()
    };
    assert!(ids(&new) < ids(&old), "the new template has no question");
    session.adapted_decoder("new").expect("new");
    let error = session.adapted_decoder("gone").expect_err("it is gone").to_string();
    assert!(error.contains("no decoder is called `gone`"), "{error}");
}

#[test]
fn a_package_that_changes_is_loaded_anew_after_a_reload() {
    let Some(place) = OwnRegistry::new(&["a"]) else { return };
    let session = place.session();
    let latents = latents(&session);
    let before = values(session.adapted_decoder("a").expect("a").project(&latents).expect("projected"));
    assert_eq!(session.reload().expect("the same registry"), Reloaded::default());

    let adapter = arc_adapters::Adapter::open(&place.path("adapter")).expect("the adapter");
    let tensors: Vec<_> = adapter
        .weights
        .names()
        .map(|name| {
            let mut tensor = adapter.weights.tensor(name).expect("a tensor that is listed");
            if name == "projector.1.weight" {
                tensor.values.iter_mut().for_each(|value| *value *= 2.0);
            }
            let dtype = arc_adapters::WeightType::F32;
            arc_adapters::AdapterTensor::new(name, &tensor.shape, &tensor.values, dtype)
        })
        .collect();
    AdapterPackage::write(&place.path("adapter"), &adapter.manifest, &tensors).expect("a package");
    let project = || values(session.adapted_decoder("a").expect("a").project(&latents).expect("projected"));
    assert_eq!(project(), before, "nothing changes before it is asked for");
    assert_eq!(session.reload().expect("the registry").changed, ["a"]);
    let after = project();
    assert!(before.iter().zip(&after).all(|(before, after)| 2.0 * before == *after));
}

#[test]
fn a_registry_that_has_become_malformed_leaves_the_session_as_it_was() {
    let Some(place) = OwnRegistry::new(&["a"]) else { return };
    let session = place.session();
    let a = session.adapted_decoder("a").expect("a");
    std::fs::write(place.path("registry.toml"), "schema = 1\n[decoders.a\n").expect("a bad registry");
    assert!(session.reload().is_err());
    assert!(Arc::ptr_eq(&a, &session.adapted_decoder("a").expect("a")));
}

#[test]
fn the_adapter_for_the_entrys_own_encoder_goes_before_its_usual_one() {
    let Some(place) = OwnRegistry::new(&["a"]) else { return };
    let (usual, other) = (place.path("adapter"), place.path("other"));
    std::fs::create_dir(&other).expect("a folder");
    for file in usual.read_dir().expect("the package") {
        let file = file.expect("a file");
        std::fs::copy(file.path(), other.join(file.file_name())).expect("a copy");
    }
    for (fields, expected) in [("", &usual), ("adapters = { start = 'other' }\n", &other)] {
        place.write(&["a"], fields);
        let session = place.session();
        let by_default = session.adapted_decoder("a").expect("the decoder");
        let for_encoder = session.adapted_decoder_for("a", "start").expect("the decoder");
        assert!(Arc::ptr_eq(&by_default, &for_encoder), "both are the adapter for `start`: {fields}");
        assert_eq!(by_default.adapter.origin, *expected);
    }
}

#[test]
fn latents_stand_for_tokens_in_a_row_and_together_for_all_of_them() {
    let Some(place) = OwnRegistry::new(&[]) else { return };
    let encoder = place.session().encoder().expect("the encoder");
    // Of more than a chunk.
    let text = TEXT.repeat(2 + encoder.chunk_tokens() / 16);
    for factor in [None, Some(1), Some(3), Some(1000)] {
        let options = CompressOptions::default().with_factor(factor);
        let tokens = encoder.tokenise(&text).expect("tokens");
        let latents = encoder.compress_tokenised(&tokens, options, |_| Ok(())).expect("latents");
        assert!(latents.chunk_lengths.len() > 1);
        let spans = encoder.tokens_of_latents(&tokens.ids, options).expect("a factor").expect("a mean");
        assert_eq!(spans.len(), latents.len(), "{factor:?}");
        assert_eq!((spans[0].start, spans[spans.len() - 1].end), (0, tokens.ids.len()));
        assert!(spans.windows(2).all(|pair| pair[0].end == pair[1].start && !pair[0].is_empty()));
        assert!(spans.iter().all(|span| span.len() <= latents.factor), "{factor:?}");
        // No latent stands for tokens of two chunks.
        let ends: Vec<usize> = latents
            .chunk_lengths
            .iter()
            .scan(0, |sum, length| {
                *sum += length;
                Some(spans[*sum - 1].end)
            })
            .collect();
        assert!(ends.iter().rev().skip(1).all(|end| end % encoder.chunk_tokens() == 0), "{ends:?}");
    }
}

#[test]
fn compressing_says_how_far_it_is_and_ends_where_the_caller_says() {
    let Some(place) = OwnRegistry::new(&[]) else { return };
    let encoder = place.session().encoder().expect("the encoder");
    let tokens = encoder.tokenise(&TEXT.repeat(5 + encoder.chunk_tokens() / 4)).expect("tokens");
    let mut told = Vec::new();
    let options = CompressOptions::default();
    let whole = encoder.compress_tokenised(&tokens, options, |done| {
        told.push(done);
        Ok(())
    });
    assert_eq!(told.len(), whole.expect("latents").chunk_lengths.len());
    assert!(told.is_sorted() && told.len() > 2 && told.last() == Some(&tokens.ids.len()), "{told:?}");
    let mut chunks = 0;
    let ended = encoder.compress_tokenised(&tokens, options, |_| {
        chunks += 1;
        if chunks == 2 { Err(arc_core::Error::Interrupted) } else { Ok(()) }
    });
    assert!(matches!(ended, Err(arc_core::Error::Interrupted)) && chunks == 2);
}

#[test]
fn reading_a_long_prompt_ends_where_it_is_interrupted() {
    let Some(place) = OwnRegistry::new(&[]) else { return };
    let decoder = place.session().decoder("smollm2-135m").expect("the decoder");
    let prompt = Prompt::from_tokens(vec![100; 1200]);
    let options = |is_interrupted| {
        let interrupted = Some(Arc::new(AtomicBool::new(is_interrupted)));
        GenerateOptions::default().max_tokens(1).interrupted(interrupted)
    };
    let mut whole =
        decoder.generate(std::slice::from_ref(&prompt), &options(false), |_, _| {}).expect("an answer");
    let mut left = decoder.generate(&[prompt], &options(true), |_, _| {}).expect("an answer");
    let (read, of_left) = (whole.kv_cache_bytes, left.kv_cache_bytes);
    let (whole, left) = (whole.rows.remove(0), left.rows.remove(0));
    assert_eq!(whole.finish, FinishReason::Length);
    assert_eq!(whole.prompt_logits.len(), decoder.network.vocabulary());
    assert_eq!(left.finish, FinishReason::Interrupted);
    assert!(left.token_ids.is_empty() && left.prompt_logits.is_empty());
    assert!(of_left < read, "{of_left} of {read} bytes of keys and values");
}
