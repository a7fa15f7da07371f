//! What is wrong with a command is said at once: before anything is pulled, compressed, fitted, trained or
//! asked, and before anything is written.
//!
//! Each command here names a model that cannot be had as well: it would be pulled from a hub, and the place is
//! offline. What is said is the other mistake.

#[path = "harness/tiny.rs"]
mod tiny;

use tiny::{FAILURE, LATENTS, Place, USAGE, tiny_llama};

/// A place whose decoder `far`, and whose encoder `deep`, need a model that cannot be pulled.
fn place() -> Place {
    let place = Place::with_adapter();
    place.add_to_registry("[decoders.far]\nsource = \"hf:o/r@main#m.gguf\"\nadapter = \"adapter\"\n");
    place.file("text.txt", "a text of a few words");
    let encoder = std::fs::read_to_string(place.path("encoder/encoder.json")).expect("the encoder");
    let encoder = encoder.replace("\"decoder\": \"tiny\"", "\"decoder\": \"far\"");
    place.file("deep/encoder.json", encoder.replace("\"name\": \"start\"", "\"name\": \"deep\""));
    place.add_to_registry("[encoders.deep]\npackage = \"deep\"\n");
    place.file("rows.jsonl", "{\"document\": \"a\", \"question\": \"b\", \"answers\": [\"c\"]}\n");
    place.file(
        "t.toml",
        "schema = 1\nname = \"t\"\ndescription = \"d\"\ndata = \"rows.jsonl\"\n[generate]\n\
         prompt = \"{{ document }} {{ question }}:\"\nclosed_book = \"{{ question }}:\"\nmax_tokens = 4\n\
         metrics = [\"f1\"]\n",
    );
    place
}

/// What a command says, which is not that something cannot be pulled; and nothing was written.
#[track_caller]
fn says(place: &Place, code: i32, arguments: &[&str], parts: &[&str]) {
    let before = place.listing();
    let refusal = place.fails(code, arguments);
    assert!(!refusal.message.contains("pull"), "{arguments:?}: {}", refusal.message);
    refusal.says(parts);
    let left: Vec<_> = place.listing().into_iter().filter(|name| !before.contains(name)).collect();
    // The cache remembers checksums, and the lock of a registry is a file.
    let is_known = |name: &String| name == "cache" || name.ends_with(".lock");
    assert!(left.iter().all(is_known), "{arguments:?} has left {left:?}");
}

#[test]
fn the_model_alone_would_be_the_mistake() {
    let place = place();
    place.fails(FAILURE, &["generate", "--decoder", "far", "--prompt", "x"]).says(&["pull", "ARC_OFFLINE"]);
    place.fails(FAILURE, &["compress", "text.txt", "--encoder", "deep", "-o", LATENTS]).says(&["pull"]);
}

#[test]
fn asking() {
    let place = place();
    let far = ["ask", "--decoder", "far", "--document", "text.txt", "why"];
    for (more, code, parts) in [
        (&["--stop", ""] as &[&str], USAGE, &["stop", "empty"] as &[&str]),
        (&["--encoder", "strat"], FAILURE, &["no encoder is called `strat`", "`start`"]),
        (&["--document", "none.txt"], FAILURE, &["none.txt"]),
        (&["--document", "adapter"], FAILURE, &["there is no document in `adapter`"]),
        (&["--document", LATENTS], FAILURE, &[LATENTS]),
        (&["--decoder", "none"], FAILURE, &["no decoder is called `none`"]),
        (&["--temperature", "-1"], USAGE, &["temperature"]),
        (&["--shots", "none.jsonl", "--form", "few-shot"], FAILURE, &["none.jsonl"]),
    ] {
        says(&place, code, &[&far as &[&str], more].concat(), parts);
    }
    // An adapter that is not there, of the decoder that is asked last.
    place.add_to_registry("[decoders.bare]\nsource = \"file:tiny.gguf\"\n");
    let two = ["ask", "--decoder", "far,bare", "--document", "text.txt", "why"];
    says(&place, FAILURE, &two, &["decoder `bare` has no adapter"]);
    // A plugin that may not run.
    place.file("plugin.so", "no library");
    let sha256 = arc_adapters::sha256_hex(b"no library");
    place.add_to_registry(&format!(
        "[decoders.code]\nsource = \"file:tiny.gguf\"\nplugin = {{ path = \"plugin.so\", sha256 = \"{sha256}\" }}\n"
    ));
    let two = ["ask", "--decoder", "far,code", "--document", "text.txt", "why"];
    says(&place, FAILURE, &two, &["code plugins are not allowed"]);
    let eval = ["eval", "--decoder", "far,code", "--task", "t.toml"];
    says(&place, FAILURE, &eval, &["code plugins are not allowed"]);
    // More new tokens than any prompt leaves, where the model is here and the encoder is not.
    let many = [
        "ask",
        "--decoder",
        "tiny",
        "--encoder",
        "deep",
        "--document",
        "text.txt",
        "--max-tokens",
        "256",
        "why",
    ];
    says(&place, FAILURE, &many, &["256 new tokens", "window of 256"]);
}

#[test]
fn generating_compressing_and_pulling() {
    let place = place();
    let generate = ["generate", "--decoder", "far", "--prompt", "x"];
    says(&place, USAGE, &[&generate as &[&str], &["--stop", ""]].concat(), &["stop"]);
    says(&place, FAILURE, &["generate", "--decoder", "far", "--file", "none.txt"], &["none.txt"]);

    place.file("there.arc.safetensors", "mine");
    for (output, code, parts) in [
        ("there.arc.safetensors", USAGE, &["exists already"] as &[&str]),
        ("text.txt/x.arc.safetensors", USAGE, &["text.txt"]),
        ("x.safetensors", USAGE, &["does not end in"]),
    ] {
        let compress = ["compress", "text.txt", "--encoder", "deep", "-o", output];
        says(&place, code, &compress, parts);
    }
    says(&place, FAILURE, &["compress", "none.txt", "--encoder", "deep", "-o", LATENTS], &["none.txt"]);

    // The last name is wrong, and the first one is not pulled.
    says(&place, FAILURE, &["pull", "far", "deep", "nobody"], &["no decoder or encoder is called `nobody`"]);
}

#[test]
fn fitting_registering_and_making() {
    let place = place();
    let fit = ["fit", "--decoder", "far", "--text", "texts.jsonl"];
    for (more, code, parts) in [
        (&["-o", "text.txt"] as &[&str], USAGE, &["`text.txt` is a file"] as &[&str]),
        (&["-o", "text.txt/deeper"], USAGE, &["text.txt"]),
        (&["-o", "new", "--encoder", "strat"], FAILURE, &["no encoder is called `strat`"]),
        (&["-o", "new", "--text", "none.jsonl"], FAILURE, &["none.jsonl"]),
        (&["-o", "new", "--score-on", "none.txt"], FAILURE, &["none.txt"]),
        (&["-o", "new", "--template", "none.txt"], FAILURE, &["none.txt"]),
    ] {
        says(&place, code, &[&fit as &[&str], more].concat(), parts);
    }
    let register = ["register", "--decoder", "far", "--replace"];
    for (more, code, parts) in [
        (&["--text", "none"] as &[&str], FAILURE, &["corpus `none`"] as &[&str]),
        (&["--text", "adapter", "-o", "text.txt"], FAILURE, &["corpus `adapter`"]),
        (&["--text", "none", "--encoder", "strat"], FAILURE, &["no encoder is called `strat`"]),
        (&["--text", "none", "--rate", "0"], USAGE, &["rate"]),
        (&["--text", "none", "--reconstruction", "2"], USAGE, &["reconstruction"]),
    ] {
        says(&place, code, &[&register as &[&str], more].concat(), parts);
    }
    let outside = ["register", "--decoder", "../x", "--model", "hf:o/r@main#m.gguf", "--text", "none"];
    says(&place, USAGE, &outside, &["`../x` cannot be a name"]);

    says(&place, USAGE, &["adapters", "new", "x", "--decoder", "far", "-o", "text.txt/x"], &["text.txt"]);
    let prepare = ["data", "prepare", "--tokenizer", "far", "--source", "texts.jsonl"];
    for (more, code, parts) in [
        (&["--out", "text.txt"] as &[&str], USAGE, &["`text.txt` is a file"] as &[&str]),
        (&["--out", "new", "--source", "none.txt"], FAILURE, &["none.txt"]),
        (&["--out", "new", "--unseen", "none.txt"], FAILURE, &["none.txt"]),
        (&["--out", "new", "--held-out", "1"], USAGE, &["--held-out"]),
    ] {
        says(&place, code, &[&prepare as &[&str], more].concat(), parts);
    }
}

#[test]
fn evaluating() {
    let place = place();
    let eval = ["eval", "--decoder", "far", "--task", "t.toml"];
    for (more, code, parts) in [
        (&["--out", "text.txt"] as &[&str], USAGE, &["`text.txt` is a file"] as &[&str]),
        (&["--encoder", "strat"], FAILURE, &["no encoder is called `strat`"]),
        (&["--task", "none"], USAGE, &["`none`"]),
        (&["--data", "none"], USAGE, &["`none` is no folder of data"]),
    ] {
        says(&place, code, &[&eval as &[&str], more].concat(), parts);
    }
}

#[test]
fn training() {
    let place = place();
    let config = |more: &str| {
        format!(
            "seed = 1\n[encoder]\nname = \"e\"\nbackbone = \"far\"\nlayers = 1\npooling_factors = [2]\n\
             [[decoders]]\nname = \"far\"\nstart = \"scratch\"\n[data]\nsources = [{{ path = \"corpus\" }}]\n\
             context_tokens = 24\ntarget_tokens = 24\n[schedule]\nsteps = 4\nbatch = 2\n{more}"
        )
    };
    place.file("run.toml", config(""));
    for (from, to, code, parts) in [
        ("", "", FAILURE, &["corpus", "corpus`"] as &[&str]),
        ("name = \"e\"", "name = \"../e\"", USAGE, &["`encoder.name` is `../e`"]),
        ("name = \"far\"\nstart", "name = \"near\"\nstart", FAILURE, &["no decoder is called `near`"]),
        ("backbone = \"far\"", "backbone = \"near\"", FAILURE, &["no decoder is called `near`"]),
        ("start = \"scratch\"", "start = { package = \"none\" }", FAILURE, &["none"]),
        (
            "start = \"scratch\"",
            "start = \"scratch\"\ntemplate = \"{{ question }}\"",
            FAILURE,
            &["template", "`document`"],
        ),
    ] {
        place.file("run.toml", config("").replacen(from, to, 1));
        says(&place, code, &["train", "run.toml", "--out", "run"], parts);
    }
    place.file("run.toml", config(""));
    says(&place, USAGE, &["train", "run.toml", "--out", "text.txt"], &["`text.txt` is a file"]);
    says(&place, USAGE, &["train", "run.toml", "--out", "text.txt/run"], &["text.txt"]);
}

#[test]
fn the_usual_number_of_new_tokens_is_cut_to_what_fits() {
    let place = Place::with_adapter();
    // 256 positions in all: a prompt of 200 leaves 55, after the beginning token.
    let prompt = "x".repeat(200);
    let told = place.succeeds(&["generate", "--decoder", "tiny", "--prompt", &prompt, "--temperature", "1"]);
    let written = told["token_ids"].as_array().expect("a list").len();
    assert!((1..=55).contains(&written), "{written}");
    if written < 55 {
        assert_eq!(told["finish"], "end");
    }
    let asked = ["generate", "--decoder", "tiny", "--prompt", &prompt, "--max-tokens", "56"];
    place.fails(FAILURE, &asked).says(&["201 positions", "56 more", "window of 256"]);
    let full = "x".repeat(255);
    place
        .fails(FAILURE, &["generate", "--decoder", "tiny", "--prompt", &full])
        .says(&["256 positions", "1 more"]);

    place.file("text.txt", "y".repeat(180));
    for more in [&[] as &[&str], &["--open-book"]] {
        let ask = [&["ask", "--decoder", "tiny", "--document", "text.txt", "why"] as &[&str], more].concat();
        let told = place.succeeds(&ask);
        let taken = told["prompt_tokens"].as_u64().unwrap() + told["latents"].as_u64().unwrap();
        let written = told["token_ids"].as_array().expect("a list").len() as u64;
        assert!(taken + written <= 256 && taken > 180, "{taken} and {written}");
    }
    // The bench's too.
    let told = place.succeeds(&["bench", "--decoder", "tiny", "--rounds", "1"]);
    let sum = told["prompt_tokens"].as_u64().unwrap() + told["new_tokens"].as_u64().unwrap();
    assert!(sum <= 256 && sum > 200, "{told}");
}

#[test]
fn a_decoder_without_an_adapter_reads_plain_text() {
    let place = Place::with_encoder();
    place.file("text.txt", "a text of a few words");
    let ask =
        ["ask", "--decoder", "tiny", "--open-book", "--document", "text.txt", "--max-tokens", "4", "why"];
    let told = place.succeeds(&ask);
    // As much as the adapter's usual template takes: the document, and the words around it.
    let around = "\nQuestion: why\nAnswer:".len() + "a text of a few words".len() + 1;
    assert_eq!(told["prompt_tokens"], around);
    assert_eq!(told["latents"], 0);
    let refusal = place.fails(FAILURE, &["ask", "--decoder", "tiny", "--document", "text.txt", "why"]);
    refusal.says(&["has no adapter"]);
    // What the registry says goes before.
    place.decoder(
        &tiny_llama().to_bytes(),
        "options = { prompt_template = \"{{ document }}|{{ question }}\" }\n",
    );
    assert_eq!(place.succeeds(&ask)["prompt_tokens"], "a text of a few words|why".len() + 1);
    for form in ["few-shot", "llama2-chat"] {
        place.succeeds(&[&ask as &[&str], &["--form", form]].concat());
    }
}

#[test]
fn an_answer_of_one_line_ends_with_it() {
    let place = Place::with_adapter();
    place.file("text.txt", "a text of a few words");
    let ask =
        ["ask", "--decoder", "tiny", "--document", "text.txt", "--temperature", "3", "--max-tokens", "200"];
    let ask = |more: &[&str]| place.succeeds(&[&ask as &[&str], more, &["why"]].concat());
    let whole = ask(&["--answer-ends", "model"]);
    let whole = whole["text"].as_str().expect("a text");
    let line = whole.trim_start_matches(['\n', '\r', ' ']).split('\n').next().unwrap().trim_end();
    assert!(whole.trim().contains('\n'), "hot sampling writes line breaks: {whole:?}");
    // The adapter's own template ends in `Answer:`, and `arc fit` has written what that means.
    let manifest = std::fs::read_to_string(place.path("adapter/adapter.json")).expect("the adapter");
    assert!(manifest.contains("\"answer_ends\": \"line\""), "{manifest}");
    let told = ask(&[]);
    assert_eq!(told["text"].as_str().unwrap().trim(), line.trim());
    assert_eq!(told["finish"], "stop");

    // The registry goes before the adapter, and the command line before both.
    let registry = std::fs::read_to_string(place.path("registry.toml")).expect("the registry");
    let source = "source = \"file:tiny.gguf\"\n";
    let with = |options: &str| {
        place.file(
            "registry.toml",
            registry.replacen(source, &format!("{source}options = {{ {options} }}\n"), 1),
        );
    };
    with("answer_ends = \"model\"");
    assert_eq!(ask(&[])["text"], whole);
    assert_eq!(ask(&["--answer-ends", "line"])["text"], told["text"]);
}
