//! The text of PDF files, made by the crate that reads them: where strings are shown says what is a line, a
//! word and a page.
#![cfg(feature = "pdf")]

mod damage;

use arc_documents::{Format, Reader};
use damage::damaged;
use lopdf::content::{Content, Operation};
use lopdf::{Dictionary, Document, Object, Stream, dictionary};

/// A PDF with a page for each list of operations.
fn pdf(pages: &[Vec<Operation>]) -> Vec<u8> {
    let mut document = Document::with_version("1.5");
    let tree = document.new_object_id();
    let font = document.add_object(dictionary! {
        "Type" => "Font", "Subtype" => "Type1", "BaseFont" => "Courier", "Encoding" => "WinAnsiEncoding",
    });
    let resources = document.add_object(dictionary! { "Font" => dictionary! { "F1" => font } });
    let kids: Vec<Object> = pages
        .iter()
        .map(|operations| {
            let content = Content { operations: operations.clone() }.encode().expect("operations");
            let mut stream = Stream::new(Dictionary::new(), content);
            stream.compress().expect("it is compressed");
            let content = document.add_object(stream);
            let page = dictionary! { "Type" => "Page", "Parent" => tree, "Contents" => content };
            document.add_object(page).into()
        })
        .collect();
    let count = kids.len() as i64;
    let pages = dictionary! {
        "Type" => "Pages", "Kids" => kids, "Count" => count, "Resources" => resources,
        "MediaBox" => vec![0.into(), 0.into(), 595.into(), 842.into()],
    };
    document.objects.insert(tree, Object::Dictionary(pages));
    let catalog = document.add_object(dictionary! { "Type" => "Catalog", "Pages" => tree });
    document.trailer.set("Root", catalog);
    let mut bytes = Vec::new();
    document.save_to(&mut bytes).expect("a PDF");
    bytes
}

fn operation(operator: &str, operands: Vec<Object>) -> Operation {
    Operation::new(operator, operands)
}

fn shows(text: &str) -> Operation {
    operation("Tj", vec![Object::string_literal(text)])
}

fn page(operations: Vec<Operation>) -> Vec<Operation> {
    let begin = [operation("BT", vec![]), operation("Tf", vec!["F1".into(), 12.into()])];
    begin.into_iter().chain(operations).chain([operation("ET", vec![])]).collect()
}

#[test]
fn a_pdf_has_its_lines_its_spaces_and_its_pages() {
    let kerned = vec![Object::string_literal("Ke"), 30.into(), Object::string_literal("rned"), (-250).into()];
    let kerned = [kerned, vec![Object::string_literal("gap")]].concat();
    let first = page(vec![
        operation("Td", vec![72.into(), 720.into()]),
        shows("The first"),
        operation("Td", vec![60.into(), 0.into()]),
        shows("line,"),
        operation("Td", vec![(-60).into(), (-14).into()]),
        shows("the second."),
        operation("TL", vec![14.into()]),
        operation("'", vec![Object::string_literal("A third")]),
        operation("T*", vec![]),
        operation("TJ", vec![Object::Array(kerned)]),
    ]);
    let second = page(vec![shows("Page two: "), shows("100"), shows(" %")]);
    let bytes = pdf(&[first, second]);
    let expected = "The first line,\nthe second.\nA third\nKerned gap\n\nPage two: 100 %\n\n";
    // The name does not matter.
    for name in ["x.pdf", "standard input", "x.txt"] {
        let documents = Reader::default().from_bytes(name, bytes.clone()).expect("a document");
        assert_eq!((documents[0].text.as_str(), documents[0].format), (expected, Format::Pdf));
    }
}

#[test]
fn a_pdf_of_images_alone_is_told_what_to_do() {
    let bytes = pdf(&[vec![operation("q", vec![]), operation("Q", vec![])]]);
    let error = Reader::default().from_bytes("scan.pdf", bytes).expect_err("it is refused");
    assert_eq!(error.to_string(), "document `scan.pdf` has no text");
    assert!(error.hint().is_some_and(|hint| hint.contains("recognised")));
}

#[test]
fn no_damage_to_a_file_is_more_than_an_error() {
    let whole = pdf(&[page(vec![shows("some text"), operation("T*", vec![]), shows("and more")])]);
    for seed in 0..1500 {
        // What it comes to does not matter, but that it comes to something.
        let _ = Reader::default().at_most(1 << 20).from_bytes("x.pdf", damaged(&whole, seed));
    }
}
