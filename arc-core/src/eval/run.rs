//! Runs tasks: every arm of every decoder on the same questions.

use std::time::Instant;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use serde_json::json;

use super::answers::{Answer, Answers, Outcome, Times};
use super::arm::{Arm, ArmFamily};
use super::data::{Row, Rows};
use super::flops;
use super::prompting::{Built, Contestant, Piece, Tokens, beginning_of, question_of};
use super::task::{GenerateTask, KeptEnd, Kind, Task};
use crate::decoder::{GenerateOptions, Prefix};
use crate::prompt::{Prompt, Span};
use crate::{Error, Result};

/// Batches whose prompts are made at once, and sorted by length among each other.
const BATCHES_AT_ONCE: usize = 8;

/// How to run tasks.
#[derive(Clone, Debug)]
pub struct EvalOptions {
    /// The arms.
    pub families: Vec<ArmFamily>,
    /// Examples in a prompt; the task's own number where `None`.
    pub shots: Option<usize>,
    /// The first so many questions; all where `None`.
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

impl Default for EvalOptions {
    fn default() -> Self {
        Self {
            families: ArmFamily::ALL.to_vec(),
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
pub struct ArmAnswers {
    /// The arm.
    pub arm: Arm,
    /// The answers.
    pub answers: Vec<Answer>,
}

/// What a run is at: arm, questions done, questions in all.
pub type OnProgress<'a> = dyn FnMut(Arm, usize, usize) + 'a;

impl LoadedTask {
    /// Reads a task's data, and chooses its examples.
    ///
    /// # Errors
    ///
    /// [`Error::DataRow`] for a malformed row, [`Error::InvalidArgument`] if there are not as many
    /// examples as shots, or no questions.
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
        } else if let (Some(generate), true) = (&task.generate, shots > 0) {
            let path = generate.examples.as_ref().ok_or_else(|| {
                Error::InvalidArgument(format!(
                    "task `{}` has no examples, {shots} shots are asked for",
                    task.name
                ))
            })?;
            let all = Rows::read(path, &task.fields, true, options.skip_bad)?;
            skipped.extend(all.skipped);
            data_sha256.push(all.sha256);
            examples = all.rows;
            examples.shuffle(&mut StdRng::seed_from_u64(options.seed));
            if examples.len() < shots {
                return Err(Error::InvalidArgument(format!(
                    "task `{}` has {} examples, {shots} shots are asked for",
                    task.name,
                    examples.len()
                )));
            }
            examples.truncate(shots);
        }
        let mut rows = match &task.needle {
            Some(needle) => needle.rows(&data.rows, options.seed),
            None => data.rows,
        };
        if task.distractors > 0 {
            rows = among_others(&rows, task.distractors, options.seed);
        }
        rows.truncate(options.limit.unwrap_or(usize::MAX));
        if rows.is_empty() {
            return Err(Error::InvalidArgument(format!("task `{}` has no questions", task.name)));
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
        let answers = match self.task.kind() {
            Kind::Generate(generate) => {
                self.run_generate(generate, contestant, arm, options, answers, on_progress)?
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
        Ok(ArmAnswers { arm, answers })
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
        let questions: Vec<Vec<Piece>> = self.rows.iter().map(|row| question_of(task, row, arm)).collect();
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
            let start = contestant.beginning();
            let built = contestant.build(&start, &beginning, arm, self.truncate)?;
            let decoder = contestant.decoder.clone();
            let prefix =
                if built.prompt.is_empty() { None } else { Some(decoder.read_prefix(&built.prompt)?) };
            let generate = GenerateOptions {
                max_tokens: task.max_tokens,
                stop: task.stop.clone(),
                ..GenerateOptions::default()
            };
            let (alone, together): (Vec<usize>, Vec<usize>) =
                pending.into_iter().partition(|&index| index < options.timed);
            let batch = options.batch.max(1);
            let groups = alone.chunks(1).map(|group| (group, 1));
            let groups = groups.chain(together.chunks(batch * BATCHES_AT_ONCE).map(|group| (group, batch)));
            for (group, batch) in groups {
                let mut built = group
                    .iter()
                    .map(|&index| Ok((index, contestant.build(&[], &questions[index], arm, self.truncate)?)))
                    .collect::<Result<Vec<(usize, Built)>>>()?;
                // Prompts of like lengths have little padding.
                built.sort_by_key(|(_, built)| built.prompt.len());
                for built in built.chunks(batch) {
                    for (&(index, _), answer) in
                        built.iter().zip(ask(contestant, prefix.as_ref(), built, &generate, batch == 1)?)
                    {
                        answers.keep(keys[index].clone(), answer)?;
                    }
                    done += built.len();
                    on_progress(arm, done, keys.len());
                }
            }
        }
        Ok(keys.iter().filter_map(|key| answers.get(key).cloned()).collect())
    }

    fn run_scored(
        &self,
        cut: Cut,
        contestant: &mut Contestant,
        arm: Arm,
        options: &EvalOptions,
        answers: &mut Answers,
        on_progress: &mut OnProgress<'_>,
    ) -> Result<Vec<Answer>> {
        let decoder = contestant.decoder.clone();
        let mut all = Vec::new();
        for (index, row) in self.rows.iter().enumerate() {
            on_progress(arm, index, self.rows.len());
            let encoding = decoder.tokenizer.encode(&row.document)?;
            let length = cut.context + cut.target.unwrap_or(0);
            let Some(ids) = encoding.ids.get(..length) else { continue };
            let (context, target) = ids.split_at(cut.context);
            let target = if cut.target.is_some() { target } else { context };
            // Tokens that split a character leave a context that is no text.
            let Some(text) = row.document.get(..encoding.offsets[cut.context - 1].1) else { continue };
            let asked = json!({ "context": text, "target": target });
            let key = self.key(contestant, arm, &asked, index < options.timed);
            if let Some(answer) = answers.get(&key) {
                all.push(answer.clone());
                continue;
            }
            let document = Tokens { text, ids: context };
            let shown = contestant.show(&document, arm, self.truncate, cut.target.is_none())?;
            let document_positions = shown.span.as_ref().map_or(0, Span::len);
            let mut prompt = Prompt::from_tokens(contestant.beginning());
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
            let answer = Answer {
                outcome: Outcome::Score {
                    loss: scores.iter().map(|score| f64::from(score.loss)).sum(),
                    tokens: scores.len(),
                    correct: scores.iter().filter(|score| score.is_best).count(),
                },
                positions: prompt.len(),
                document_positions,
                new_tokens: 0,
                prepare_flops: shown.flops,
                use_flops: flops::reading(config, 0, positions)
                    + flops::head(config, decoder.network.vocabulary(), scores.len()),
                kv_cache_bytes: flops::kv_cache_bytes(config, positions),
                times: (index < options.timed).then_some(Times {
                    prepare: shown.seconds,
                    prefill,
                    first_token: prefill,
                    decode: 0.0,
                }),
            };
            answers.keep(key, answer.clone())?;
            all.push(answer);
        }
        on_progress(arm, self.rows.len(), self.rows.len());
        if all.is_empty() {
            return Err(Error::InvalidArgument(format!(
                "no document of task `{}` has {} tokens of `{}`",
                self.task.name,
                cut.context + cut.target.unwrap_or(0),
                decoder.name
            )));
        }
        Ok(all)
    }

    /// What an answer depends on, as a hash. Questions asked alone are kept apart, since they have
    /// times.
    fn key(&self, contestant: &Contestant, arm: Arm, asked: &serde_json::Value, alone: bool) -> String {
        let adapter = contestant.adapted.as_ref().map(|adapted| &adapted.adapter.manifest);
        let depends = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "decoder": contestant.decoder_sha256,
            "device": format!("{:?}", contestant.decoder.network.device()),
            "arm": arm.to_string(),
            // The encoder sets the budget of all arms that have one.
            "encoder": arm.factor().map(|_| (&contestant.encoder.id, adapter.map(|adapter| adapter.append))),
            "adapter": matches!(arm, Arm::Arc(_)).then(|| adapter.map(|adapter| &adapter.weights.sha256)),
            "truncate": matches!(arm, Arm::Truncation(_)).then_some(self.truncate),
            "asked": asked,
            "alone": alone,
        });
        arc_adapters::sha256_hex(depends.to_string().as_bytes())
    }
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

/// Asks a batch. A prompt that does not fit the window is not asked.
fn ask(
    contestant: &Contestant,
    prefix: Option<&Prefix>,
    built: &[(usize, Built)],
    options: &GenerateOptions,
    alone: bool,
) -> Result<Vec<Answer>> {
    let decoder = &contestant.decoder;
    let config = decoder.network.config();
    let read = prefix.map_or(0, Prefix::len);
    let fits = |built: &Built| read + built.prompt.len() + options.max_tokens <= config.context_length;
    let prompts: Vec<Prompt> =
        built.iter().filter(|(_, built)| fits(built)).map(|(_, built)| built.prompt.clone()).collect();
    let generated = decoder.generate_after(prefix, &prompts, options, |_, _| {})?;
    let timings = generated.timings;
    let mut rows = generated.rows.into_iter();
    let answers = built.iter().map(|(_, built)| {
        let positions = read + built.prompt.len();
        let row = if fits(built) { rows.next() } else { None };
        let new_tokens = row.as_ref().map_or(0, |row| row.token_ids.len());
        // The last token is written, not read.
        let writing = new_tokens.saturating_sub(1);
        Answer {
            positions,
            document_positions: built.document_positions,
            new_tokens,
            prepare_flops: built.flops,
            use_flops: flops::reading(config, 0, positions + writing)
                + flops::head(config, decoder.network.vocabulary(), writing + 1),
            kv_cache_bytes: flops::kv_cache_bytes(config, positions + writing),
            times: (alone && row.is_some()).then_some(Times {
                prepare: built.seconds,
                prefill: timings.prefill.as_secs_f64(),
                first_token: timings.first_token.as_secs_f64(),
                decode: timings.decode.as_secs_f64(),
            }),
            outcome: row.map_or(Outcome::TooLong, |row| Outcome::Text(row.text.trim().to_owned())),
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
