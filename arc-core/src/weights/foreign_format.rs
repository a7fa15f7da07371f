//! Formats of models that are not read here, so that errors can call them by their names.

use std::{io::Read, path::Path};

use serde_json::Value;

use crate::Error;

/// Files that a folder has where it has no safetensors, as published repositories name them.
const FILES: [(&str, &str); 12] = [
    ("pytorch_model.bin", "a PyTorch checkpoint"),
    ("pytorch_model.bin.index.json", "a PyTorch checkpoint"),
    ("consolidated.00.pth", "a PyTorch checkpoint"),
    ("adapter_model.safetensors", "a LoRA adapter of another model"),
    ("adapter_model.bin", "a LoRA adapter of another model"),
    ("tf_model.h5", "a TensorFlow checkpoint"),
    ("model.ckpt.index", "a TensorFlow checkpoint"),
    ("flax_model.msgpack", "a Flax checkpoint"),
    ("model.onnx", "an ONNX model"),
    ("onnx", "a folder of ONNX models"),
    ("weights.npz", "an MLX checkpoint"),
    ("rust_model.ot", "a rust-bert checkpoint"),
];

/// What the end of a file's name says that it is.
const EXTENSIONS: [(&str, &str); 12] = [
    ("bin", "a PyTorch checkpoint"),
    ("pt", "a PyTorch checkpoint"),
    ("pth", "a PyTorch checkpoint"),
    ("ckpt", "a PyTorch or TensorFlow checkpoint"),
    ("pkl", "a Python pickle"),
    ("h5", "a TensorFlow checkpoint"),
    ("msgpack", "a Flax checkpoint"),
    ("onnx", "an ONNX model"),
    ("npz", "a NumPy archive"),
    ("ot", "a rust-bert checkpoint"),
    ("tflite", "a TensorFlow Lite model"),
    ("mlmodel", "a Core ML model"),
];

/// The methods of `quantization_config.quant_method`, and how they are written.
const METHODS: [(&str, &str); 16] = [
    ("gptq", "GPTQ"),
    ("awq", "AWQ"),
    ("bitsandbytes", "bitsandbytes"),
    ("exl2", "EXL2"),
    ("exl3", "EXL3"),
    ("aqlm", "AQLM"),
    ("hqq", "HQQ"),
    ("eetq", "EETQ"),
    ("fp8", "FP8 with scales"),
    ("fbgemm_fp8", "FP8 with scales"),
    ("compressed-tensors", "compressed-tensors"),
    ("modelopt", "ModelOpt"),
    ("mxfp4", "MXFP4"),
    ("torchao", "torchao"),
    ("quanto", "quanto"),
    ("bitnet", "BitNet"),
];

/// What tensors are called in quantised checkpoints whose configuration does not say so.
const TENSOR_ENDS: [(&str, &str); 6] = [
    (".qzeros", "GPTQ or AWQ"),
    (".q_scale_max", "EXL2"),
    (".trellis", "EXL3"),
    (".weight.absmax", "bitsandbytes"),
    (".weight_scale_inv", "FP8 with scales"),
    (".SCB", "bitsandbytes"),
];

/// The first bytes of files that are something else than their names say, or may be.
const MAGICS: [(&[u8], &str); 7] = [
    (b"tjgg", "a GGJT file, which llama.cpp no longer reads either"),
    (b"lmgg", "a GGML file, which llama.cpp no longer reads either"),
    (b"fmgg", "a GGMF file, which llama.cpp no longer reads either"),
    (b"\x89HDF", "an HDF5 file, such as TensorFlow writes"),
    (b"version https://git-lfs", "a Git LFS pointer and not the file itself"),
    (b"<!DOCTYPE html", "a web page"),
    (b"<html", "a web page"),
];

/// The first bytes of what may be many things, so that a file's name says more.
const CONTAINERS: [(&[u8], &str); 2] = [
    (b"\x80\x02", "a Python pickle, such as PyTorch writes"),
    (b"PK\x03\x04", "a zip archive, such as PyTorch writes"),
];

fn unsupported(path: &Path, found: impl Into<String>) -> Error {
    Error::UnsupportedFormat { path: path.to_owned(), found: found.into() }
}

/// The error that calls a file by its format, if that is one that is known and not read.
pub(crate) fn of_file(path: &Path) -> Option<Error> {
    let mut start = Vec::new();
    arc_adapters::open_file(path).ok()?.take(32).read_to_end(&mut start).ok()?;
    let of_start = |magics: &[(&[u8], &'static str)]| {
        magics.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, found)| *found)
    };
    let by_name = || of_name(path.file_name()?.to_str()?);
    let found = of_start(&MAGICS).or_else(by_name).or_else(|| of_start(&CONTAINERS))?;
    Some(unsupported(path, found))
}

/// What a file's name says that it is, if that is a format that is not read.
pub(crate) fn of_name(name: &str) -> Option<&'static str> {
    let (_, extension) = name.rsplit_once('.')?;
    let known = EXTENSIONS.iter().find(|(known, _)| known.eq_ignore_ascii_case(extension));
    known.map(|(_, found)| *found)
}

/// The error that names what a folder without safetensors has in their place, if that is known.
pub(crate) fn of_folder(folder: &Path) -> Option<Error> {
    let named = FILES.iter().map(|(name, found)| (folder.join(name), *found));
    if let Some((path, found)) = named.into_iter().find(|(path, _)| path.exists()) {
        return Some(unsupported(&path, found));
    }
    // Others have names of their own: the first of them by name.
    let mut files: Vec<_> = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files.iter().find_map(|path| Some(unsupported(path, of_name(path.file_name()?.to_str()?)?)))
}

/// The error that names the method by which a checkpoint was quantised, if its configuration or the names
/// of its tensors say so; `folder` is where it is.
pub(crate) fn of_checkpoint<'n>(
    folder: &Path,
    config: &Value,
    tensors: impl Iterator<Item = &'n str>,
) -> Option<Error> {
    let quantised = |method: &str| unsupported(folder, format!("quantised by {method}"));
    if let Some(method) = config.get("quantization_config").and_then(quantisation_method) {
        return Some(quantised(&method));
    }
    // MLX: the size of its groups of values, beside their bits.
    if config.get("quantization").is_some_and(|method| method.get("group_size").is_some()) {
        return Some(quantised("MLX"));
    }
    let of_name = |name: &str| TENSOR_ENDS.iter().find(|(end, _)| name.ends_with(end));
    tensors.into_iter().find_map(of_name).map(|(_, method)| quantised(method))
}

fn quantisation_method(config: &Value) -> Option<String> {
    let is_set = |key: &str| config.get(key) == Some(&Value::Bool(true));
    let named = config.get("quant_method").and_then(Value::as_str);
    match named {
        Some(method) => {
            let known = METHODS.iter().find(|(known, _)| known.eq_ignore_ascii_case(method));
            Some(known.map_or_else(|| format!("`{method}`"), |(_, written)| (*written).to_owned()))
        }
        // Before methods were named.
        None if is_set("load_in_8bit") || is_set("load_in_4bit") => Some("bitsandbytes".to_owned()),
        None => {
            config.get("bits").map(|_| "a method that its `quantization_config` does not name".to_owned())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_config(config: &Value) -> Option<String> {
        of_checkpoint(Path::new("m"), config, std::iter::empty()).map(|error| error.to_string())
    }

    #[test]
    fn quantised_checkpoints_are_called_by_their_method() {
        for (config, method) in [
            (json!({"quantization_config": {"bits": 4, "quant_method": "gptq"}}), "GPTQ"),
            (json!({"quantization_config": {"quant_method": "awq"}}), "AWQ"),
            (json!({"quantization_config": {"load_in_4bit": true}}), "bitsandbytes"),
            (json!({"quantization_config": {"quant_method": "exl2"}}), "EXL2"),
            (json!({"quantization_config": {"quant_method": "newest"}}), "`newest`"),
            (json!({"quantization": {"group_size": 64, "bits": 4}}), "MLX"),
        ] {
            let expected = format!("`m` is quantised by {method}, which is not supported");
            assert_eq!(of_config(&config), Some(expected), "{config}");
        }
        assert_eq!(of_config(&json!({"quantization_config": null, "torch_dtype": "bfloat16"})), None);
    }

    #[test]
    fn tensors_say_it_where_the_configuration_does_not() {
        let names = ["model.layers.0.mlp.up_proj.qweight", "model.layers.0.mlp.up_proj.qzeros"];
        let error = of_checkpoint(Path::new("m"), &Value::Null, names.into_iter()).unwrap();
        assert_eq!(error.to_string(), "`m` is quantised by GPTQ or AWQ, which is not supported");
    }

    #[test]
    fn folders_and_files_are_called_by_their_format() {
        let folder = tempfile::tempdir().unwrap();
        assert!(of_folder(folder.path()).is_none());
        let path = folder.path().join("x.onnx");
        std::fs::write(&path, "x").unwrap();
        assert!(
            of_folder(folder.path())
                .unwrap()
                .to_string()
                .ends_with("is an ONNX model, which is not supported")
        );
        std::fs::write(folder.path().join("pytorch_model.bin"), b"PK\x03\x04").unwrap();
        let error = of_folder(folder.path()).unwrap().to_string();
        assert!(error.contains("pytorch_model.bin` is a PyTorch checkpoint"), "{error}");
        let found = |name: &str, start: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, start).unwrap();
            of_file(&path).map(|error| error.to_string().split("` is ").nth(1).unwrap().to_owned())
        };
        let unsupported = ", which is not supported";
        for (name, start, expected) in [
            ("m.bin", &b"PK\x03\x04"[..], "a PyTorch checkpoint"),
            ("m", b"PK\x03\x04", "a zip archive, such as PyTorch writes"),
            (
                "m.gguf",
                b"version https://git-lfs.github.com/spec/v1",
                "a Git LFS pointer and not the file itself",
            ),
            ("m.bin", b"lmgg", "a GGML file, which llama.cpp no longer reads either"),
        ] {
            assert_eq!(found(name, start), Some(format!("{expected}{unsupported}")), "{name}");
        }
        assert_eq!(found("m.gguf", b"GGUG"), None);
        let error = of_folder(folder.path()).unwrap();
        assert!(error.hint().unwrap().to_string().contains("GGUF"));
    }
}
