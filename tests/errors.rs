//! What users are told when they get it wrong: one line, a hint, an exit code, and nothing half-written.
//!
//! Every claim goes through the binary. Where a model is needed it is a llama of one tiny layer that the
//! test writes itself, so nothing is pulled, and what is wrong with a file is the only thing wrong with it.

#[path = "harness/tiny.rs"]
mod tiny;

use std::path::Path;
use std::process::{Command, Stdio};

use arc_adapters::sha256_hex;
use safetensors::tensor::{Dtype, TensorView, serialize};
use serde_json::json;
use tiny::notice::notice;
use tiny::{FAILURE, HIDDEN, LATENTS, Meta, Place, Refusal, USAGE, VOCABULARY, WIDTH, WINDOW, tiny_llama};

mod a_control {
    use super::*;

    #[test]
    fn the_tiny_model_generates_and_answers_where_nothing_is_wrong() {
        let place = Place::with_adapter();
        let text = place.file("text.txt", "a text of a few words");
        let generated =
            place.succeeds(&["generate", "--decoder", "tiny", "--prompt", "hello", "--max-tokens", "4"]);
        assert_eq!(generated["prompt_tokens"], 6, "the beginning token and five bytes");
        let question = ["ask", "--decoder", "tiny", "--document", &text, "--max-tokens", "4", "why"];
        assert_eq!(place.succeeds(&question)["latents"], 21 + 1, "one for each byte, and one that ends them");
    }
}

mod names {
    use super::*;

    #[test]
    fn an_unknown_decoder_is_answered_with_the_nearest_names() {
        let place = Place::with_model(&tiny_llama());
        let text = place.file("text.txt", "a text");
        for arguments in [
            &["generate", "--decoder", "tinny", "--prompt", "x"] as &[&str],
            &["ask", "--decoder", "tinny", "--document", &text, "why"],
            &["fit", "--decoder", "tinny", "--text", &text, "-o", "adapter"],
        ] {
            let refusal = place.fails(FAILURE, arguments);
            refusal.says(&["no decoder is called `tinny`", "`tiny`"]);
            refusal.hints(&["decoder"]);
        }
    }

    #[test]
    fn what_is_pulled_is_looked_for_among_decoders_and_encoders() {
        let place = Place::with_encoder();
        for (name, nearest) in [("tinny", "`tiny`"), ("strat", "`start`")] {
            let refusal = place.fails(FAILURE, &["pull", name]);
            refusal.says(&[&format!("no decoder or encoder is called `{name}`"), nearest]);
            refusal.hints(&["decoder or encoder"]);
        }
    }

    #[test]
    fn an_encoder_that_is_named_as_a_decoder_is_called_one() {
        let place = Place::with_encoder();
        let text = place.file("text.txt", "a text");
        for arguments in [
            &["ask", "--decoder", "start", "--document", &text, "why"] as &[&str],
            &["generate", "--decoder", "start", "--prompt", "x"],
            &["adapters", "inspect", "start"],
            &["adapters", "verify", "start"],
        ] {
            place.fails(FAILURE, arguments).says(&["no decoder is called `start`: that is an encoder"]);
        }
        let refusal = place.fails(FAILURE, &["compress", &text, "--encoder", "tiny", "-o", LATENTS]);
        refusal.says(&["no encoder is called `tiny`: that is a decoder"]);
    }

    #[test]
    fn an_unknown_encoder_is_answered_with_the_nearest_names() {
        let place = Place::with_encoder();
        let text = place.file("text.txt", "a text");
        let refusal = place.fails(FAILURE, &["compress", &text, "--encoder", "strat", "-o", LATENTS]);
        refusal.says(&["no encoder is called `strat`", "`start`"]);
        refusal.hints(&["encoder"]);
    }

    #[test]
    fn a_folder_without_a_registry_is_a_usage_error() {
        // Nothing is above the root, and the user's own registry is in a home that is empty here.
        if Path::new("/registry.toml").exists() {
            notice("left out: there is a registry in the root folder");
            return;
        }
        let place = Place::empty();
        let mut command = place.arc(&["models"]);
        let refusal = Refusal::of(command.current_dir("/").output(), USAGE);
        refusal.says(&["no `registry.toml`"]);
        refusal.hints(&["--registry"]);
    }

    #[test]
    fn a_registry_that_is_not_one_is_refused_with_its_line() {
        let place = Place::empty();
        for (text, says) in [
            ("schema = 1\n[decoders.x\n", "line 2"),
            ("schema = 1\n[decoders.x]\n", "source"),
            ("[decoders.x]\n", "`schema` is missing"),
            ("schema = 99\n", "schema 99"),
            ("schema = 1\n[decoders.x]\nsource = \"ftp:x\"\n", "ftp:x"),
        ] {
            place.file("registry.toml", text);
            place.fails(FAILURE, &["models"]).says(&["registry.toml", says]);
        }
        place.registry("");
        place.fails(FAILURE, &["models", "--registry", "none.toml"]).says(&["none.toml"]);
    }
}

mod model_files {
    use super::*;

    const GENERATE: [&str; 5] = ["generate", "--decoder", "tiny", "--prompt", "hello"];

    #[test]
    fn a_gguf_file_that_is_cut_off_anywhere_is_refused() {
        let whole = tiny_llama().to_bytes();
        let place = Place::empty();
        for kept in [0, 3, 4, 20, 100, 1000, whole.len() / 2, whole.len() - 1] {
            place.decoder(&whole[..kept], "");
            let refusal = place.fails(FAILURE, &GENERATE);
            refusal.says(&["tiny.gguf", "not a valid GGUF file"]);
            refusal.hints(&["cut off or corrupt"]);
        }
    }

    #[test]
    fn a_corrupt_gguf_file_is_refused_with_the_reason() {
        let whole = tiny_llama().to_bytes();
        let with = |at: usize, bytes: &[u8]| {
            let mut damaged = whole.clone();
            damaged[at..at + bytes.len()].copy_from_slice(bytes);
            damaged
        };
        let place = Place::empty();
        for (model, says) in [
            (with(0, b"FUGG"), "not with `GGUF`"),
            (with(4, &7_u32.to_le_bytes()), "version 7"),
            (with(4, &3_u32.to_be_bytes()), "big-endian"),
            (with(8, &u64::MAX.to_le_bytes()), "the count of tensors"),
            (with(16, &u64::MAX.to_le_bytes()), "the count of metadata entries"),
            (with(24, &u64::MAX.to_le_bytes()), "the key of metadata entry 0"),
            (b"a text that was given the wrong name".to_vec(), "not with `GGUF`"),
        ] {
            place.decoder(&model, "");
            let refusal = place.fails(FAILURE, &GENERATE);
            refusal.says(&["not a valid GGUF file", says]);
            refusal.hints(&["cut off or corrupt"]);
        }
    }

    #[test]
    fn a_file_of_another_format_is_called_by_its_name() {
        let place = Place::empty();
        let mut archive = tiny_llama().to_bytes();
        archive[..4].copy_from_slice(b"PK\x03\x04");
        place.decoder(&archive, "");
        place.fails(FAILURE, &GENERATE).says(&["tiny.gguf", "zip archive", "PyTorch", "not supported"]);
    }

    #[test]
    fn an_unsupported_architecture_is_named_beside_those_that_are_supported() {
        let mut model = tiny_llama();
        model.set("general.architecture", Meta::Text("mamba".into()));
        let refusal = Place::with_model(&model).fails(FAILURE, &GENERATE);
        refusal.says(&["`mamba`", "not supported"]);
        refusal.hints(&["llama", "qwen2", "qwen3", "smollm3", "gemma3", "olmo"]);
    }

    #[test]
    fn an_unsupported_quantisation_is_named_with_its_tensor() {
        for (kind, name) in [(10, "Q2_K"), (20, "IQ4_NL"), (77, "ggml type 77")] {
            let mut model = tiny_llama();
            model.tensor("blk.0.ffn_up.weight").kind = kind;
            let refusal = Place::with_model(&model).fails(FAILURE, &GENERATE);
            refusal.says(&["`blk.0.ffn_up.weight`", name, "not supported"]);
            refusal.hints(&["Q4_K", "Q8_0"]);
        }
    }

    #[test]
    fn a_missing_tensor_is_named() {
        for tensor in ["token_embd.weight", "blk.0.attn_q.weight", "output_norm.weight"] {
            let mut model = tiny_llama();
            model.tensors.retain(|other| other.name != tensor);
            let refusal = Place::with_model(&model).fails(FAILURE, &GENERATE);
            refusal.says(&["has no tensor", &format!("`{tensor}`")]);
            refusal.hints(&["another model"]);
        }
    }

    #[test]
    fn a_tensor_of_another_shape_is_named_with_both_shapes() {
        let mut model = tiny_llama();
        model.tensor("blk.0.ffn_down.weight").shape = vec![HIDDEN, WIDTH];
        let refusal = Place::with_model(&model).fails(FAILURE, &GENERATE);
        refusal.says(&["`blk.0.ffn_down.weight`", "[16, 8]", "[8, 16]"]);
        refusal.hints(&["another model"]);

        let mut model = tiny_llama();
        model.tensor("token_embd.weight").shape = vec![VOCABULARY * WIDTH];
        Place::with_model(&model).fails(FAILURE, &GENERATE).says(&["`token_embd.weight`", "shape"]);
    }

    #[test]
    fn senseless_settings_of_a_model_are_refused_by_name() {
        for (key, value, says) in [
            ("llama.block_count", None, "`llama.block_count` is missing"),
            ("llama.attention.head_count", Some(Meta::U32(0)), "heads"),
            ("llama.attention.head_count_kv", Some(Meta::U32(3)), "3 key heads"),
            ("llama.embedding_length", Some(Meta::Text("wide".into())), "`llama.embedding_length`"),
            ("tokenizer.ggml.tokens", None, "`tokenizer.ggml.tokens` is missing"),
            ("tokenizer.ggml.model", Some(Meta::Text("rwkv".into())), "`rwkv` is not supported"),
            ("tokenizer.ggml.scores", Some(Meta::Floats(vec![0.0])), "1 values"),
        ] {
            let mut model = tiny_llama();
            match value {
                Some(value) => model.set(key, value),
                None => model.metadata.retain(|(other, _)| *other != key),
            }
            Place::with_model(&model).fails(FAILURE, &GENERATE).says(&["tiny.gguf", says]);
        }
    }

    #[test]
    fn an_id_that_no_token_has_is_none() {
        for id in [5000, u32::MAX] {
            let mut model = tiny_llama();
            model.set("tokenizer.ggml.padding_token_id", Meta::U32(id));
            model.set("tokenizer.ggml.bos_token_id", Meta::U32(id));
            Place::with_model(&model).succeeds(&GENERATE);
        }
    }

    #[test]
    fn weights_that_are_no_numbers_are_a_failure_and_no_usage_error() {
        let mut model = tiny_llama().to_bytes();
        // The last tensor is the last thing in the file.
        let last = model.len() - 4 * WIDTH * HIDDEN;
        model[last..last + 4].copy_from_slice(&f32::NAN.to_le_bytes());
        let place = Place::empty();
        place.decoder(&model, "");
        let refusal = place.fails(FAILURE, &GENERATE);
        refusal.says(&["logit", "NaN"]);
        refusal.hints(&["damaged", "arc pull"]);
    }

    #[test]
    fn a_vocabulary_larger_than_the_embedding_table_does_no_harm() {
        let mut model = tiny_llama();
        // The tokens of `hello` are beyond the rows that are left.
        model.tensor("token_embd.weight").shape = vec![16, WIDTH];
        Place::with_model(&model).fails(FAILURE, &GENERATE).says(&["tiny.gguf", "16"]);
    }

    #[test]
    fn a_hugging_face_folder_with_a_damaged_checkpoint_is_refused() {
        let place = Place::empty();
        place.registry("[decoders.tiny]\nsource = \"file:folder\"\n");
        let config = json!({
            "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": HIDDEN, "num_hidden_layers": 1,
            "num_attention_heads": 2, "max_position_embeddings": WINDOW,
        });
        place.file("folder/config.json", config.to_string());
        place.fails(FAILURE, &GENERATE).says(&["folder"]);

        let values = [0; 4 * WIDTH * 2];
        let table = TensorView::new(Dtype::F32, vec![2, WIDTH], &values).expect("a tensor");
        let whole = serialize([("model.embed_tokens.weight", table)], None).expect("a checkpoint");
        for kept in [4, 40, whole.len() - 1] {
            place.file("folder/model.safetensors", &whole[..kept]);
            let refusal = place.fails(FAILURE, &GENERATE);
            refusal.says(&["model.safetensors", "not a valid safetensors file"]);
            refusal.hints(&["cut off or corrupt"]);
        }
        place.file("folder/model.safetensors", &whole);
        place.fails(FAILURE, &GENERATE).says(&["has no tensor `model.layers.0."]);

        place.file("folder/config.json", "{");
        place.fails(FAILURE, &GENERATE).says(&["config.json"]);
    }

    /// Writes a llama like the tiny one as a folder of Hugging Face's, with one tensor as `change` has it.
    fn hugging_face(place: &Place, model_type: &str, change: (&str, Dtype, &[usize])) {
        place.registry("[decoders.tiny]\nsource = \"file:folder\"\n");
        let config = json!({
            "model_type": model_type, "hidden_size": WIDTH, "intermediate_size": HIDDEN,
            "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
            "rms_norm_eps": 1e-5, "vocab_size": VOCABULARY, "max_position_embeddings": WINDOW,
            "tie_word_embeddings": true,
        });
        place.file("folder/config.json", config.to_string());
        let layer = [
            ("input_layernorm", vec![WIDTH]),
            ("self_attn.q_proj", vec![WIDTH, WIDTH]),
            ("self_attn.k_proj", vec![WIDTH / 2, WIDTH]),
            ("self_attn.v_proj", vec![WIDTH / 2, WIDTH]),
            ("self_attn.o_proj", vec![WIDTH, WIDTH]),
            ("post_attention_layernorm", vec![WIDTH]),
            ("mlp.gate_proj", vec![HIDDEN, WIDTH]),
            ("mlp.up_proj", vec![HIDDEN, WIDTH]),
            ("mlp.down_proj", vec![WIDTH, HIDDEN]),
        ]
        .map(|(part, shape)| (format!("model.layers.0.{part}.weight"), shape));
        let outside = [("embed_tokens", vec![VOCABULARY, WIDTH]), ("norm", vec![WIDTH])]
            .map(|(part, shape)| (format!("model.{part}.weight"), shape));
        let zeros = vec![0; 8 * VOCABULARY * WIDTH];
        let views: Vec<_> = outside
            .into_iter()
            .chain(layer)
            .map(|(name, shape)| {
                let (dtype, shape) =
                    if name == change.0 { (change.1, change.2.to_vec()) } else { (Dtype::F32, shape) };
                let bytes = shape.iter().product::<usize>() * dtype.bitsize() / 8;
                (name, TensorView::new(dtype, shape, &zeros[..bytes]).expect("a tensor"))
            })
            .collect();
        place.file("folder/model.safetensors", serialize(views, None).expect("a checkpoint"));
    }

    #[test]
    fn a_hugging_face_tensor_of_another_shape_is_named_with_both_shapes() {
        let place = Place::empty();
        let down = "model.layers.0.mlp.down_proj.weight";
        hugging_face(&place, "llama", (down, Dtype::F32, &[HIDDEN, WIDTH]));
        let refusal = place.fails(FAILURE, &GENERATE);
        refusal.says(&["model.safetensors", &format!("`{down}`"), "[16, 8]", "[8, 16]"]);
        refusal.hints(&["another model"]);
    }

    #[test]
    fn a_number_format_of_safetensors_that_is_not_read_is_named_with_its_tensor() {
        let place = Place::empty();
        let gate = "model.layers.0.mlp.gate_proj.weight";
        for (dtype, name) in [(Dtype::F64, "F64"), (Dtype::I8, "I8"), (Dtype::F8_E4M3, "F8_E4M3")] {
            hugging_face(&place, "llama", (gate, dtype, &[HIDDEN, WIDTH]));
            let refusal = place.fails(FAILURE, &GENERATE);
            refusal.says(&["model.safetensors", &format!("`{gate}`"), name, "not supported"]);
            refusal.hints(&["F32", "BF16"]);
        }
    }

    #[test]
    fn a_model_type_that_no_decoder_has_is_named_beside_those_that_are_supported() {
        let place = Place::empty();
        hugging_face(&place, "mamba", ("none", Dtype::F32, &[]));
        let refusal = place.fails(FAILURE, &GENERATE);
        refusal.says(&["`mamba`", "not supported"]);
        refusal.hints(&["llama", "qwen2", "qwen3", "smollm3", "gemma3", "olmo"]);
    }

    #[test]
    fn a_corrupt_safetensors_file_is_refused_with_the_reason() {
        let place = Place::empty();
        hugging_face(&place, "llama", ("none", Dtype::F32, &[]));
        let file = "folder/model.safetensors";
        let whole = std::fs::read(place.path(file)).expect("the checkpoint");
        let with = |at: usize, bytes: &[u8]| {
            let mut damaged = whole.clone();
            damaged[at..at + bytes.len()].copy_from_slice(bytes);
            damaged
        };
        // The length of the header, then the header: JSON.
        for damaged in [
            with(0, &u64::MAX.to_le_bytes()),
            with(0, &1_u64.to_le_bytes()),
            with(8, b"not JSON"),
            with(10, b"\xff\xfe"),
            [whole.as_slice(), b"more than the header says"].concat(),
            b"a text that was given the wrong name".to_vec(),
        ] {
            place.file(file, damaged);
            let refusal = place.fails(FAILURE, &GENERATE);
            refusal.says(&["model.safetensors", "not a valid safetensors file"]);
            refusal.hints(&["cut off or corrupt"]);
        }
    }

    #[test]
    fn a_damaged_adapter_is_refused() {
        let place = Place::with_adapter();
        let text = place.file("text.txt", "a text");
        let ask = ["ask", "--decoder", "tiny", "--document", &text, "why"];
        let weights = place.path("adapter/adapter.safetensors");
        let whole = std::fs::read(&weights).expect("the adapter's weights");
        std::fs::write(&weights, &whole[..whole.len() - 1]).expect("a cut copy");
        place.fails(FAILURE, &ask).says(&["adapter.safetensors"]);
        std::fs::remove_file(&weights).expect("the adapter's weights");
        place.fails(FAILURE, &ask).says(&["adapter.safetensors"]);
        place.file("adapter/adapter.json", "{");
        place.fails(FAILURE, &ask).says(&["adapter.json"]);
    }

    #[test]
    fn a_decoder_without_an_adapter_cannot_be_asked_and_is_told_how_to_get_one() {
        let place = Place::with_encoder();
        let text = place.file("text.txt", "a text");
        let refusal = place.fails(FAILURE, &["ask", "--decoder", "tiny", "--document", &text, "why"]);
        refusal.says(&["`tiny`", "adapter"]);
        refusal.hints(&["arc fit --decoder tiny"]);
    }

    #[test]
    fn an_adapter_of_another_decoder_is_refused() {
        let place = Place::with_adapter();
        let text = place.file("text.txt", "a text");
        let mut other = tiny_llama();
        other.seed += 1;
        place.file("other.gguf", other.to_bytes());
        place.add_to_registry("[decoders.other]\nsource = \"file:other.gguf\"\nadapter = \"adapter\"\n");
        let refusal = place.fails(FAILURE, &["ask", "--decoder", "other", "--document", &text, "why"]);
        refusal.says(&["adapter `tiny`", "embedding table"]);
        refusal.hints(&["the adapter was made for"]);
    }
}

mod documents {
    use super::*;

    #[test]
    fn what_is_no_text_is_refused_before_anything_is_loaded() {
        // The model is no model at all: nobody looks.
        let place = Place::empty();
        place.decoder(b"", "adapter = \"adapter\"\n");
        std::fs::create_dir(place.path("folder")).expect("a folder");
        place.file("empty.txt", "");
        place.file("blank.txt", " \n\t\n");
        place.file("binary.pdf", b"%PDF-1.7\n\0\0\x01");
        place.file("latin1.txt", b"caf\xe9 noir");
        place.file("utf16.txt", b"\xff\xfea\0b\0");
        for (document, says, hint) in [
            ("empty.txt", "is empty", "text"),
            ("blank.txt", "is empty", "text"),
            ("binary.pdf", "is a PDF file", "extract"),
            ("latin1.txt", "is not UTF-8: byte 3", "convert"),
            ("utf16.txt", "is UTF-16", "convert"),
            ("folder", "is a folder", "files"),
            ("none.txt", "cannot read", "no such file"),
        ] {
            let of_documents = [
                &["compress", document, "-o", LATENTS] as &[&str],
                &["ask", "--decoder", "tiny", "--document", document, "why"],
            ];
            for arguments in of_documents {
                let refusal = place.fails(FAILURE, arguments);
                // A folder is the documents in it, and there are none.
                let says = if document == "folder" { "there is no document in" } else { says };
                refusal.says(&[document, says]);
                refusal.hints(&[hint]);
            }
            for arguments in [
                &["generate", "--decoder", "tiny", "--file", document] as &[&str],
                &["fit", "--decoder", "tiny", "--text", document, "-o", "out"],
            ] {
                let refusal = place.fails(FAILURE, arguments);
                refusal.says(&[document, says]);
                refusal.hints(&[hint]);
            }
            assert!(!place.path(LATENTS).exists(), "{document} left a latents file");
            assert!(!place.path("out").exists(), "{document} left an adapter");
        }
    }

    #[test]
    fn empty_standard_input_is_an_empty_document() {
        let place = Place::with_model(&tiny_llama());
        let refusal = place.fails(FAILURE, &["generate", "--decoder", "tiny", "--file", "-"]);
        refusal.says(&["standard input", "is empty"]);
    }

    #[test]
    fn a_document_longer_than_the_window_is_refused_with_the_numbers() {
        let place = Place::with_adapter();
        let text = place.file("long.txt", "long ".repeat(80));
        let ask = ["ask", "--decoder", "tiny", "--document", &text, "--max-tokens", "4"];
        // Chunks are chosen by a question, and as plain text nothing is.
        let refusal = place.fails(FAILURE, &[&ask[..], &["--open-book", "why"]].concat());
        refusal.says(&["window of 256", "4 more"]);
        let refusal = place.fails(FAILURE, &[&ask[..], &["--form", "continuation"]].concat());
        refusal.says(&["window of 256", "4 more"]);
        refusal.hints(&["larger pooling factor"]);
        // The hint helps.
        let question =
            ["ask", "--decoder", "tiny", "--document", &text, "--factor", "4", "--max-tokens", "4", "why"];
        assert_eq!(place.succeeds(&question)["latents"], 100 + 1, "the last one ends the document");

        let prompt = "x".repeat(WINDOW as usize);
        let refusal = place.fails(FAILURE, &["generate", "--decoder", "tiny", "--prompt", &prompt]);
        refusal.says(&["window of 256"]);
        refusal.hints(&["fewer new tokens"]);
    }
}

mod latents_files {
    use super::*;

    fn ask(document: &str) -> [&str; 6] {
        ["ask", "--decoder", "tiny", "--document", document, "why"]
    }

    #[test]
    fn a_damaged_latents_file_is_refused() {
        let place = Place::with_adapter();
        let text = place.file("text.txt", "a text");
        place.succeeds(&["compress", &text, "-o", LATENTS]);
        place.succeeds(&ask(LATENTS));

        let whole = std::fs::read(place.path(LATENTS)).expect("the latents");
        for damaged in [b"" as &[u8], b"a text with the wrong name", &whole[..whole.len() - 1]] {
            place.file(LATENTS, damaged);
            place.fails(FAILURE, &ask(LATENTS)).says(&[LATENTS, "is not a valid"]);
        }
    }

    #[test]
    fn what_a_latents_file_says_of_itself_is_checked() {
        let place = Place::with_adapter();
        let right = place.latents_metadata();
        place.latents([2, WIDTH], 0.5, &right);
        place.succeeds(&ask(LATENTS));

        for (field, value, says) in [
            ("schema", "2", "schema is `2`"),
            ("factor", "many", "`many`"),
            ("source_tokens", "-1", "`-1`"),
            ("chunk_lengths", "[1]", "chunk lengths"),
            ("chunk_lengths", "[18446744073709551615, 3]", "chunk lengths"),
            ("chunk_lengths", "2", "`chunk_lengths`"),
            ("chunk_lengths", "[2, 0]", "its chunk 1 has no latents"),
            ("factor", "0", "`factor` is 0"),
            ("source_tokens", "18446744073709551615", "a latent stands for 1 at most"),
            ("source_tokens", "0", "a chunk has a token at least"),
            ("text_sha256", "none", "`text_sha256` is `none`"),
            ("encoder_id", " ", "`encoder_id` is empty"),
        ] {
            let mut wrong = right.clone();
            wrong[field] = value.into();
            place.latents([2, WIDTH], 0.5, &wrong);
            place.fails(FAILURE, &ask(LATENTS)).says(&[LATENTS, says]);
            wrong.as_object_mut().expect("an object").remove(field);
            place.latents([2, WIDTH], 0.5, &wrong);
            place.fails(FAILURE, &ask(LATENTS)).says(&[LATENTS, &format!("no `{field}`")]);
        }
        place.latents([2, WIDTH], f32::NAN, &right);
        place.fails(FAILURE, &ask(LATENTS)).says(&[LATENTS, "not finite"]);
        let mut none = right.clone();
        none["chunk_lengths"] = "[]".into();
        place.latents([0, WIDTH], 0.0, &none);
        let refusal = place.fails(FAILURE, &ask(LATENTS));
        refusal.says(&[LATENTS, "holds nothing"]);
        refusal.hints(&["arc compress"]);
    }

    #[test]
    fn latents_of_another_width_are_refused() {
        let place = Place::with_adapter();
        place.latents([2, WIDTH + 1], 0.5, &place.latents_metadata());
        place.fails(FAILURE, &ask(LATENTS)).says(&["width", "8", "9"]);
    }

    #[test]
    fn latents_of_another_encoder_are_refused() {
        let place = Place::with_adapter();
        let other = place.encoder("other", 32);
        let text = place.file("text.txt", "a text");
        place.succeeds(&["compress", &text, "--encoder", "other", "-o", LATENTS]);
        let refusal = place.fails(FAILURE, &ask(LATENTS));
        refusal.says(&["encoder", &other, &place.encoder_id()]);
        refusal.hints(&["the adapter was made for"]);
    }

    #[test]
    fn latents_keep_their_rate() {
        let place = Place::with_model(&tiny_llama());
        place.file(LATENTS, "");
        let refusal =
            place.fails(USAGE, &["ask", "--decoder", "tiny", "--factor", "4", "--document", LATENTS, "why"]);
        refusal.says(&[LATENTS, "compressed already", "`--factor`"]);
        refusal.hints(&["leave out `--factor`"]);
    }

    #[test]
    fn latents_are_no_open_book() {
        let place = Place::with_model(&tiny_llama());
        place.file(LATENTS, "");
        let refusal =
            place.fails(USAGE, &["ask", "--decoder", "tiny", "--open-book", "--document", LATENTS, "why"]);
        refusal.says(&["latents"]);
        refusal.hints(&["--open-book"]);
    }
}

mod pulls {
    use super::*;

    #[test]
    fn a_checksum_that_does_not_match_is_refused_with_both() {
        let model = tiny_llama().to_bytes();
        let pinned = sha256_hex(b"another file");
        let place = Place::empty();
        place.decoder(&model, &format!("sha256 = \"{pinned}\"\n"));
        for arguments in
            [&["pull", "tiny"] as &[&str], &["generate", "--decoder", "tiny", "--prompt", "hello"]]
        {
            let refusal = place.fails(FAILURE, arguments);
            refusal.says(&["tiny.gguf", &pinned, &sha256_hex(&model)]);
            refusal.hints(&["pull again"]);
        }
    }

    #[test]
    fn nothing_is_pulled_offline() {
        let place = Place::empty();
        place.registry(PIP_DECODER);
        let refusal = place.fails(FAILURE, &["pull", "far"]);
        refusal.says(&["cannot pull `far`", "`ARC_OFFLINE` is set"]);
        refusal.hints(&["unset `ARC_OFFLINE`"]);
    }

    #[test]
    fn a_file_source_that_is_not_there_is_named() {
        let place = Place::empty();
        place.registry("[decoders.tiny]\nsource = \"file:gone.gguf\"\n");
        place.fails(FAILURE, &["pull", "tiny"]).says(&["cannot open", "gone.gguf"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_pip_that_fails_is_reported_in_its_own_words() {
        let place = Place::empty();
        place.registry(PIP_DECODER);
        let pull = |script: &str| {
            let pip = place.program("pip.sh", script);
            let mut command = place.arc(&["pull", "far"]);
            command.env_remove("ARC_OFFLINE").env("ARC_PIP", pip);
            let refusal = Refusal::of(command.output(), FAILURE);
            refusal.says(&["cannot pull", "pip:far-away==1.0"]);
            assert!(place.cached("far").is_null(), "a model was left behind");
            refusal
        };
        pull("exit 1").says(&["without a word"]);
        let unknown = pull("echo 'ERROR: No matching distribution found for far-away==1.0' >&2; exit 1");
        unknown.says(&["No matching distribution"]);
        unknown.hints(&["index"]);
        pull("exit 0").says(&["left no wheel"]);

        let mut command = place.arc(&["pull", "far"]);
        command.env_remove("ARC_OFFLINE").env("ARC_PIP", place.path("no-such-program"));
        let refusal = Refusal::of(command.output(), FAILURE);
        refusal.says(&["cannot be run"]);
        refusal.hints(&["`ARC_PIP`"]);
    }

    #[cfg(unix)]
    #[test]
    fn a_pip_whose_pipe_breaks_is_a_failure_like_any_other() {
        let place = Place::empty();
        place.registry(PIP_DECODER);
        let pip = place.program("pip.sh", "echo 'BrokenPipeError: [Errno 32] Broken pipe' >&2; exit 1");
        let mut command = place.arc(&["pull", "far"]);
        command.env_remove("ARC_OFFLINE").env("ARC_PIP", pip);
        Refusal::of(command.output(), FAILURE).says(&["cannot pull", "Broken pipe"]);
    }

    #[test]
    fn a_connection_that_is_cut_leaves_no_model() {
        let endpoint = hub(1000, b"0123456789".to_vec());
        let place = Place::empty();
        place.registry(HUB_DECODER);
        let mut command = place.arc(&["pull", "far"]);
        command.env_remove("ARC_OFFLINE").env("HF_ENDPOINT", endpoint);
        let refusal = Refusal::of(command.output(), FAILURE);
        refusal.says(&["cannot pull", "hf:ORG/REPO@main#model.gguf"]);
        refusal.hints(&["check the network"]);
        assert!(place.cached("far").is_null(), "a model was left behind");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_during_a_pull_leaves_nothing_behind() {
        let place = Place::empty();
        let download =
            "while [ \"$1\" != --dest ]; do shift; done\nhead -c 200000 /dev/zero > \"$2/far.whl\"";
        let pip = place.program("pip.sh", download);
        let small = place.path("small");
        for source in [PIP_DECODER, HUB_DECODER] {
            place.registry(source);
            let mut command = place.arc(&["pull", "far"]);
            command.env_remove("ARC_OFFLINE").env("ARC_PIP", &pip).env("ARC_HOME", &small);
            command.env("HF_ENDPOINT", hub(200_000, vec![0; 200_000]));
            for refusal in where_there_is_no_room(&small, &command) {
                refusal.says(&["cannot write"]);
                refusal.hints(&["free some space", "`ARC_HOME`"]);
            }
        }
    }

    /// A hub that promises so many bytes for every file and gives these. Ends with the test.
    fn hub(promised: usize, given: Vec<u8>) -> String {
        use std::io::{BufRead as _, BufReader, Write as _};

        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let endpoint = format!("http://{}", listener.local_addr().expect("an address"));
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let head = BufReader::new(&stream).lines().map_while(Result::ok);
                head.take_while(|line| !line.is_empty()).for_each(drop);
                let _ = write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {promised}\r\n\r\n");
                let _ = stream.write_all(&given);
            }
        });
        endpoint
    }

    const HUB_DECODER: &str = "[decoders.far]\nsource = \"hf:ORG/REPO@main#model.gguf\"\n";

    const PIP_DECODER: &str = "[decoders.far]\nsource = \"pip:far-away==1.0#far/model.gguf\"\n";
}

mod devices {
    use super::*;

    const GENERATE: [&str; 5] = ["generate", "--decoder", "tiny", "--prompt", "hello"];

    #[test]
    fn an_unknown_device_is_a_usage_error_that_lists_the_names() {
        let place = Place::with_model(&tiny_llama());
        for name in ["gpu", "cuda:x", "CPU", ""] {
            let refusal = place.fails(USAGE, &[&GENERATE as &[&str], &["--device", name]].concat());
            refusal.says(&["--device"]);
            refusal.hints(&["`cpu`", "`cuda:1`", "`vulkan`", "`auto`"]);
        }
        let mut command = place.arc(&GENERATE);
        Refusal::of(command.env("ARC_DEVICE", "gpu").output(), USAGE).says(&["`gpu`"]);
    }

    #[test]
    fn a_device_that_is_not_in_this_build_is_named_with_the_feature_to_build() {
        let place = Place::with_model(&tiny_llama());
        let all = place.succeeds(&["devices"]);
        let kinds = all["devices"].as_array().expect("a list of devices");
        let Some(missing) = kinds.iter().find(|kind| kind["built"] == false) else {
            notice("left out: this build has every backend");
            return;
        };
        let name = missing["kind"].as_str().expect("a name");
        let refusal = place.fails(FAILURE, &[&GENERATE as &[&str], &["--device", name]].concat());
        refusal.says(&[&format!("`{name}`"), "this build has no"]);
        refusal.hints(&[&format!("--features {name}"), "--device cpu"]);
    }

    #[test]
    fn the_devices_are_listed_by_the_names_that_are_taken() {
        let place = Place::with_model(&tiny_llama());
        let listed = place.succeeds(&["devices"]);
        assert!(listed["processor"]["threads"].as_u64().is_some_and(|threads| threads > 0), "{listed}");
        let instructions = listed["processor"]["instructions"].as_str().expect("a name");
        assert!(["AVX-512", "AVX2", "NEON", "none"].contains(&instructions), "{instructions}");
        let kinds = listed["devices"].as_array().expect("a list of kinds");
        let found: Vec<_> = kinds.iter().flat_map(|kind| kind["found"].as_array().expect("a list")).collect();
        assert!(found.iter().all(|device| device["hardware"].as_str().is_some_and(|name| !name.is_empty())));
        let auto = found.iter().find(|device| device["name"] == listed["auto"]).expect("one of the devices");
        assert_eq!(auto["software"], false);
        // Both are names that other commands take.
        for name in ["auto", listed["auto"].as_str().expect("a name")] {
            place.succeeds(&[&GENERATE as &[&str], &["--max-tokens", "1", "--device", name]].concat());
        }

        let text = place.arc(&["devices"]).output().expect("the binary runs");
        let text = String::from_utf8(text.stdout).expect("UTF-8");
        assert!(text.contains(instructions) && text.contains("`--device auto` takes"), "{text}");
        for kind in kinds {
            assert!(text.contains(kind["kind"].as_str().expect("a name")), "{text}");
        }
    }

    #[test]
    fn a_device_that_the_machine_lacks_is_named_with_those_it_has() {
        let place = Place::with_model(&tiny_llama());
        let refusal = place.fails(FAILURE, &[&GENERATE as &[&str], &["--device", "cpu:1"]].concat());
        refusal.says(&["`cpu:1`", "one cpu device, number 0"]);
        refusal.hints(&["arc devices"]);
    }
}

mod usage {
    use super::*;

    #[test]
    fn senseless_values_are_usage_errors_that_name_the_option() {
        let place = Place::with_model(&tiny_llama());
        for (option, value) in [
            ("--temperature", "-1"),
            ("--temperature", "nan"),
            ("--temperature", "warm"),
            ("--top-p", "1.5"),
            ("--top-p", "-0.5"),
            ("--min-p", "2"),
            ("--repetition-penalty", "0"),
            ("--max-tokens", "-3"),
            ("--seed", "dice"),
        ] {
            let arguments = ["generate", "--decoder", "tiny", "--prompt", "hello", option, value];
            let refusal = place.fails(USAGE, &arguments);
            let name = option.trim_start_matches("--");
            let named = [name, &name.replace('-', " ")].iter().any(|name| refusal.message.contains(name));
            assert!(named, "{option} {value}: {}", refusal.message);
            assert!(!refusal.message.contains("unexpected"), "{option} {value}: {}", refusal.message);
        }
        let text = place.file("text.txt", "a text");
        for factor in ["0", "-4", "5000", "half"] {
            let refusal = place.fails(USAGE, &["compress", &text, "-o", LATENTS, "--factor", factor]);
            refusal.says(&["--factor"]);
        }
    }

    #[test]
    fn missing_arguments_are_usage_errors() {
        let place = Place::with_model(&tiny_llama());
        for arguments in [
            &["generate"] as &[&str],
            &["generate", "--decoder", "tiny"],
            &["compress", "text.txt"],
            &["compress"],
            &["fit", "--decoder", "tiny"],
            &["pull"],
        ] {
            let refusal = place.fails(USAGE, arguments);
            refusal.says(&["required arguments were not provided"]);
            refusal.hints(&[&format!("`arc {} --help`", arguments[0])]);
        }
    }

    #[test]
    fn help_and_the_version_are_no_failures() {
        let place = Place::empty();
        for (arguments, says) in [
            (&["--version"] as &[&str], "arc "),
            (&["--help"], "Usage: arc"),
            (&["ask", "-h"], "Usage: arc ask"),
        ] {
            let output = place.arc(arguments).output().expect("the binary runs");
            assert_eq!(output.status.code(), Some(0), "{arguments:?}");
            assert!(String::from_utf8_lossy(&output.stdout).contains(says), "{arguments:?}");
        }
    }

    #[test]
    fn preparing_the_tasks_data_takes_python_and_nothing_else_with_it() {
        let place = Place::empty();
        let refusal = place.fails(FAILURE, &["data", "prepare", "eval", "--out", "data"]);
        refusal.says(&["`ARC_OFFLINE` is set"]);
        let mut command = place.arc(&["data", "prepare", "eval", "--out", "data"]);
        let refusal = Refusal::of(command.env_remove("ARC_OFFLINE").env("PATH", "").output(), FAILURE);
        refusal.says(&["cannot run `python3`"]);
        refusal.hints(&["install Python 3"]);
        for arguments in [&["data", "prepare"] as &[&str], &["data", "prepare", "--source", "text.txt"]] {
            place.fails(USAGE, arguments).says(&["required arguments were not provided"]);
        }
        let both = ["data", "prepare", "--source", "text.txt", "--out", "shards", "eval"];
        place.fails(USAGE, &both).says(&["cannot be used with"]);
    }

    #[test]
    fn unknown_commands_and_options_are_usage_errors() {
        let place = Place::with_model(&tiny_llama());
        let refusal = place.fails(USAGE, &["asks"]);
        refusal.says(&["`asks`"]);
        refusal.hints(&["`ask`"]);
        let refusal = place.fails(USAGE, &["models", "--colour"]);
        refusal.says(&["`--colour`"]);
        let refusal = place.fails(USAGE, &["adapters", "list", "--jsn"]);
        refusal.hints(&["`--json`"]);
        let form = ["ask", "--decoder", "tiny", "--document", "x", "--form", "fable", "why"];
        let refusal = place.fails(USAGE, &form);
        refusal.says(&["`fable`", "--form"]);
        refusal.hints(&["`few-shot`", "`instruct`"]);
        let both = ["generate", "--decoder", "tiny", "--prompt", "a", "--file", "b"];
        place.fails(USAGE, &both).says(&["cannot be used with"]);
    }

    #[test]
    fn an_empty_prompt_is_a_usage_error() {
        let mut model = tiny_llama();
        model.set("tokenizer.ggml.add_bos_token", Meta::Bool(false));
        let place = Place::with_model(&model);
        place.fails(USAGE, &["generate", "--decoder", "tiny", "--prompt", ""]).says(&["prompt"]);
    }
}

mod outputs {
    use super::*;

    #[test]
    fn latents_that_cannot_be_written_leave_nothing_behind() {
        let place = Place::with_encoder();
        let text = place.file("text.txt", "a text");
        // The cache remembers the checksum of the backbone.
        place.succeeds(&["pull", "start"]);
        let before = place.listing();
        // A file is no folder, and a folder is not replaced by a file. Rights would not stop root.
        place.fails(USAGE, &["compress", &text, "-o", "text.txt/x.arc.safetensors"]).says(&["text.txt"]);
        std::fs::create_dir(place.path("folder.arc.safetensors")).expect("a folder");
        let folder = ["compress", &text, "-o", "folder.arc.safetensors"];
        place.fails(USAGE, &folder).says(&["`folder.arc.safetensors` is a folder"]);
        std::fs::remove_dir(place.path("folder.arc.safetensors")).expect("it is empty");
        assert_eq!(place.listing(), before);
    }

    #[test]
    fn latents_are_known_by_their_name_and_are_not_compressed_again() {
        let place = Place::with_encoder();
        let text = place.file("text.txt", "a text");
        let refusal = place.fails(USAGE, &["compress", &text, "-o", "latents.bin"]);
        refusal.says(&["`latents.bin` does not end in `.arc.safetensors`"]);
        refusal.hints(&["`latents.arc.safetensors`"]);
        place.succeeds(&["compress", &text, "-o", LATENTS]);
        let refusal = place.fails(USAGE, &["compress", LATENTS, "-o", "twice.arc.safetensors"]);
        refusal.says(&["compressed already"]);
    }

    #[test]
    fn standard_input_is_one_document() {
        let place = Place::with_adapter();
        let ask = ["ask", "--decoder", "tiny", "--document", "-", "--document", "-", "why"];
        place.fails(USAGE, &ask).says(&["standard input is named twice"]);
    }

    #[test]
    fn a_failing_compression_keeps_the_latents_that_were_there() {
        let place = Place::with_encoder();
        let text = place.file("text.txt", "a text");
        place.succeeds(&["compress", &text, "-o", LATENTS]);
        let before = std::fs::read(place.path(LATENTS)).expect("latents");
        place.file("tiny.gguf", "not the backbone any more");
        let again = ["compress", &text, "-o", LATENTS, "--replace"];
        place.fails(FAILURE, &again).says(&["tiny.gguf"]);
        assert_eq!(std::fs::read(place.path(LATENTS)).expect("latents"), before);
    }

    #[test]
    fn a_fit_whose_scoring_fails_writes_no_adapter_and_keeps_the_one_that_was_there() {
        let place = Place::with_adapter();
        let short = place.file("short.txt", "hi");
        let fit = |output| {
            let fit = ["fit", "--decoder", "tiny", "--text", "texts.jsonl", "--score-on", &short];
            [&fit[..], &["--replace", "-o", output]].concat()
        };
        let listing =
            || (place.listing(), std::fs::read(place.path("adapter/adapter.json")).expect("an adapter"));
        let before = listing();
        for output in ["new", "adapter"] {
            place.fails(USAGE, &fit(output)).says(&["tokens in the text for a sample"]);
            assert_eq!(listing(), before);
        }
        let unasked = ["fit", "--decoder", "tiny", "--text", "texts.jsonl", "-o", "adapter"];
        let refusal = place.fails(USAGE, &unasked);
        refusal.says(&["`adapter` holds an adapter already"]);
        refusal.hints(&["--replace"]);
        let file = ["fit", "--decoder", "tiny", "--text", "texts.jsonl", "-o", "texts.jsonl"];
        place.fails(USAGE, &file).says(&["`texts.jsonl` is a file"]);
        assert_eq!(listing(), before);
        let long = place.file("long.txt", "a text that is long enough to be scored ".repeat(10));
        let fit = ["fit", "--decoder", "tiny", "--text", "texts.jsonl", "--score-on", &long, "-o", "new"];
        let scores = place.succeeds(&fit)["scores"].clone();
        assert!(scores["continuation"]["samples"].as_u64().is_some_and(|samples| samples > 0), "{scores}");
        let manifest = std::fs::read(place.path("new/adapter.json")).expect("an adapter");
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).expect("JSON");
        assert_eq!(manifest["scores"], scores);
    }

    #[test]
    fn a_fit_reads_no_further_than_it_needs() {
        use std::io::Write as _;

        let place = Place::with_adapter();
        let rows = std::fs::read_to_string(place.path("texts.jsonl")).expect("rows");
        let texts = place.file("broken.jsonl", format!("{rows}no JSON\n"));
        let fit = ["fit", "--decoder", "tiny", "--text", &texts, "-o", "new"];
        place.fails(FAILURE, &fit).says(&["broken.jsonl", "line 21"]);
        place.succeeds(&[&fit as &[&str], &["--max-latents", "300"]].concat());

        // A text without an end.
        let mut command = place.arc(&["fit", "--decoder", "tiny", "--text", "-", "--max-latents", "50000"]);
        command.args(["-o", "endless"]).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = command.spawn().expect("arc starts");
        let mut text = child.stdin.take().expect("a pipe");
        std::thread::spawn(move || while text.write_all(b"a line of an endless text\n").is_ok() {});
        assert!(child.wait().expect("it ends").success());
        assert!(place.path("endless/adapter.json").is_file());
    }

    #[test]
    fn a_fit_on_too_little_text_writes_no_adapter() {
        let place = Place::with_encoder();
        let text = place.file("text.txt", "hi");
        let fit = ["fit", "--decoder", "tiny", "--text", &text, "-o", "adapter"];
        place.fails(USAGE, &fit).says(&["aligned latents", "at least"]);
        assert!(!place.path("adapter").exists());
    }

    #[test]
    fn a_fit_on_jsonl_without_text_names_the_line() {
        let place = Place::with_encoder();
        let text = place.file("texts.jsonl", "{\"text\": \"one\"}\n{\"body\": \"two\"}\n");
        let fit = ["fit", "--decoder", "tiny", "--text", &text, "-o", "adapter"];
        place.fails(FAILURE, &fit).says(&["texts.jsonl", "line 2"]);
        let template = place.file("template.txt", "no place for the text");
        let fit = ["fit", "--decoder", "tiny", "--text", &text, "--template", &template, "-o", "adapter"];
        place.fails(FAILURE, &fit).says(&["template", "`document`"]);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_leaves_no_part_of_the_latents() {
        let place = Place::with_encoder();
        // Four bytes for each of eight values of each of these letters: more than the disk has.
        let text = place.file("text.txt", "abcdefgh".repeat(400));
        let small = place.path("small");
        let output = small.join(LATENTS);
        let command = place.arc(&["compress", &text, "-o", output.to_str().expect("UTF-8")]);
        for refusal in where_there_is_no_room(&small, &command) {
            refusal.says(&["cannot write", LATENTS]);
            refusal.hints(&["free some space"]);
        }
    }
}

/// Runs a command that writes into `folder` where a file may have 64 KiB, and again where all of the
/// folder's disk has no more, and checks that each time no file with content is left there. The second
/// takes a mount, and it is said where this user may not make one.
#[cfg(target_os = "linux")]
fn where_there_is_no_room(folder: &Path, command: &Command) -> Vec<Refusal> {
    // The signal would end a process that writes too much before it can say so.
    const LIMIT: &str = "trap '' XFSZ; ulimit -f 128 || exit 70";
    // The disk is seen by this one process tree and is gone with it.
    const DISK: &str = "mount -t tmpfs -o size=64k none \"$folder\" || exit 70";

    std::fs::create_dir_all(folder).expect("a place to write to");
    let limited = after(LIMIT, &["sh"], folder, command).expect("a limit takes no privileges");
    let mounted =
        [&["unshare", "--mount", "sh"] as &[&str], &["unshare", "--map-root-user", "--mount", "sh"]]
            .into_iter()
            .find_map(|shell| after(DISK, shell, folder, command));
    if mounted.is_none() {
        notice("left out: a small disk cannot be mounted here");
    }
    [Some(limited), mounted].into_iter().flatten().collect()
}

/// Runs a command in a shell after `first`, and looks for files in `folder` then; `None` where it came
/// to nothing.
#[cfg(target_os = "linux")]
fn after(first: &str, shell: &[&str], folder: &Path, command: &Command) -> Option<Refusal> {
    const LEFT_BEHIND: i32 = 71;
    let script = format!(
        "folder=$1; shift; {first}
        \"$@\"; code=$?
        [ -z \"$(find \"$folder\" -type f -size +0)\" ] || {{ find \"$folder\" >&2; exit {LEFT_BEHIND}; }}
        exit $code"
    );
    let mut inside = Command::new(shell[0]);
    inside.args(&shell[1..]).args(["-c", &script, "sh"]).arg(folder);
    inside.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
    inside.current_dir(command.get_current_dir().expect("a folder"));
    for (variable, value) in command.get_envs() {
        match value {
            Some(value) => inside.env(variable, value),
            None => inside.env_remove(variable),
        };
    }
    let output = inside.output().ok()?;
    let arc_ran = String::from_utf8_lossy(&output.stderr).contains("error: ");
    match output.status.code() {
        Some(LEFT_BEHIND) => panic!("left behind: {}", String::from_utf8_lossy(&output.stderr)),
        _ if arc_ran => Some(Refusal::of(Ok(output), FAILURE)),
        Some(0) => panic!("64 KiB were enough"),
        _ => None,
    }
}
