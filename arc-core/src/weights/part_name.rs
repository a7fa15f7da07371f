//! The names of a model's file that was cut into parts: `NAME-00001-of-00003.gguf`, as llama.cpp's
//! `gguf-split` and Hugging Face's libraries have them.

/// More parts than any model has; a name that says more is a name like any other.
const MOST: u32 = 9999;

/// A part's name, taken to pieces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartName<'n> {
    prefix: &'n str,
    /// Which part it is, from 1.
    pub(crate) number: u32,
    /// How many there are, at least 1.
    pub(crate) count: u32,
    digits: usize,
    /// With its dot.
    extension: &'n str,
}

impl<'n> PartName<'n> {
    /// The pieces of a file's name, if it is that of a part.
    pub(crate) fn parse(name: &'n str) -> Option<Self> {
        let (stem, extension) = name.split_at(name.rfind('.')?);
        let (rest, count) = stem.rsplit_once("-of-")?;
        let (prefix, number) = rest.rsplit_once('-')?;
        let is_number = |text: &str| text.len() >= 2 && text.bytes().all(|byte| byte.is_ascii_digit());
        if number.len() != count.len() || !is_number(number) || !is_number(count) {
            return None;
        }
        let name = Self {
            prefix,
            number: number.parse().ok()?,
            count: count.parse().ok()?,
            digits: count.len(),
            extension,
        };
        ((1..=name.count).contains(&name.number) && name.count <= MOST).then_some(name)
    }

    /// What comes before the number.
    pub(crate) fn prefix(&self) -> &'n str {
        self.prefix
    }

    /// The extension, without its dot.
    pub(crate) fn extension(&self) -> &'n str {
        self.extension.trim_start_matches('.')
    }

    /// The names of all parts, in order.
    pub(crate) fn all(&self) -> Vec<String> {
        let Self { prefix, count, digits, extension, .. } = self;
        (1..=*count)
            .map(|number| format!("{prefix}-{number:0digits$}-of-{count:0digits$}{extension}"))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_names_all_parts() {
        let name = PartName::parse("Llama-3-of-a-kind.Q4_K_M-00002-of-00003.gguf").unwrap();
        assert_eq!((name.number, name.count, name.extension()), (2, 3, "gguf"));
        assert_eq!(
            name.all(),
            [
                "Llama-3-of-a-kind.Q4_K_M-00001-of-00003.gguf",
                "Llama-3-of-a-kind.Q4_K_M-00002-of-00003.gguf",
                "Llama-3-of-a-kind.Q4_K_M-00003-of-00003.gguf",
            ]
        );
        assert_eq!(PartName::parse("model-00001-of-00002.safetensors").unwrap().prefix(), "model");
    }

    #[test]
    fn other_names_are_no_parts() {
        for name in [
            "model.gguf",
            "part-of-it.gguf",
            "m-00000-of-00002.gguf",
            "m-00003-of-00002.gguf",
            "m-1-of-00002.gguf",
            "m-00001-of-00000.gguf",
            "m-99999-of-99999.gguf",
            "00001-of-00002.gguf",
            "m-+0001-of-00002.gguf",
            "",
        ] {
            assert_eq!(PartName::parse(name), None, "{name}");
        }
    }
}
