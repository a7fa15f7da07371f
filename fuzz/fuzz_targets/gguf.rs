//! GGUF files from strangers: header, every tensor's values, configuration, tokenizer and template,
//! as opening a model reads them.
#![no_main]

mod room;

use arc_core::prompt::ChatTemplate;
use arc_core::decoder::DecoderConfig;
use arc_core::tokenizer::Tokenizer;
use arc_core::weights::{GgufFile, TensorSource as _};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(file) = GgufFile::open(room::file("model.gguf", bytes)) else { return };
    assert!(matches!(file.version(), 2 | 3));
    for name in file.names() {
        if let Ok(tensor) = file.tensor(name) {
            let count = tensor.shape().iter().product::<usize>();
            // A type that takes less than two bits a value is not known.
            assert!(count <= 8 * bytes.len(), "{count} values of {} bytes", bytes.len());
            assert_eq!(tensor.to_f32().len(), count);
        }
    }
    let _ = DecoderConfig::from_gguf(&file);
    if let Ok(tokenizer) = Tokenizer::from_gguf(&file)
        && let Ok(encoding) = tokenizer.encode("A doc, 12 <s>é")
    {
        assert!(encoding.ids.iter().all(|&id| !tokenizer.is_special(id) || tokenizer.token_bytes(id).is_empty()
            || tokenizer.special_id("<s>") != Some(id)));
        let _ = tokenizer.decode(&encoding.ids, true);
    }
    let _ = ChatTemplate::from_gguf(&file);
});
