//! What a run found: scores with intervals, costs, examples, and where everything came from.

use arc_adapters::setters;
use std::collections::BTreeMap;

use serde::Serialize;

use super::answers::{Answer, AnswerOutcome, Times};
use super::arm::Arm;
use super::bootstrap::{Bootstrap, Interval};
use super::data::{NeedlePlace, Row};
use super::metrics::Metric;
use super::prompting::Contestant;
use super::run::{ArmAnswers, EvalOptions, LoadedTask};
use super::task::{KeptEnd, Kind};
use crate::OverriddenPin;

/// Questions that a report shows with every arm's answer.
const EXAMPLES: usize = 12;

/// A run of one or more tasks.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Report {
    /// How it was made.
    pub provenance: Provenance,
    /// One entry for each decoder and task.
    pub results: Vec<TaskResult>,
}

impl Report {
    /// A report of results.
    #[must_use]
    pub fn new(provenance: Provenance, results: Vec<TaskResult>) -> Self {
        Self { provenance, results }
    }
}

/// How a report was made.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Provenance {
    /// The version of this program.
    pub version: String,
    /// The command line.
    pub command: Vec<String>,
    /// The device.
    pub device: String,
    /// Fixes the examples, the needles, the distractors and the bootstrap.
    pub seed: u64,
    /// Seconds since 1970 when the run ended.
    pub unix_time: u64,
    /// Questions that were answered at once.
    pub batch: usize,
    /// Questions of each arm that were asked alone and timed.
    pub timed: usize,
    /// Seconds that the answers took when they were made, in this run or in one that it resumes;
    /// loading models is not in it.
    pub seconds: f64,
}

setters!(Provenance {
    command: Vec<String>,
    device: String,
    seed: u64,
    unix_time: u64,
    batch: usize,
    timed: usize,
    seconds: f64,
});

impl Provenance {
    /// What a version of a program has measured; the rest is set as far as it is known.
    #[must_use]
    pub fn new(version: impl Into<String>) -> Self {
        Self {
            version: version.into(),
            command: Vec::new(),
            device: String::new(),
            seed: 0,
            unix_time: 0,
            batch: 1,
            timed: 0,
            seconds: 0.0,
        }
    }
}

/// One decoder on one task.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct TaskResult {
    /// The decoder's name.
    pub decoder: String,
    /// The sha256 of its file.
    pub decoder_sha256: String,
    /// The encoder's identity.
    pub encoder_id: String,
    /// The sha256 of the adapter's weights.
    pub adapter_sha256: Option<String>,
    /// The task's name.
    pub task: String,
    /// What it measures.
    pub description: String,
    /// The sha256 of the task file.
    pub task_sha256: String,
    /// The sha256 of the data, and of the examples where they are a file.
    pub data_sha256: Vec<String>,
    /// The number of questions.
    pub questions: usize,
    /// The number of examples in a prompt.
    pub shots: usize,
    /// At most so many questions, by the command line or the task.
    pub limit: Option<usize>,
    /// Which end truncation kept.
    pub truncate: KeptEnd,
    /// The factors of the arms that have one.
    pub factors: Vec<usize>,
    /// Pins of the adapter that did not fit and were overridden.
    pub overridden_pins: Vec<OverriddenPin>,
    /// Documents that are shorter than what a scored task cuts from them; they are no questions.
    pub too_short: usize,
    /// Seconds that the answers took when they were made.
    pub seconds: f64,
    /// Rows of the data that were left out, and why.
    pub skipped_rows: Vec<String>,
    /// One entry for each arm, on the same questions.
    pub arms: Vec<ArmResult>,
    /// Some questions with every arm's answer.
    pub examples: Vec<Example>,
}

/// One arm.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ArmResult {
    /// Its name.
    pub arm: String,
    /// The factor that sets its budget, if it has one.
    pub factor: Option<usize>,
    /// Scores by name; all but losses and perplexities in per cent. The task's first metric is
    /// [`ArmResult::main`].
    pub scores: BTreeMap<String, Interval>,
    /// The name of the score that is drawn.
    pub main: String,
    /// The main score less that of other arms, by their name.
    pub differences: BTreeMap<String, Interval>,
    /// What an answer costs.
    pub cost: Cost,
    /// Questions whose prompt did not fit the decoder's window, or whose document the encoder's
    /// chunks: they count as wrong, and have no part in costs. In a scored task no arm is scored on
    /// them.
    pub too_long: usize,
    /// The main score by length and depth, in a needle task.
    pub cells: Vec<(NeedlePlace, f64)>,
}

/// What an answer costs, on average over the questions that fitted.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Cost {
    /// Positions that the decoder reads.
    pub positions: f64,
    /// Those of the question's document.
    pub document_positions: f64,
    /// Tokens that it writes.
    pub new_tokens: f64,
    /// Operations for each document, once.
    pub prepare_flops: f64,
    /// Operations for each question, with the instruction and the examples read anew.
    pub use_flops: f64,
    /// Those of them that come after the instruction and the examples.
    pub marginal_flops: f64,
    /// Keys and values at the end of the answer.
    pub kv_cache_bytes: f64,
    /// Times, over the questions that were asked alone.
    pub seconds: Option<Seconds>,
    /// When the arm is ahead of open-book.
    pub break_even: Option<BreakEven>,
}

/// Times for one question alone, with the instruction and the examples already read.
#[derive(Clone, Debug, Default, Serialize)]
#[non_exhaustive]
pub struct Seconds {
    /// Questions that were timed.
    pub questions: usize,
    /// Compressing the document or choosing its tokens.
    pub prepare: f64,
    /// Reading the rest of the prompt.
    pub prefill: f64,
    /// To the first token, for a document that is prepared already.
    pub first_token: f64,
    /// Writing the other tokens.
    pub decode: f64,
    /// The document's length in the decoder's tokens, whatever the arm shows of it, and seconds to
    /// the first token, preparation included, of each question: what the length costs.
    pub by_length: Vec<(usize, f64)>,
}

/// After how many uses of a document that is prepared once an arm has cost less than open-book:
/// `prepare + n · use < n · use of open-book`, where a use is what is read and written after the
/// instruction and the examples. `None` is never.
#[derive(Clone, Copy, Debug, Serialize)]
#[non_exhaustive]
pub struct BreakEven {
    /// By operations.
    pub by_flops: Option<f64>,
    /// By the time to the first token.
    pub by_time: Option<f64>,
}

/// A question with every arm's answer.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct Example {
    /// The question.
    pub question: String,
    /// Its document, or the beginning of it.
    pub document: String,
    /// Right answers.
    pub golds: Vec<String>,
    /// The answers by arm: name, text and main score in per cent.
    pub answers: Vec<(String, String, f64)>,
}

impl TaskResult {
    /// Scores the answers of every arm.
    #[must_use]
    pub fn new(
        task: &LoadedTask,
        contestant: &Contestant,
        arms: &[ArmAnswers],
        options: &EvalOptions,
    ) -> Self {
        let questions = arms.iter().map(|arm| arm.answers.len()).min().unwrap_or(0);
        let bootstrap = Bootstrap::new(questions, options.seed);
        let factors = factors(arms);
        let several = factors.len() > 1;
        let scored: Vec<Scored> = arms.iter().map(|arm| Scored::new(task, arm, arms)).collect();
        let open_book = arms.iter().find(|arm| arm.arm == Arm::OpenBook).map(|arm| cost(&arm.answers));
        let results = arms.iter().zip(&scored).map(|(arm, own)| {
            let scores =
                own.scores.iter().map(|score| (score.name.clone(), score.interval(&bootstrap))).collect();
            let rivals = arms.iter().zip(&scored).filter(|(rival, _)| is_rival(arm.arm, rival.arm));
            let differences = rivals
                .filter_map(|(rival, theirs)| {
                    Some((
                        rival.arm.label(several),
                        own.scores.first()?.less(theirs.scores.first()?, &bootstrap),
                    ))
                })
                .collect();
            let mut cost = cost(&arm.answers);
            if arm.arm.factor().is_some() {
                cost.break_even = open_book.as_ref().map(|open_book| break_even(&cost, open_book));
            }
            ArmResult {
                arm: arm.arm.label(several),
                factor: arm.arm.factor().filter(|&factor| factor != Arm::OWN_COUNT),
                main: own.scores.first().map_or_else(String::new, |score| score.name.clone()),
                scores,
                differences,
                cost,
                too_long: arm
                    .answers
                    .iter()
                    .filter(|answer| answer.outcome == AnswerOutcome::TooLong)
                    .count(),
                cells: own.cells(&task.rows),
            }
        });
        let adapter = contestant.adapted.as_ref().map(|adapted| &adapted.adapter.manifest);
        Self {
            decoder: contestant.decoder.name.clone(),
            decoder_sha256: contestant.decoder_sha256.clone(),
            encoder_id: contestant.encoder.id.clone(),
            adapter_sha256: adapter.map(|adapter| adapter.weights.sha256.clone()),
            task: task.task.name.clone(),
            description: task.task.description.clone(),
            task_sha256: task.task.sha256.clone(),
            data_sha256: task.data_sha256.clone(),
            questions,
            shots: task.examples.len(),
            limit: options.limit.or(task.task.limit),
            truncate: task.truncate,
            factors,
            overridden_pins: contestant.overridden_pins(),
            too_short: arms.iter().map(|arm| arm.too_short).max().unwrap_or(0),
            seconds: arms.iter().flat_map(|arm| &arm.answers).map(|answer| answer.seconds).sum(),
            skipped_rows: task.skipped.clone(),
            arms: results.collect(),
            examples: examples(task, arms, &scored, several),
        }
    }
}

/// The different budgets.
fn factors(arms: &[ArmAnswers]) -> Vec<usize> {
    let mut factors: Vec<usize> = arms.iter().filter_map(|arm| arm.arm.factor()).collect();
    factors.sort_unstable();
    factors.dedup();
    factors
}

/// Whether an arm's score is compared with this one's: with open-book, with what else has the same
/// budget, and latents also with nothing and with those at smaller factors.
fn is_rival(arm: Arm, rival: Arm) -> bool {
    arm != rival
        && match (arm, rival) {
            (_, Arm::OpenBook) | (Arm::Arc(_), Arm::ClosedBook) => true,
            (Arm::Arc(factor), Arm::Arc(other)) => other < factor,
            _ => rival.factor().is_some() && rival.factor() == arm.factor(),
        }
}

/// A score from the sums of what it counts.
type Total = fn(&Score, &[f64]) -> f64;

/// A score as a function of numbers that are added over the questions.
struct Score {
    name: String,
    statistics: Vec<Vec<f64>>,
    total: Total,
    metric: Option<Metric>,
}

impl Score {
    fn interval(&self, bootstrap: &Bootstrap) -> Interval {
        bootstrap.interval(&self.statistics, |sums| (self.total)(self, sums))
    }

    /// This score less another, on the same draws.
    fn less(&self, other: &Self, bootstrap: &Bootstrap) -> Interval {
        let width = self.statistics.first().map_or(0, Vec::len);
        let pairs: Vec<Vec<f64>> = self
            .statistics
            .iter()
            .zip(&other.statistics)
            .map(|(own, theirs)| [&own[..], theirs].concat())
            .collect();
        bootstrap.interval(&pairs, |sums| {
            let (own, theirs) = sums.split_at(width);
            (self.total)(self, own) - (other.total)(other, theirs)
        })
    }
}

/// The scores of one arm; the first is the main one.
struct Scored {
    scores: Vec<Score>,
    /// The main score of each question alone, in per cent.
    by_question: Vec<f64>,
}

impl Scored {
    fn new(task: &LoadedTask, arm: &ArmAnswers, arms: &[ArmAnswers]) -> Self {
        match task.task.kind() {
            Kind::Generate(generate) => Self::of_texts(&generate.metrics, &task.rows, &arm.answers),
            Kind::Continuation(_) | Kind::Reconstruction(_) => Self::of_losses(arm, arms),
        }
    }

    /// The last number of each question counts it.
    fn of_texts(metrics: &[Metric], rows: &[Row], answers: &[Answer]) -> Self {
        let scores: Vec<Score> = metrics
            .iter()
            .map(|&metric| {
                let statistics = rows.iter().zip(answers).map(|(row, answer)| {
                    let text = if let AnswerOutcome::Text(text) = &answer.outcome { text } else { "" };
                    let mut statistics = metric.statistics(text, &row.answers);
                    statistics.push(1.0);
                    statistics
                });
                Score {
                    name: metric.label().into(),
                    statistics: statistics.collect(),
                    total: |score, sums| {
                        let Some((&count, sums)) = sums.split_last() else { return 0.0 };
                        score.metric.map_or(0.0, |metric| metric.score(sums, count as usize))
                    },
                    metric: Some(metric),
                }
            })
            .collect();
        let by_question = scores.first().map_or_else(Vec::new, |score| {
            score.statistics.iter().map(|statistics| (score.total)(score, statistics)).collect()
        });
        Self { scores, by_question }
    }

    /// The numbers of a question: loss, tokens, tokens foreseen, and the losses of closed-book and
    /// open-book where they are run. All are zero where it did not fit in some arm, so that all arms
    /// are scored on the same tokens.
    fn of_losses(arm: &ArmAnswers, arms: &[ArmAnswers]) -> Self {
        let of = |wanted: Arm| arms.iter().find(|other| other.arm == wanted).map(|other| &other.answers);
        let ends = of(Arm::ClosedBook).zip(of(Arm::OpenBook));
        let loss = |answer: &Answer| match answer.outcome {
            AnswerOutcome::Score { loss, tokens, correct } => [loss, tokens as f64, correct as f64],
            _ => [0.0; 3],
        };
        let statistics: Vec<Vec<f64>> = arm
            .answers
            .iter()
            .enumerate()
            .map(|(index, answer)| {
                let fits = |arm: &ArmAnswers| {
                    matches!(
                        arm.answers.get(index),
                        Some(Answer { outcome: AnswerOutcome::Score { .. }, .. })
                    )
                };
                if !arms.iter().all(fits) {
                    return vec![0.0; if ends.is_some() { 5 } else { 3 }];
                }
                let mut row = loss(answer).to_vec();
                if let Some((closed, open)) = ends {
                    row.extend(
                        [closed, open].map(|end| end.get(index).map_or(0.0, |answer| loss(answer)[0])),
                    );
                }
                row
            })
            .collect();
        let mut totals: Vec<(&str, Total)> = vec![
            ("loss", |_, sums| sums[0] / sums[1]),
            ("perplexity", |_, sums| (sums[0] / sums[1]).exp()),
            ("token accuracy", |_, sums| 100.0 * sums[2] / sums[1]),
        ];
        if ends.is_some() {
            totals.insert(0, ("recovered", |_, sums| 100.0 * (sums[3] - sums[0]) / (sums[3] - sums[4])));
        }
        let by_question = statistics.iter().map(|row| 100.0 * row[2] / row[1].max(1.0)).collect();
        let scores = totals
            .into_iter()
            .map(|(name, total)| Score {
                name: name.into(),
                statistics: statistics.clone(),
                total,
                metric: None,
            })
            .collect();
        Self { scores, by_question }
    }

    /// The mean of the main score in each cell of a needle task.
    fn cells(&self, rows: &[Row]) -> Vec<(NeedlePlace, f64)> {
        let mut cells: Vec<(NeedlePlace, f64, f64)> = Vec::new();
        for (place, score) in
            rows.iter().zip(&self.by_question).filter_map(|(row, &score)| Some((row.needle?, score)))
        {
            match cells.iter_mut().find(|(cell, ..)| *cell == place) {
                Some((_, sum, count)) => {
                    *sum += score;
                    *count += 1.0;
                }
                None => cells.push((place, score, 1.0)),
            }
        }
        cells.into_iter().map(|(place, sum, count)| (place, sum / count)).collect()
    }
}

fn cost(answers: &[Answer]) -> Cost {
    let answers: Vec<&Answer> =
        answers.iter().filter(|answer| answer.outcome != AnswerOutcome::TooLong).collect();
    // From 0 on: the sum of nothing is -0.
    let mean = |of: fn(&Answer) -> f64| {
        answers.iter().map(|answer| of(answer)).fold(0.0, std::ops::Add::add) / answers.len().max(1) as f64
    };
    let times: Vec<(&Answer, Times)> =
        answers.iter().filter_map(|&answer| Some((answer, answer.times?))).collect();
    let seconds = (!times.is_empty()).then(|| {
        let mean = |of: fn(&Times) -> f64| {
            times.iter().map(|(_, times)| of(times)).sum::<f64>() / times.len() as f64
        };
        Seconds {
            questions: times.len(),
            prepare: mean(|times| times.prepare),
            prefill: mean(|times| times.prefill),
            first_token: mean(|times| times.first_token),
            decode: mean(|times| times.decode),
            by_length: times
                .iter()
                .map(|(answer, times)| (answer.document_tokens, times.prepare + times.first_token))
                .collect(),
        }
    });
    Cost {
        positions: mean(|answer| answer.positions as f64),
        document_positions: mean(|answer| answer.document_positions as f64),
        new_tokens: mean(|answer| answer.new_tokens as f64),
        prepare_flops: mean(|answer| answer.prepare_flops),
        use_flops: mean(|answer| answer.use_flops),
        marginal_flops: mean(|answer| answer.marginal_flops),
        kv_cache_bytes: mean(|answer| answer.kv_cache_bytes),
        seconds,
        break_even: None,
    }
}

fn break_even(arm: &Cost, open_book: &Cost) -> BreakEven {
    let uses = |prepare: f64, own: f64, theirs: f64| (theirs > own).then(|| prepare / (theirs - own));
    let by_time = arm.seconds.as_ref().zip(open_book.seconds.as_ref());
    BreakEven {
        by_flops: uses(arm.prepare_flops, arm.marginal_flops, open_book.marginal_flops),
        by_time: by_time.and_then(|(arm, open)| uses(arm.prepare, arm.first_token, open.first_token)),
    }
}

fn examples(task: &LoadedTask, arms: &[ArmAnswers], scored: &[Scored], several: bool) -> Vec<Example> {
    if task.task.generate.is_none() {
        return Vec::new();
    }
    let shown = task.rows.iter().take(EXAMPLES).enumerate();
    shown
        .map(|(index, row)| Example {
            question: row.question.clone(),
            document: excerpt(&row.document),
            golds: row.answers.clone(),
            answers: arms
                .iter()
                .zip(scored)
                .filter_map(|(arm, scored)| {
                    let text = match &arm.answers.get(index)?.outcome {
                        AnswerOutcome::Text(text) => text.clone(),
                        _ => "(too long)".into(),
                    };
                    Some((arm.arm.label(several), text, *scored.by_question.get(index)?))
                })
                .collect(),
        })
        .collect()
}

/// The beginning of a document, if it is long.
fn excerpt(document: &str) -> String {
    const CHARACTERS: usize = 1200;
    match document.char_indices().nth(CHARACTERS) {
        Some((end, _)) => format!("{} …", &document[..end]),
        None => document.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eval::ArmFamily;

    fn answer(loss: f64) -> Answer {
        Answer {
            outcome: AnswerOutcome::Score { loss, tokens: 10, correct: 4 },
            positions: 20,
            document_positions: 5,
            document_tokens: 7,
            new_tokens: 0,
            prepare_flops: 6.0,
            use_flops: 20.0,
            marginal_flops: 2.0,
            kv_cache_bytes: 1.0,
            times: Some(Times { prepare: 3.0, prefill: 1.0, first_token: 1.5, decode: 0.5 }),
            seconds: 4.0,
        }
    }

    fn arm(arm: Arm, losses: [f64; 3]) -> ArmAnswers {
        ArmAnswers { arm, answers: losses.map(answer).to_vec(), too_short: 0 }
    }

    #[test]
    fn the_share_recovered_is_of_the_gap_between_the_arms_without_and_with_the_text() {
        let arms = [
            arm(Arm::ClosedBook, [40.0, 50.0, 30.0]),
            arm(Arm::OpenBook, [20.0, 30.0, 10.0]),
            arm(Arm::Arc(4), [30.0, 45.0, 15.0]),
        ];
        let bootstrap = Bootstrap::new(3, 0);
        let value = |index: usize, name: &str| {
            let scored = Scored::of_losses(&arms[index], &arms);
            scored.scores.iter().find(|score| score.name == name).unwrap().interval(&bootstrap)
        };
        assert_eq!(value(0, "recovered").value, 0.0);
        assert_eq!(value(1, "recovered").value, 100.0);
        assert!((value(2, "recovered").value - 50.0).abs() < 1e-9);
        // Drawn together, the end of the scale has no spread.
        assert_eq!(value(1, "recovered").low, 100.0);
        assert!((value(2, "loss").value - 3.0).abs() < 1e-9);
        assert!((value(2, "perplexity").value - 3.0_f64.exp()).abs() < 1e-9);
        assert!((value(2, "token accuracy").value - 40.0).abs() < 1e-9);
    }

    #[test]
    fn a_question_that_is_too_long_for_one_arm_costs_nothing_and_is_scored_in_none() {
        let mut arms = [
            arm(Arm::ClosedBook, [40.0, 50.0, 30.0]),
            arm(Arm::OpenBook, [20.0, 30.0, 10.0]),
            arm(Arm::Arc(4), [30.0, 40.0, 20.0]),
        ];
        arms[1].answers[1] = Answer::too_long(9000);
        let bootstrap = Bootstrap::new(3, 0);
        for (arm, loss) in arms.iter().zip([3.5, 1.5, 2.5]) {
            let scored = Scored::of_losses(arm, &arms);
            let of = |name: &str| scored.scores.iter().find(|score| score.name == name).unwrap();
            assert!((of("loss").interval(&bootstrap).value - loss).abs() < 1e-9);
        }
        assert_eq!(cost(&arms[1].answers).positions, 20.0);
        let seconds = cost(&arms[1].answers).seconds.unwrap();
        assert_eq!(seconds.by_length, [(7, 4.5), (7, 4.5)], "by the document's length, not the arm's");
    }

    #[test]
    fn latents_are_compared_with_both_ends_their_budget_and_smaller_factors() {
        let arms = Arm::of(&ArmFamily::ALL, &[4, 8]);
        let rivals = |arm: Arm| -> Vec<String> {
            arms.iter().filter(|&&rival| is_rival(arm, rival)).map(ToString::to_string).collect()
        };
        assert_eq!(
            rivals(Arm::Arc(8)),
            ["closed-book", "open-book", "truncation-8", "pruning-8", "rare-words-8", "arc-4", "control-8"]
        );
        assert_eq!(
            rivals(Arm::Arc(4)),
            ["closed-book", "open-book", "truncation-4", "pruning-4", "rare-words-4", "control-4"]
        );
        assert_eq!(rivals(Arm::ClosedBook), ["open-book"]);
    }

    #[test]
    fn an_arm_breaks_even_when_its_preparation_is_paid_back() {
        let arm = cost(&[answer(1.0)]);
        let mut open = arm.clone();
        // Examples are read once for all questions: what they take is no use's.
        open.use_flops = 1000.0;
        open.marginal_flops = 5.0;
        // 6 to prepare, 3 less for each use.
        assert_eq!(break_even(&arm, &open).by_flops, Some(2.0));
        assert_eq!(break_even(&arm, &open).by_time, None, "an arm that saves nothing is never ahead");
    }
}
