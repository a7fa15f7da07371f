//! PDF files through the command line: what they say is read, and those that are made to break what reads them cost
//! no more than is said, and end no command.
#![cfg(feature = "pdf")]

#[path = "harness/tiny.rs"]
mod tiny;
#[path = "../arc-documents/tests/written/mod.rs"]
mod written;

use std::time::{Duration, Instant};

use serde_json::Value;
use tiny::{FAILURE, LATENTS, Place, Refusal, USAGE};
use written::{stream, written};

/// So many times the same page, which shows `content`.
fn pages(count: usize, content: &[u8]) -> Vec<Vec<u8>> {
    let font = "<</Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding>>";
    let mut objects = vec![
        b"<</Type /Catalog /Pages 2 0 R>>".to_vec(),
        format!("<</Type /Pages /Kids [{}] /Count {count}>>", "3 0 R ".repeat(count)).into_bytes(),
        format!("<</Type /Page /Parent 2 0 R /Contents 4 0 R /Resources <</Font <</F1 {font}>>>>>>")
            .into_bytes(),
        stream("", content),
    ];
    // A tree may not have more pages than there are objects.
    objects.extend(vec![b"null".to_vec(); count]);
    objects
}

const SHOWN: &[u8] = b"BT /F1 12 Tf (The harbour is to be dredged in May.) Tj ET";

fn place() -> Place {
    let place = Place::with_encoder();
    place.file("good.pdf", written(&pages(1, SHOWN)));
    place
}

#[test]
fn a_pdf_is_read_by_another_process_as_it_is_by_this_one() {
    let place = place();
    let made = place.succeeds(&["compress", "good.pdf", "-o", LATENTS]);
    let read = arc_documents::Reader::default().read(&arc_documents::Source::File(place.path("good.pdf")));
    let text = read.expect("it is read").remove(0).text;
    assert_eq!(text, "The harbour is to be dredged in May.\n\n");
    place.file("text.txt", &text);
    let plain = place.succeeds(&["compress", "text.txt", "-o", "plain.arc.safetensors"]);
    assert_eq!(made["text_sha256"], plain["text_sha256"]);
}

/// As its makers wrote it, page by page: lines and words come out where a reader sees them.
#[test]
fn a_pdf_is_asked_about_like_the_text_that_it_was_made_of() {
    let place = Place::with_adapter();
    for name in ["washington-1790.pdf", "washington-1790.txt"] {
        let example = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name);
        place.file(name, std::fs::read(example).expect("the example"));
    }
    let question = "In which country was the loan of 3,000,000 florins completed?";
    let ask = |name: &str| {
        place.succeeds(&["ask", "--decoder", "tiny", name, "--max-tokens", "2", "--top", "1", question])
    };
    let (pdf, text) = (ask("washington-1790.pdf"), ask("washington-1790.txt"));
    let tokens = |answer: &Value| answer["source_tokens"].as_i64().expect("a number");
    // A token is a byte; only breaks between lines and pages differ.
    assert!((tokens(&pdf) - tokens(&text)).abs() < tokens(&text) / 50, "{} {}", tokens(&pdf), tokens(&text));
    // The chunk of 64 bytes with the question's rare words lies about as far into either.
    let chunk = |answer: &Value| answer["taken"]["by_document"][0][0].as_i64().expect("a chunk");
    assert!((chunk(&pdf) - chunk(&text)).abs() <= 2, "{} {}", pdf["taken"], text["taken"]);
}

/// A stream of objects, each of which is the same long list.
#[test]
fn what_takes_too_much_memory_is_refused_by_name() {
    let place = place();
    let mut objects = pages(1, SHOWN);
    let (count, list) = (20_000, format!("[{}]", "0 ".repeat(400_000)));
    let index: String = (0..count).map(|number| format!("{} 0 ", 100 + number)).collect();
    let entries = format!("/Type /ObjStm /N {count} /First {}", index.len());
    objects.push(stream(&entries, format!("{index}{list}").as_bytes()));
    place.file("bomb.pdf", written(&objects));
    let start = Instant::now();
    let refusal = place.fails(FAILURE, &["compress", "bomb.pdf", "-o", LATENTS]);
    refusal.says(&["document `bomb.pdf` is a PDF file that takes more than 1024 MiB of memory to read"]);
    refusal.hints(&["pdftotext"]);
    assert!(start.elapsed() < Duration::from_secs(60), "{:?}", start.elapsed());
    assert!(!place.path(LATENTS).exists());

    // Among others it is passed over.
    place.file("all/bomb.pdf", written(&objects));
    place.file("all/good.pdf", written(&pages(1, SHOWN)));
    let made = place.succeeds(&["compress", "all", "--skip-bad", "-o", "made"]);
    assert_eq!(made["made"].as_array().map(Vec::len), Some(1), "{made}");
    assert!(made["left_out"][0].as_str().is_some_and(|why| why.contains("all/bomb.pdf")), "{made}");
}

/// Many pages that show the same lines without end.
#[test]
fn what_takes_too_long_is_refused_by_name() {
    let place = place();
    place.file("long.pdf", written(&pages(1000, &b"q Q ".repeat(2_000_000))));
    let start = Instant::now();
    let compress = ["compress", "long.pdf", "-o", LATENTS];
    let within = |seconds: &str, arguments: &[&str]| {
        Refusal::of(place.arc(arguments).env("ARC_PDF_SECONDS", seconds).output(), FAILURE)
    };
    let refusal = within("1", &compress);
    refusal.says(&["document `long.pdf` is a PDF file that takes longer than 1 s to read"]);
    refusal.hints(&["ARC_PDF_SECONDS"]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());

    let refusal = within("x", &["compress", "good.pdf", "-o", LATENTS]);
    refusal.says(&["`ARC_PDF_SECONDS` is `x`"]);
}

#[test]
fn what_is_no_pdf_after_its_first_bytes_is_refused_like_any_other() {
    let place = place();
    place.file("empty.pdf", b"%PDF-1.5\n");
    let refusal = place.fails(FAILURE, &["compress", "empty.pdf", "-o", LATENTS]);
    refusal.says(&["document `empty.pdf` is no PDF file that can be read"]);
    refusal.hints(&["pdftotext"]);
    // What is left of one that was cut off is found without its table, and shows nothing.
    place.file("cut.pdf", &written(&pages(1, SHOWN))[..200]);
    place.fails(FAILURE, &["compress", "cut.pdf", "-o", LATENTS]).says(&["document `cut.pdf` has no text"]);
    place.fails(USAGE, &["read-pdf", "x"]);
}
