//! A report as one HTML page that needs nothing else.

use std::fmt::Write as _;

use super::chart::{Series, scatter};
use super::markdown::Table;
use super::report::{Example, Report, TaskResult};

const STYLE: &str = "body{font:15px/1.45 system-ui,sans-serif;max-width:76rem;margin:2rem auto;padding:0 1rem}\
table{border-collapse:collapse;margin:.6rem 0 1.4rem;font-size:14px}\
th,td{border:1px solid #ccc;padding:.25rem .55rem;text-align:right;vertical-align:top}\
th:first-child,td:first-child,.texts td{text-align:left}caption{text-align:left;font-weight:600;padding:.3rem 0}\
.right{background:#dff2df}.wrong{background:#f8e3e1}.document{color:#555;max-width:60rem}\
code{word-break:break-all}svg{max-width:100%;height:auto}";

impl Report {
    /// The report as a page.
    #[must_use]
    pub fn to_html(&self) -> String {
        let provenance = &self.provenance;
        let mut page = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>arc eval</title>\
             <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head><body>\n\
             <h1>arc eval</h1>\n"
        );
        for result in &self.results {
            page.push_str(&section(result));
        }
        // Writing to a string does not fail.
        let _ = writeln!(
            page,
            "<h2>Provenance</h2><p>arc {}, device {}, seed {}, batch {}, {} timed, {:.0} s, \
             ended at {} s after 1970.</p>\
             <p><code>{}</code></p></body></html>",
            escape(&provenance.version),
            escape(&provenance.device),
            provenance.seed,
            provenance.batch,
            provenance.timed,
            provenance.seconds,
            provenance.unix_time,
            escape(&provenance.command.join(" "))
        );
        page
    }
}

fn section(result: &TaskResult) -> String {
    let mut text = format!(
        "<h2>{} on {}</h2><p>{}; {} questions, {} shots.</p>\n",
        escape(&result.decoder),
        escape(&result.task),
        escape(&result.description),
        result.questions,
        result.shots
    );
    text.push_str(&table(&result.quality(), None));
    text.extend(quality_chart(result));
    text.push_str(&table(&result.differences(), None));
    text.push_str(&table(&result.costs(), None));
    text.extend(time_chart(result));
    for map in result.heat_maps() {
        text.push_str(&table(&map, Some(heat)));
    }
    if !result.examples.is_empty() {
        text.push_str("<h3>Examples</h3>\n");
        result.examples.iter().for_each(|shown| text.push_str(&example(shown)));
    }
    for note in result.notes() {
        let _ = writeln!(text, "<p>{}</p>", escape(&note));
    }
    let _ = writeln!(
        text,
        "<p>decoder <code>{}</code><br>encoder <code>{}</code><br>adapter <code>{}</code><br>\
         task <code>{}</code><br>data <code>{}</code></p>",
        escape(&result.decoder_sha256),
        escape(&result.encoder_id),
        escape(result.adapter_sha256.as_deref().unwrap_or("none")),
        escape(&result.task_sha256),
        escape(&result.data_sha256.join(" "))
    );
    text
}

fn quality_chart(result: &TaskResult) -> Option<String> {
    let main = result.arms.first()?.main.clone();
    let series: Vec<Series> = result
        .arms
        .iter()
        .filter_map(|arm| {
            let score = arm.scores.get(&arm.main)?;
            Some(Series {
                name: arm.arm.clone(),
                points: vec![(arm.cost.document_positions, score.value)],
                bars: vec![(score.low, score.high)],
            })
        })
        .collect();
    scatter("quality against budget", "positions of the document", &main, &series)
}

fn time_chart(result: &TaskResult) -> Option<String> {
    let series: Vec<Series> = result
        .arms
        .iter()
        .filter_map(|arm| {
            let seconds = arm.cost.seconds.as_ref()?;
            let points =
                seconds.by_length.iter().map(|&(positions, seconds)| (positions as f64, seconds)).collect();
            Some(Series { name: arm.arm.clone(), points, bars: Vec::new() })
        })
        .collect();
    let y = "seconds to the first token, preparation included";
    scatter("time against length", "tokens of the document", y, &series)
}

fn table(table: &Table, style: Option<fn(&str) -> String>) -> String {
    if table.rows.is_empty() {
        return String::new();
    }
    let mut text = format!("<table><caption>{}</caption><tr>", escape(&table.title));
    for cell in &table.head {
        let _ = write!(text, "<th>{}</th>", escape(cell));
    }
    text.push_str("</tr>\n");
    for row in &table.rows {
        text.push_str("<tr>");
        for (index, cell) in row.iter().enumerate() {
            let style = style.filter(|_| index > 0).map_or_else(String::new, |style| style(cell));
            let _ = write!(text, "<td{style}>{}</td>", escape(cell));
        }
        text.push_str("</tr>\n");
    }
    text.push_str("</table>\n");
    text
}

/// The colour of a cell of a heat map, from red (0) to green (100).
fn heat(cell: &str) -> String {
    cell.parse::<f64>().map_or_else(
        |_| String::new(),
        |score| format!(" style=\"background:hsl({:.0} 60% 82%)\"", 1.2 * score.clamp(0.0, 100.0)),
    )
}

fn example(example: &Example) -> String {
    let mut text = format!(
        "<details><summary>{}</summary><p class=\"document\">{}</p><table class=\"texts\">\
         <tr><td>gold</td><td>{}</td></tr>\n",
        escape(&example.question),
        escape(&example.document),
        escape(&example.golds.join(" / "))
    );
    for (arm, answer, score) in &example.answers {
        let class = if *score >= 50.0 { "right" } else { "wrong" };
        let _ = writeln!(
            text,
            "<tr class=\"{class}\"><td>{}</td><td>{}</td><td>{score:.0}</td></tr>",
            escape(arm),
            escape(answer)
        );
    }
    text.push_str("</table></details>\n");
    text
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_decoder_writes_is_text_on_the_page() {
        let shown = example(&Example {
            question: "<script>alert(1)</script>".into(),
            document: "a & b".into(),
            golds: vec!["\"x\"".into()],
            answers: vec![("arc-4".into(), "</td><b>".into(), 0.0)],
        });
        assert!(!shown.contains("<script>") && !shown.contains("<b>"), "{shown}");
        assert!(shown.contains("&lt;/td&gt;&lt;b&gt;") && shown.contains("a &amp; b"));
    }

    #[test]
    fn a_heat_map_is_red_at_nothing_and_green_at_all() {
        assert!(heat("0").contains("hsl(0 ") && heat("100").contains("hsl(120 "));
        assert_eq!(heat("–"), "");
    }
}
