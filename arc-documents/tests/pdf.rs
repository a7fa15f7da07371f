//! The text of PDF files, made by the crate that reads them: where strings are shown says what is a line, a
//! word and a page.
#![cfg(feature = "pdf")]

mod damage;
mod written;

use arc_documents::{Format, Reader};
use damage::damaged;
use lopdf::content::{Content, Operation};
use lopdf::{
    Dictionary, Document, EncryptionState, EncryptionVersion, Object, Permissions, Stream, dictionary,
};
use written::{stream, written};

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

/// So many zeros, packed.
fn zeros(count: usize) -> Vec<u8> {
    let mut stream = Stream::new(Dictionary::new(), vec![0; count]);
    stream.compress().expect("it is compressed");
    assert!(stream.content.len() < count / 500);
    stream.content
}

/// A catalog, a tree of one page, and that page, of a font and what is shown.
fn one_page(catalog: &str, font: &str, content: Vec<u8>) -> Vec<Vec<u8>> {
    vec![
        format!("<</Type /Catalog /Pages 2 0 R {catalog}>>").into_bytes(),
        b"<</Type /Pages /Kids [3 0 R] /Count 1>>".to_vec(),
        format!("<</Type /Page /Parent 2 0 R /Contents 4 0 R /Resources <</Font <</F1 {font}>>>>>>")
            .into_bytes(),
        content,
    ]
}

const COURIER: &str = "<</Type /Font /Subtype /Type1 /BaseFont /Courier /Encoding /WinAnsiEncoding>>";
const SHOWN: &[u8] = b"BT /F1 12 Tf (shown) Tj ET";

fn read(objects: &[Vec<u8>]) -> arc_documents::Result<String> {
    let documents = Reader::default().from_bytes("x.pdf", written(objects))?;
    Ok(documents.into_iter().map(|document| document.text).collect())
}

#[test]
fn a_file_that_is_written_by_hand_is_read() {
    assert_eq!(read(&one_page("", COURIER, stream("", SHOWN))).expect("it is read"), "shown\n\n");
}

/// On a stack of a thread, which is smaller than a program's.
#[test]
fn whatever_nests_deeply_ends_in_an_answer() {
    let deep = 100_000;
    let nested = |open: &str, close: &str| format!("{}1{}", open.repeat(deep), close.repeat(deep));
    for (open, close) in [("[", "]"), ("<</A ", ">>"), ("(", ")")] {
        // What comes of it does not matter, but that something does.
        let _ = read(&one_page(&format!("/X {}", nested(open, close)), COURIER, stream("", SHOWN)));
        let content = format!("BT /F1 12 Tf {} TJ ET", nested(open, close));
        let _ = read(&one_page("", COURIER, stream("", content.as_bytes())));
    }
    // Pages in pages, each the next one's parent.
    let mut pages = vec![b"<</Type /Catalog /Pages 2 0 R>>".to_vec()];
    for number in 2..20_000 {
        let (above, below) = (number - 1, number + 1);
        let page = format!("<</Type /Pages /Parent {above} 0 R /Kids [{below} 0 R] /Count 1>>");
        pages.push(page.into_bytes());
    }
    pages.push(b"<</Type /Page /Parent 19999 0 R>>".to_vec());
    assert!(read(&pages).expect_err("there is no text").to_string().contains("has no text"));
}

#[test]
fn a_tree_of_pages_that_has_itself_among_its_pages_ends() {
    let mut pages = one_page("", COURIER, stream("", SHOWN));
    pages[1] = b"<</Type /Pages /Kids [2 0 R 3 0 R 2 0 R] /Count 3 /Parent 2 0 R>>".to_vec();
    let text = read(&pages).unwrap_or_default();
    assert!(text.matches("shown").count() <= 4, "{text}");
}

#[test]
fn little_that_unpacks_to_much_is_refused() {
    let flate = "/Filter /FlateDecode";
    let most = 64 << 20;
    let refused = |objects: &[Vec<u8>]| read(objects).expect_err("it is refused").to_string();
    assert!(
        refused(&one_page("", COURIER, stream(flate, &zeros(most))))
            .contains("is no PDF file that can be read")
    );
    // Packed twice.
    let mut twice = Stream::new(Dictionary::new(), zeros(most));
    twice.compress().expect("it is compressed");
    let twice = stream("/Filter [/FlateDecode /FlateDecode]", &twice.content);
    assert!(refused(&one_page("", COURIER, twice)).contains("is no PDF file that can be read"));
    // Objects in a stream.
    let mut objects = one_page("", COURIER, stream("", SHOWN));
    objects.push(stream(&format!("/Type /ObjStm /N 1 /First 4 {flate}"), &zeros(most)));
    assert!(refused(&objects).contains("is no PDF file that can be read"));
    // The map of a font, without which its text is left out.
    let mut objects = one_page("", "<</Type /Font /Subtype /Type0 /ToUnicode 5 0 R>>", stream("", SHOWN));
    objects.push(stream(flate, &zeros(most)));
    assert!(refused(&objects).contains("has no text"));
}

#[test]
fn what_is_shown_again_and_again_is_bounded_together() {
    // Each page shows one stream of 100,000 bytes without text; there are ten thousand.
    let mut objects = one_page("", COURIER, stream("", &b"q Q ".repeat(25_000)));
    objects[1] = format!("<</Type /Pages /Kids [{}] /Count 10000>>", "3 0 R ".repeat(10_000)).into_bytes();
    // As many objects as pages, which a tree may not have more of.
    objects.extend(vec![b"null".to_vec(); 10_000]);
    let error = Reader::default().at_most(1 << 20).from_bytes("x.pdf", written(&objects));
    assert!(error.expect_err("it is refused").to_string().ends_with("has pages of more than 8388608 bytes"));

    // A font that makes sixteen characters of each.
    let map = format!(
        "/CIDInit /ProcSet findresource begin\n12 dict begin\nbegincmap\n/CMapName /Many def\n\
         1 begincodespacerange\n<00> <ff>\nendcodespacerange\n1 beginbfchar\n<61> <{}>\nendbfchar\nendcmap\n\
         CMapName currentdict /CMap defineresource pop\nend\nend\n",
        "0062".repeat(16)
    );
    let shown = format!("BT /F1 12 Tf {} ET", format!("({}) Tj ", "a".repeat(30_000)).repeat(5));
    let mut objects =
        one_page("", "<</Type /Font /Subtype /Type0 /ToUnicode 5 0 R>>", stream("", shown.as_bytes()));
    objects.push(stream("", map.as_bytes()));
    let whole = Reader::default().from_bytes("x.pdf", written(&objects)).expect("it is read");
    assert_eq!(whole[0].text.matches('b').count(), 16 * 150_000);
    let error = Reader::default().at_most(1 << 20).from_bytes("x.pdf", written(&objects));
    assert!(error.expect_err("it is refused").to_string().ends_with("has more than 1048576 bytes of text"));
}

#[test]
fn a_locked_file_is_told_apart_from_one_that_anybody_may_read() {
    let whole = pdf(&[page(vec![shows("a secret")])]);
    let locked_by = |user_password: &str| {
        let mut document = Document::load_mem(&whole).expect("a PDF");
        let id = || Object::string_literal("an identity of it");
        document.trailer.set("ID", vec![id(), id()]);
        let version = EncryptionVersion::V2 {
            document: &document,
            owner_password: "owner",
            user_password,
            key_length: 128,
            permissions: Permissions::all(),
        };
        let state = EncryptionState::try_from(version).expect("a key");
        document.encrypt(&state).expect("it is encrypted");
        let mut bytes = Vec::new();
        document.save_to(&mut bytes).expect("a PDF");
        assert!(!bytes.windows(8).any(|bytes| bytes == b"a secret"));
        Reader::default().from_bytes("x.pdf", bytes)
    };
    assert_eq!(locked_by("").expect("it is read")[0].text, "a secret\n\n");
    let error = locked_by("user").expect_err("it is locked");
    assert_eq!(error.to_string(), "document `x.pdf` is a PDF file that is locked by a password");
    assert!(error.hint().is_some_and(|hint| hint.contains("qpdf")));
}

#[test]
fn no_damage_to_a_file_is_more_than_an_error() {
    let whole = pdf(&[page(vec![shows("some text"), operation("T*", vec![]), shows("and more")])]);
    for seed in 0..1500 {
        // What it comes to does not matter, but that it comes to something.
        let _ = Reader::default().at_most(1 << 20).from_bytes("x.pdf", damaged(&whole, seed));
    }
}
