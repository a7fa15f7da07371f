//! What is read of each format, and that nothing that is wrong with a file does harm.

mod damage;

use std::io::{Cursor, Write as _};

use arc_documents::{Error, Format, Reader};
use damage::damaged;

fn read(name: &str, bytes: impl Into<Vec<u8>>) -> (String, Format) {
    let mut documents = Reader::default().from_bytes(name, bytes.into()).expect("a document");
    assert_eq!(documents.len(), 1);
    let document = documents.remove(0);
    (document.text, document.format)
}

fn refusal(name: &str, bytes: impl Into<Vec<u8>>) -> String {
    let error = Reader::default().from_bytes(name, bytes.into()).expect_err("it is refused");
    assert!(error.hint().is_some_and(|hint| !hint.is_empty()), "{error} has no hint");
    assert!(!error.to_string().contains('\n'), "{error}");
    error.to_string()
}

fn docx(document: &str) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    for (name, content) in [("[Content_Types].xml", "<Types/>"), ("word/document.xml", document)] {
        archive.start_file(name, zip::write::SimpleFileOptions::default()).expect("a part");
        archive.write_all(content.as_bytes()).expect("its content");
    }
    archive.finish().expect("an archive").into_inner()
}

const BODY: &str = r#"<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>
<w:p><w:r><w:t>Caf</w:t></w:r><w:r><w:t xml:space="preserve">é &amp; more &#x2014; </w:t></w:r><w:del><w:r><w:delText>gone</w:delText></w:r></w:del><w:r><w:t>text</w:t></w:r></w:p>
<w:p><w:r><w:fldChar/><w:instrText>PAGEREF x</w:instrText></w:r></w:p><w:p/>
<w:tbl><w:tr><w:tc><w:p><w:r><w:t>a cell</w:t><w:tab/><w:t>another</w:t><w:br/><w:t>line</w:t></w:r></w:p></w:tc></w:tr></w:tbl>
</w:body></w:document>"#;

#[test]
fn a_docx_has_a_line_for_each_paragraph_and_nothing_that_was_deleted() {
    let expected = "Café & more — text\n\n\na cell\tanother\nline\n";
    for name in ["x.docx", "standard input"] {
        assert_eq!(read(name, docx(BODY)), (expected.to_owned(), Format::Docx));
    }
}

#[test]
fn an_archive_without_a_document_and_one_that_unpacks_to_too_much_are_refused() {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    archive.start_file("a.txt", zip::write::SimpleFileOptions::default()).expect("a part");
    let other = archive.finish().expect("an archive").into_inner();
    assert!(refusal("x.zip", other.clone()).contains("is a ZIP file"));
    assert!(refusal("x.docx", other).contains("is no valid DOCX file: `word/document.xml`"));
    assert!(refusal("x.docx", docx("<a><b></a>")).contains("is no valid DOCX file: byte"));
    // A thousand to one, as archives can be.
    let bomb = docx(&format!("<w:t>{}</w:t>", "a".repeat(200_000)));
    assert!(bomb.len() < 2000);
    let error = Reader::default().at_most(100_000).from_bytes("x.docx", bomb).expect_err("too much");
    assert!(error.to_string().contains("unpacks to more than 100000 bytes"), "{error}");
}

#[test]
fn a_web_page_is_its_text() {
    let html = "\u{feff}<!DOCTYPE html><html><head><title>T</title><style>p { color: red }</style>
        <script>alert(1)</script></head><body><h1>Head</h1><p>One &amp; two,
        <a href=\"http://x\">a link</a>.</p><hr><ul><li>first</li><li>second</li></ul>
        <table><tr><td>cell 1</td><td>cell 2</td></tr></table></body></html>";
    let expected = "Head\n\nOne & two, a link.\n\nfirst\nsecond\n\ncell 1\tcell 2";
    for name in ["x.html", "standard input"] {
        assert_eq!(read(name, html), (expected.to_owned(), Format::Html));
    }
    let pre = "<p>a<br>b <b>c</b>d<pre>  one\n\ttwo</pre>e<script>if (a < b) { '</p>' }</script>f";
    assert_eq!(read("x.html", pre).0, "a\nb cd\n\n  one\n\ttwo\n\nef");
    let long = "word ".repeat(500);
    let (text, _) = read("x.htm", format!("<p>{long}</p><p>end"));
    assert!(text.lines().any(|line| line == long.trim()), "a paragraph is a line");
    // As deep as a page may be by mistake or malice.
    let deep = format!("{}text", "<div>".repeat(20_000));
    assert_eq!(read("x.html", deep).0.trim(), "text");
}

#[test]
fn lines_of_json_are_documents_with_names_of_their_own() {
    let lines = "{\"text\": \"one\"}\n\n{\"text\": \"two\", \"id\": \"b\", \"more\": 1}\n";
    let documents = Reader::default().from_bytes("x.jsonl", lines.into()).expect("documents");
    let names: Vec<_> = documents.iter().map(|d| (d.name.as_str(), d.text.as_str())).collect();
    assert_eq!(names, [("x.jsonl:1", "one"), ("b", "two")]);
    for (lines, says) in [
        ("{\"text\": \"one\"}\n{", "line 2 what is no JSON"),
        ("{\"texts\": \"one\"}", "line 1 no text in `text`"),
        ("{\"text\": \" \"}", "line 1 an empty text"),
        ("\n", "is empty"),
    ] {
        assert!(refusal("x.jsonl", lines).contains(says), "{lines:?}");
    }
}

#[test]
fn text_is_kept_as_it_is_but_for_the_byte_order_mark() {
    assert_eq!(read("x", "\u{feff} é\r\n\t# z "), (" é\r\n\t# z ".to_owned(), Format::Text));
    assert_eq!(read("x.md", "# A\n*b*").0, "# A\n*b*");
    assert_eq!(refusal("x.txt", ""), "document `x.txt` is empty");
    assert_eq!(refusal("x.txt", b"\xef\xbb\xbf \n".to_vec()), "document `x.txt` is empty");
    assert_eq!(refusal("x.txt", b"caf\xe9 noir".to_vec()), "document `x.txt` is not UTF-8: byte 3 is 0xe9");
    assert_eq!(refusal("x.html", b"<p>\xe9".to_vec()), "document `x.html` is not UTF-8: byte 3 is 0xe9");
    assert_eq!(refusal("x.txt", b"\xff\xfea\0".to_vec()), "document `x.txt` is UTF-16");
    assert_eq!(refusal("x.txt", b"\x7fELF\0".to_vec()), "document `x.txt` is binary: byte 4 is zero");
    #[cfg(not(feature = "pdf"))]
    assert_eq!(
        refusal("x", b"%PDF-1.7".to_vec()),
        "document `x` is a PDF file, which this build does not read"
    );
    assert!(refusal("x.txt", b"\x89PNG\r\n\x1a\n".to_vec()).contains("is an image"));
}

#[test]
fn what_is_endless_is_read_up_to_the_limit() {
    let endless = Reader::default().at_most(1000).from_reader("x", std::io::repeat(b'a'));
    let error = endless.expect_err("it is too long").to_string();
    assert_eq!(error, "document `x` is larger than 1000 bytes");
}

#[test]
fn a_file_that_cannot_be_read_is_named_and_the_next_one_is_read() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, content) in [("a.txt", "one"), ("b.txt", ""), ("c.md", "three")] {
        std::fs::write(folder.path().join(name), content).expect("a file");
    }
    let documents = Reader::default().documents(&[folder.path(), &folder.path().join("none.txt")]);
    let found: Vec<_> = documents.expect("places").map(|document| document.map(|d| d.text)).collect();
    assert_eq!(found.len(), 4);
    assert_eq!(found[0].as_deref().ok(), Some("one"));
    assert!(matches!(&found[1], Err(Error::Unreadable { name, .. }) if name.ends_with("b.txt")));
    assert_eq!(found[2].as_deref().ok(), Some("three"));
    assert!(matches!(&found[3], Err(Error::Io { path, .. }) if path.ends_with("none.txt")));
}

#[test]
fn no_damage_to_a_file_is_more_than_an_error() {
    let html = b"<!doctype html><table><tr><td>a<ul><li>b</table><pre>c</pre>&#x110000;&lt".to_vec();
    for (name, whole) in [("x.docx", docx(BODY)), ("x.html", html)] {
        for seed in 0..1500 {
            // What it comes to does not matter, but that it comes to something.
            let _ = Reader::default().at_most(1 << 20).from_bytes(name, damaged(&whole, seed));
        }
    }
}
