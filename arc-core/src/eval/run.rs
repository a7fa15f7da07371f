//! Runs tasks: every arm of every decoder on the same questions.

use std::collections::HashSet;
use std::time::Instant;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::json;

use super::answers::{Answer, AnswerOutcome, Answers, Times};
use super::arm::{Arm, ArmFamily};
use super::data::{Row, Rows};
use super::prompting::{Built, Contestant, Piece, Tokens, beginning_of, question_of};
use super::task::{GenerateTask, KeptEnd, Kind, Task};
use crate::decoder::{Decoder, DecoderConfig, GenerateOptions, Prefix};
use crate::flops;
use crate::prompt::{Prompt, Span};
use crate::{Error, Hint, Result};
use arc_adapters::setters;

/// Batches whose prompts are made at once, and sorted by length among each other.
const BATCHES_AT_ONCE: usize = 8;

/// How to run tasks.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct EvalOptions {
    /// The arms.
    pub families: Vec<ArmFamily>,
    /// Examples in a prompt; the task's own number where `None`.
    pub shots: Option<usize>,
    /// The first so many questions; the task's own number where `None`.
    pub limit: Option<usize>,
    /// Fixes the choice of examples, needles and distractors, and the bootstrap.
    pub seed: u64,
    /// Which end truncation keeps; the task's own where `None`.
    pub truncate: Option<KeptEnd>,
    /// Questions that are answered at once.
    pub batch: usize,
    /// The first so many questions of each arm are asked alone, and timed.
    pub timed: usize,
    /// Leave out malformed rows.
    pub skip_bad: bool,
}

setters!(EvalOptions {
    families: Vec<ArmFamily>,
    shots: Option<usize>,
    limit: Option<usize>,
    seed: u64,
    truncate: Option<KeptEnd>,
    batch: usize,
    timed: usize,
    skip_bad: bool,
});

impl Default for EvalOptions {
    fn default() -> Self {
        Self {
            families: ArmFamily::USUAL.to_vec(),
            shots: None,
            limit: None,
            seed: 0,
            truncate: None,
            batch: 8,
            timed: 8,
            skip_bad: false,
        }
    }
}

/// A task with its questions and examples.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct LoadedTask {
    /// The task.
    pub task: Task,
    /// The questions.
    pub rows: Vec<Row>,
    /// The examples of every prompt.
    pub examples: Vec<Row>,
    /// Which end truncation keeps.
    pub truncate: KeptEnd,
    /// What was wrong with rows that were left out.
    pub skipped: Vec<String>,
    /// The sha256 of the data, and of the examples where they are a file.
    pub data_sha256: Vec<String>,
}

/// The answers of one arm, in the order of the questions.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ArmAnswers {
    /// The arm.
    pub arm: Arm,
    /// The answers.
    pub answers: Vec<Answer>,
    /// Documents that are shorter than what a scored task cuts from them, and have no answer.
    pub too_short: usize,
}

/// What a run is at: arm, questions done, questions in all.
pub type OnProgress<'a> = dyn FnMut(Arm, usize, usize) + 'a;

impl LoadedTask {
    /// Reads a task's data, and chooses its examples.
    ///
    /// # Errors
    ///
    /// [`Error::DataRow`] for a malformed row, [`Error::NotEnough`] if there are not as many
    /// examples as shots, or no questions; [`Error::Mismatch`] if an example's document is among the
    /// questions'.
    pub fn load(task: Task, options: &EvalOptions) -> Result<Self> {
        let needs_answers = task.generate.is_some() && task.needle.is_none();
        let data = Rows::read(&task.data, &task.fields, needs_answers, options.skip_bad)?;
        let mut skipped = data.skipped;
        let mut data_sha256 = vec![data.sha256];
        let shots =
            options.shots.unwrap_or_else(|| task.generate.as_ref().map_or(0, |generate| generate.shots));
        let mut examples = Vec::new();
        if let (Some(needle), true) = (&task.needle, shots > 0) {
            examples = needle.examples(&data.rows, shots, options.seed);
            if examples.is_empty() {
                return Err(Error::Mismatch {
                    what: format!("the data of task `{}`", task.name),
                    expected: "at least 2 different texts".into(),
                    found: "fewer".into(),
                    hint: Hint::MoreTextsOrNoShots,
                });
            }
        } else if let (Some(generate), true) = (&task.generate, shots > 0) {
            let path = generate.examples.as_ref().ok_or_else(|| Error::NotEnough {
                what: format!("examples for the shots of task `{}`", task.name),
                found: 0,
                needed: shots,
            })?;
            let all = Rows::read(path, &task.fields, true, options.skip_bad)?;
            skipped.extend(all.skipped);
            data_sha256.push(all.sha256);
            examples = all.rows;
            examples.shuffle(&mut StdRng::seed_from_u64(options.seed));
            if examples.len() < shots {
                return Err(Error::NotEnough {
                    what: format!("examples for the shots of task `{}`", task.name),
                    found: examples.len(),
                    needed: shots,
                });
            }
            examples.truncate(shots);
            check_apart(&task.name, &data.rows, &examples)?;
        }
        let mut rows = match &task.needle {
            Some(needle) => needle.rows(&data.rows, options.seed),
            None => data.rows,
        };
        if task.distractors > 0 {
            rows = among_others(&rows, task.distractors, options.seed);
        }
        rows.truncate(options.limit.or(task.limit).unwrap_or(usize::MAX));
        if rows.is_empty() {
            return Err(Error::NotEnough {
                what: format!("questions in task `{}`", task.name),
                found: 0,
                needed: 1,
            });
        }
        let truncate = options.truncate.unwrap_or(task.truncate);
        Ok(Self { task, rows, examples, truncate, skipped, data_sha256 })
    }

    /// Runs one arm. Answers that are known are not made again.
    ///
    /// # Errors
    ///
    /// Whatever stops the decoder or the encoder, and [`Error::Io`] if answers cannot be kept.
    pub fn run(
        &self,
        contestant: &mut Contestant,
        arm: Arm,
        options: &EvalOptions,
        answers: &mut Answers,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<ArmAnswers> {
        if matches!(arm, Arm::RareWords(_)) {
            let rows = self.rows.iter().chain(&self.examples);
            contestant.count_words(rows.map(|row| row.document.as_str()))?;
        }
        let (answers, too_short) = match self.task.kind() {
            Kind::Generate(generate) => {
                (self.run_generate(generate, contestant, arm, options, answers, on_progress)?, 0)
            }
            Kind::Continuation(spec) => {
                let cut = Cut { context: spec.context_tokens, target: Some(spec.continuation_tokens) };
                self.run_scored(cut, contestant, arm, options, answers, on_progress)?
            }
            Kind::Reconstruction(spec) => {
                let cut = Cut { context: spec.context_tokens, target: None };
                self.run_scored(cut, contestant, arm, options, answers, on_progress)?
            }
        };
        Ok(ArmAnswers { arm, answers, too_short })
    }

    fn run_generate(
        &self,
        task: &GenerateTask,
        contestant: &mut Contestant,
        arm: Arm,
        options: &EvalOptions,
        answers: &mut Answers,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Vec<Answer>> {
        let beginning = beginning_of(task, &self.examples, arm);
        let mut questions: Vec<Vec<Piece>> = Vec::with_capacity(self.rows.len());
        for (index, row) in self.rows.iter().enumerate() {
            questions.push(match arm {
                Arm::Control(_) => {
                    let document = self.another_document(index, |document| Ok(Some(document.to_owned())))?;
                    question_of(task, &Row { document, ..row.clone() }, arm)
                }
                _ => question_of(task, row, arm),
            });
        }
        let keys: Vec<String> = questions
            .iter()
            .enumerate()
            .map(|(index, question)| {
                let asked = json!({
                    "beginning": texts(&beginning),
                    "question": texts(question),
                    "max_tokens": task.max_tokens,
                    "stop": task.stop,
                });
                self.key(contestant, arm, &asked, index < options.timed)
            })
            .collect();
        let pending: Vec<usize> =
            (0..keys.len()).filter(|&index| answers.get(&keys[index]).is_none()).collect();
        let mut done = keys.len() - pending.len();
        on_progress(arm, done, keys.len());
        if !pending.is_empty() {
            let mut clock = Instant::now();
            let decoder = contestant.decoder.clone();
            let start = contestant.decoder.tokenizer.beginning();
            let built = contestant.build(&start, &beginning, arm, self.truncate);
            let read = built.and_then(|built| {
                (!built.prompt.is_empty()).then(|| decoder.read_prefix(&built.prompt)).transpose()
            });
            let read = fitting(read)?;
            let generate = GenerateOptions {
                max_tokens: task.max_tokens,
                stop: task.stop.clone(),
                ..GenerateOptions::default()
            };
            let (alone, together): (Vec<usize>, Vec<usize>) =
                pending.into_iter().partition(|&index| index < options.timed);
            // A device that is new to a shape tunes its kernels, and a file is read from the disk, when
            // they are first used: that is nothing that a question costs.
            if let (Some(&first), Some(prefix)) = (alone.first(), &read) {
                if let Some(built) = fitting(contestant.build(&[], &questions[first], arm, self.truncate))? {
                    ask(contestant, prefix.as_ref(), &[&built], &generate, false)?;
                }
                contestant.forget(&self.rows[first].document);
            }
            let batch = options.batch.max(1);
            let groups = alone.chunks(1).map(|group| (group, 1));
            let groups = groups.chain(together.chunks(batch * BATCHES_AT_ONCE).map(|group| (group, batch)));
            for (group, batch) in groups {
                let mut prompts = Vec::with_capacity(group.len());
                let mut too_long = Vec::new();
                for &index in group {
                    let built = match &read {
                        Some(_) => fitting(contestant.build(&[], &questions[index], arm, self.truncate))?,
                        None => None,
                    };
                    match built {
                        Some(built) => prompts.push((index, built)),
                        None => too_long.push(index),
                    }
                }
                // Prompts of like lengths have little padding.
                prompts.sort_by_key(|(_, built)| built.prompt.len());
                let prefix = read.as_ref().and_then(Option::as_ref);
                for prompts in prompts.chunks(batch) {
                    let built: Vec<&Built> = prompts.iter().map(|(_, built)| built).collect();
                    let found = ask(contestant, prefix, &built, &generate, batch == 1)?;
                    // Whole nanoseconds, which are the same when they are read from the file.
                    let share = u32::try_from(prompts.len()).unwrap_or(u32::MAX);
                    let seconds = (clock.elapsed() / share).as_secs_f64();
                    clock = Instant::now();
                    for (&(index, _), answer) in prompts.iter().zip(found) {
                        let document_tokens = self.document_tokens(contestant, index)?;
                        answers.keep(keys[index].clone(), Answer { document_tokens, seconds, ..answer })?;
                    }
                    done += prompts.len();
                    on_progress(arm, done, keys.len());
                }
                for index in too_long {
                    let answer = Answer::too_long(self.document_tokens(contestant, index)?);
                    answers.keep(keys[index].clone(), answer)?;
                    done += 1;
                    on_progress(arm, done, keys.len());
                }
            }
        }
        Ok(keys.iter().filter_map(|key| answers.get(key).cloned()).collect())
    }

    /// What `of` makes of the next question's document that is another one and can be used, the first
    /// questions following the last.
    fn another_document<T>(&self, index: usize, of: impl Fn(&str) -> Result<Option<T>>) -> Result<T> {
        let own = &self.rows[index].document;
        let (before, after) = self.rows.split_at(index);
        for row in after.iter().chain(before).filter(|row| row.document != *own) {
            if let Some(found) = of(&row.document)? {
                return Ok(found);
            }
        }
        Err(Error::NotEnough {
            what: format!(
                "documents in task `{}` for the arm `{}`",
                self.task.name,
                ArmFamily::Control.name()
            ),
            found: 1,
            needed: 2,
        })
    }

    fn document_tokens(&self, contestant: &Contestant, index: usize) -> Result<usize> {
        Ok(contestant.decoder.tokenizer.encode(&self.rows[index].document)?.ids.len())
    }

    /// The answers, and how many documents were too short to be scored.
    fn run_scored(
        &self,
        cut: Cut,
        contestant: &mut Contestant,
        arm: Arm,
        options: &EvalOptions,
        answers: &mut Answers,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<(Vec<Answer>, usize)> {
        let decoder = contestant.decoder.clone();
        let length = cut.context + cut.target.unwrap_or(0);
        let mut all = Vec::new();
        let mut warm = false;
        for (index, row) in self.rows.iter().enumerate() {
            on_progress(arm, index, self.rows.len());
            let Some((text, ids)) = cut_document(&decoder, &row.document, cut.context, length)? else {
                continue;
            };
            let (context, target) = ids.split_at(cut.context);
            let target = if cut.target.is_some() { target } else { context };
            let another;
            let (text, context) = match arm {
                Arm::Control(_) => {
                    another = self.another_document(index, |document| {
                        let found = cut_document(&decoder, document, cut.context, length)?;
                        Ok(found.map(|(text, ids)| (text.to_owned(), ids)))
                    })?;
                    (another.0.as_str(), &another.1[..cut.context])
                }
                _ => (text, context),
            };
            let alone = index < options.timed;
            let asked = json!({ "context": text, "target": target });
            let key = self.key(contestant, arm, &asked, alone);
            if let Some(answer) = answers.get(&key) {
                all.push(answer.clone());
                continue;
            }
            let clock = Instant::now();
            let document = Tokens { text, ids: context };
            if alone && !warm {
                fitting(self.score(&document, target, cut, contestant, arm))?;
                contestant.forget(text);
                warm = true;
            }
            let found = fitting(self.score(&document, target, cut, contestant, arm))?;
            let answer = found.map_or_else(
                || Answer::too_long(context.len()),
                |answer| Answer { times: answer.times.filter(|_| alone), ..answer },
            );
            let answer = Answer { seconds: clock.elapsed().as_secs_f64(), ..answer };
            answers.keep(key, answer.clone())?;
            all.push(answer);
        }
        on_progress(arm, self.rows.len(), self.rows.len());
        if all.is_empty() {
            return Err(Error::NotEnough {
                what: format!(
                    "documents in task `{}` of {length} tokens of `{}`",
                    self.task.name, decoder.name
                ),
                found: 0,
                needed: 1,
            });
        }
        let too_short = self.rows.len() - all.len();
        Ok((all, too_short))
    }

    /// Scores what follows a document, or the document again.
    fn score(
        &self,
        document: &Tokens<'_>,
        target: &[u32],
        cut: Cut,
        contestant: &mut Contestant,
        arm: Arm,
    ) -> Result<Answer> {
        let decoder = contestant.decoder.clone();
        let shown = contestant.show(document, arm, self.truncate, cut.target.is_none())?;
        let document_positions = shown.span.as_ref().map_or(0, Span::len);
        let mut prompt = Prompt::from_tokens(contestant.decoder.tokenizer.beginning());
        if let Some(span) = shown.span {
            prompt.push(span);
        }
        let start = Instant::now();
        let prefix = if prompt.is_empty() { None } else { Some(decoder.read_prefix(&prompt)?) };
        decoder.network.device().sync().ok();
        let prefill = start.elapsed().as_secs_f64();
        let scores = decoder.score_after(prefix.as_ref(), target)?;
        let config = decoder.network.config();
        let positions = prompt.len() + target.len();
        let use_flops = (flops::reading(config, 0, positions)
            + flops::head(config, decoder.network.vocabulary(), scores.len())) as f64;
        Ok(Answer {
            outcome: AnswerOutcome::Score {
                loss: scores.iter().map(|score| f64::from(score.loss)).sum(),
                tokens: scores.len(),
                correct: scores.iter().filter(|score| score.is_best).count(),
            },
            positions: prompt.len(),
            document_positions,
            document_tokens: document.ids.len(),
            new_tokens: 0,
            prepare_flops: shown.flops,
            use_flops,
            marginal_flops: use_flops,
            kv_cache_bytes: kv_cache_bytes(config, positions),
            times: Some(Times { prepare: shown.seconds, prefill, first_token: prefill, decode: 0.0 }),
            seconds: 0.0,
        })
    }

    /// What an answer depends on, as a hash. Questions asked alone are kept apart, since they have
    /// times.
    fn key(&self, contestant: &Contestant, arm: Arm, asked: &serde_json::Value, alone: bool) -> String {
        let adapter = contestant.adapted.as_ref().map(|adapted| &adapted.adapter.manifest);
        let encoder = arm.factor().map(|_| {
            json!({
                "id": contestant.encoder.id,
                // The identity leaves out what one encoder may have several of.
                "rates": contestant.encoder.network.config().compress_rates,
                "append": adapter.map(|adapter| adapter.append),
            })
        });
        let adapter = arm.reads_latents().then(|| {
            json!({
                "weights": adapter.map(|adapter| &adapter.weights.sha256),
                "projector": adapter.map(|adapter| &adapter.projector),
                "plugin": contestant.plugin_sha256,
                "overridden_pins": contestant.overridden_pins(),
            })
        });
        let depends = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "decoder": contestant.decoder_sha256,
            // One file may be read in several ways: `rope_scaling` in the registry.
            "network": format!("{:?}", contestant.decoder.network.config()),
            "tokenizer": contestant.decoder.tokenizer.sha256(),
            "device": format!("{:?}", contestant.decoder.network.device()),
            "arm": arm.to_string(),
            // The encoder sets the budget of all arms that have one.
            "encoder": encoder,
            "adapter": adapter,
            "words": contestant.counted_words().filter(|_| matches!(arm, Arm::RareWords(_))),
            "truncate": matches!(arm, Arm::Truncation(_)).then_some(self.truncate),
            "asked": asked,
            "alone": alone,
        });
        arc_adapters::sha256_hex(depends.to_string().as_bytes())
    }
}

/// Keys and values of so many positions, in bytes, as this build stores them (float32).
fn kv_cache_bytes(config: &DecoderConfig, positions: usize) -> f64 {
    (4 * flops::kv_values(config, positions)) as f64
}

/// An example from the document of a question would show the decoder what it is asked.
fn check_apart(task: &str, rows: &[Row], examples: &[Row]) -> Result<()> {
    let documents: HashSet<&str> = rows.iter().map(|row| row.document.as_str()).collect();
    match examples.iter().find(|example| documents.contains(example.document.as_str())) {
        None => Ok(()),
        Some(example) => Err(Error::Mismatch {
            what: format!("task `{task}`"),
            expected: "examples on documents apart from the data's".into(),
            found: example.document.chars().take(60).map(|c| if c == '\n' { ' ' } else { c }).collect(),
            hint: Hint::OtherSplitOrNoShots,
        }),
    }
}

/// The text of a document's first `context` tokens, and its first `length` tokens; `None` for one that is
/// shorter, or whose tokens split a character there, which leaves a context that is no text.
fn cut_document<'a>(
    decoder: &Decoder,
    document: &'a str,
    context: usize,
    length: usize,
) -> Result<Option<(&'a str, Vec<u32>)>> {
    let mut encoding = decoder.tokenizer.encode(document)?;
    if encoding.ids.len() < length {
        return Ok(None);
    }
    encoding.ids.truncate(length);
    Ok(document.get(..encoding.offsets[context - 1].1).map(|text| (text, encoding.ids)))
}

/// How a document is cut: tokens of context, and those after it; without them the context is the
/// target.
#[derive(Clone, Copy)]
struct Cut {
    context: usize,
    target: Option<usize>,
}

/// The pieces as they go into a key.
fn texts(pieces: &[Piece]) -> Vec<serde_json::Value> {
    pieces
        .iter()
        .map(|piece| match piece {
            Piece::Text(text) => json!(text),
            Piece::Document(text) => json!({ "document": text }),
        })
        .collect()
}

/// Nothing in place of what does not fit the decoder's window or the encoder's chunks: that fails
/// its question, not the run.
fn fitting<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(found) => Ok(Some(found)),
        Err(Error::WindowExceeded { .. } | Error::Document { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Asks a batch. A prompt that does not fit the window is not asked.
fn ask(
    contestant: &Contestant,
    prefix: Option<&Prefix>,
    built: &[&Built],
    options: &GenerateOptions,
    alone: bool,
) -> Result<Vec<Answer>> {
    let decoder = &contestant.decoder;
    let config = decoder.network.config();
    let read = prefix.map_or(0, Prefix::len);
    let fits = |built: &Built| read + built.prompt.len() + options.max_tokens <= config.context_length;
    let prompts: Vec<Prompt> =
        built.iter().filter(|built| fits(built)).map(|built| built.prompt.clone()).collect();
    let generated = decoder.generate_after(prefix, &prompts, options, |_, _| {})?;
    let timings = generated.timings;
    let mut rows = generated.rows.into_iter();
    let answers = built.iter().map(|built| {
        let positions = read + built.prompt.len();
        let row = if fits(built) { rows.next() } else { None };
        let new_tokens = row.as_ref().map_or(0, |row| row.token_ids.len());
        // The last token is written, not read.
        let writing = new_tokens.saturating_sub(1);
        let written = flops::writing(config, positions, writing)
            + flops::head(config, decoder.network.vocabulary(), writing + 1);
        Answer {
            positions,
            document_positions: built.document_positions,
            document_tokens: 0,
            new_tokens,
            prepare_flops: built.flops,
            use_flops: (flops::reading(config, 0, positions) + written) as f64,
            marginal_flops: (flops::reading(config, read, built.prompt.len()) + written) as f64,
            kv_cache_bytes: kv_cache_bytes(config, positions + writing),
            times: (alone && row.is_some()).then_some(Times {
                prepare: built.seconds,
                prefill: timings.prefill.as_secs_f64(),
                first_token: timings.first_token.as_secs_f64(),
                decode: timings.decode.as_secs_f64(),
            }),
            seconds: 0.0,
            outcome: row
                .map_or(AnswerOutcome::TooLong, |row| AnswerOutcome::Text(row.text.trim().to_owned())),
        }
    });
    Ok(answers.collect())
}

/// Puts each row's document among so many others', at a place fixed by the seed.
fn among_others(rows: &[Row], count: usize, seed: u64) -> Vec<Row> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut texts: Vec<&str> = rows.iter().map(|row| row.document.as_str()).collect();
    texts.sort_unstable();
    texts.dedup();
    rows.iter()
        .map(|row| {
            texts.shuffle(&mut random);
            let others = texts.iter().copied().filter(|&text| text != row.document).take(count);
            let mut documents: Vec<&str> = others.chain([row.document.as_str()]).collect();
            documents.shuffle(&mut random);
            Row { document: documents.join("\n\n"), ..row.clone() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_stands_among_others_once_and_anywhere() {
        let rows: Vec<Row> = (0..20)
            .map(|index| Row {
                document: format!("text {}", index % 10),
                question: format!("q{index}"),
                answers: Vec::new(),
                needle: None,
            })
            .collect();
        let long = among_others(&rows, 4, 1);
        let mut places = std::collections::BTreeSet::new();
        for (row, long) in rows.iter().zip(&long) {
            let documents: Vec<&str> = long.document.split("\n\n").collect();
            assert_eq!(documents.len(), 5);
            assert_eq!(documents.iter().filter(|&&text| text == row.document).count(), 1);
            places.insert(documents.iter().position(|&text| text == row.document));
            assert_eq!(row.question, long.question);
        }
        assert!(places.len() > 2, "{places:?}");
        assert_eq!(long, among_others(&rows, 4, 1));
    }
}
