//! The GGUF file format, versions 2 and 3, little-endian: metadata and quantised tensors in one file, or in
//! several that llama.cpp's `gguf-split` has made of it.
//!
//! Layout, from the specification in ggml's `docs/gguf.md`: magic, version, the counts of tensors
//! and metadata entries, the entries, the tensor descriptions, padding to `general.alignment`
//! (32 where it is not given), then the tensors' data, to whose start their offsets are relative.
//! GGUF lists dimensions innermost first; here they are reversed.
//!
//! Nothing in the file is trusted: every size is checked against the bytes that are left before
//! anything is allocated for it.

use std::{
    collections::BTreeMap,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{MappedBytes, PartName, RawTensor, StorageType, TensorSource, foreign_format};
use crate::{Error, Result};

const MAGIC: &[u8; 4] = b"GGUF";
const ARCHITECTURE: &str = "general.architecture";
const ALIGNMENT: &str = "general.alignment";
const DEFAULT_ALIGNMENT: usize = 32;
/// How many files a model was cut into, and the tensors of all of them.
const SPLIT_COUNT: &str = "split.count";
const SPLIT_TENSORS: &str = "split.tensors.count";
/// Which of them a file is, from 0.
const SPLIT_NUMBER: &str = "split.no";
/// ggml's `GGML_MAX_DIMS`.
const MAX_DIMENSIONS: u32 = 4;
/// Arrays of arrays occur in no model known; the limit keeps a hostile file from exhausting the
/// stack.
const MAX_ARRAY_DEPTH: usize = 4;
/// The fewest bytes that a metadata entry takes: an empty key, a type and one byte.
const MIN_ENTRY_BYTES: usize = 8 + 4 + 1;
/// The fewest bytes that a tensor description takes: an empty name, no dimensions, type, offset.
const MIN_TENSOR_BYTES: usize = 8 + 4 + 4 + 8;

/// A value of a GGUF file's metadata.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum GgufValue {
    /// 8 bits, unsigned.
    U8(u8),
    /// 8 bits, signed.
    I8(i8),
    /// 16 bits, unsigned.
    U16(u16),
    /// 16 bits, signed.
    I16(i16),
    /// 32 bits, unsigned.
    U32(u32),
    /// 32 bits, signed.
    I32(i32),
    /// 64 bits, unsigned.
    U64(u64),
    /// 64 bits, signed.
    I64(i64),
    /// Single precision.
    F32(f32),
    /// Double precision.
    F64(f64),
    /// A truth value.
    Bool(bool),
    /// UTF-8 text.
    String(String),
    /// Strings, such as a tokenizer's vocabulary.
    Strings(Vec<String>),
    /// 32-bit signed integers, such as a vocabulary's token types.
    I32s(Vec<i32>),
    /// 32-bit unsigned integers.
    U32s(Vec<u32>),
    /// Single-precision numbers, such as a vocabulary's scores.
    F32s(Vec<f32>),
    /// An array of any other type.
    Array(Vec<GgufValue>),
}

impl GgufValue {
    /// The name of its type, for errors.
    #[must_use]
    pub const fn type_name(&self) -> &'static str {
        match self {
            Self::U8(_) => "an 8-bit unsigned integer",
            Self::I8(_) => "an 8-bit integer",
            Self::U16(_) => "a 16-bit unsigned integer",
            Self::I16(_) => "a 16-bit integer",
            Self::U32(_) => "a 32-bit unsigned integer",
            Self::I32(_) => "a 32-bit integer",
            Self::U64(_) => "a 64-bit unsigned integer",
            Self::I64(_) => "a 64-bit integer",
            Self::F32(_) => "a single-precision number",
            Self::F64(_) => "a double-precision number",
            Self::Bool(_) => "a truth value",
            Self::String(_) => "a string",
            Self::Strings(_) => "an array of strings",
            Self::I32s(_) => "an array of 32-bit integers",
            Self::U32s(_) => "an array of 32-bit unsigned integers",
            Self::F32s(_) => "an array of single-precision numbers",
            Self::Array(_) => "an array",
        }
    }

    /// Whether it is an integer, of any type.
    #[must_use]
    pub const fn is_integer(&self) -> bool {
        matches!(
            self,
            Self::U8(_)
                | Self::I8(_)
                | Self::U16(_)
                | Self::I16(_)
                | Self::U32(_)
                | Self::I32(_)
                | Self::U64(_)
                | Self::I64(_)
        )
    }

    /// The value as a non-negative integer of at most 32 bits, whatever integer type it is stored
    /// as.
    #[must_use]
    pub fn as_u32(&self) -> Option<u32> {
        match *self {
            Self::U8(value) => Some(value.into()),
            Self::I8(value) => value.try_into().ok(),
            Self::U16(value) => Some(value.into()),
            Self::I16(value) => value.try_into().ok(),
            Self::U32(value) => Some(value),
            Self::I32(value) => value.try_into().ok(),
            Self::U64(value) => value.try_into().ok(),
            Self::I64(value) => value.try_into().ok(),
            _ => None,
        }
    }
}

/// A GGUF file, or all parts of one, mapped. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct GgufFile {
    contents: Arc<Contents>,
}

#[derive(Debug)]
struct Contents {
    path: PathBuf,
    version: u32,
    metadata: BTreeMap<String, GgufValue>,
    tensors: BTreeMap<String, GgufTensorInfo>,
    /// The files, in order; one, where the model is in one.
    parts: Vec<FilePart>,
}

#[derive(Debug)]
struct FilePart {
    path: PathBuf,
    bytes: MappedBytes,
}

#[derive(Debug)]
struct GgufTensorInfo {
    /// The index of the file that holds it.
    part: usize,
    /// Outermost first.
    shape: Vec<usize>,
    /// The stored type's number and, if it can be read, the type and where its bytes lie.
    type_id: u32,
    stored: Option<(StorageType, Range<usize>)>,
}

impl GgufFile {
    /// Maps a file and reads its metadata and tensor descriptions; no tensor data is touched. If it is
    /// one part of a model, whichever it is, all parts that lie beside it are opened with it.
    ///
    /// # Errors
    /// [`Error::Io`] if it cannot be read; [`Error::InvalidFile`] if it is not GGUF version 2 or 3,
    /// or is cut off or corrupt: a tensor that reaches beyond the end of the file or into another
    /// is found here, and so is a part that is missing or belongs to another model;
    /// [`Error::UnsupportedFormat`] for formats that are known by their first bytes.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let opened = Self::parse(MappedBytes::map_file(path)?, path)
            .map_err(|error| foreign_format::of_file(path).unwrap_or(error))?;
        match opened.split_number(SPLIT_COUNT)? {
            None | Some(0 | 1) => Ok(opened),
            Some(count) => opened.with_other_parts(count),
        }
    }

    fn parse(bytes: MappedBytes, path: &Path) -> Result<Self> {
        let invalid = |reason| Error::InvalidFile { path: path.to_owned(), format: "GGUF", reason };
        let (version, metadata, tensors) = parse_header(&bytes).map_err(invalid)?;
        let path = path.to_owned();
        let parts = vec![FilePart { path: path.clone(), bytes }];
        Ok(Self { contents: Arc::new(Contents { path, version, metadata, tensors, parts }) })
    }

    /// A number that says how the model was cut, where it was.
    fn split_number(&self, key: &str) -> Result<Option<u32>> {
        self.meta(key).map(|_| self.u32(key)).transpose()
    }

    /// This part together with the `count - 1` others.
    fn with_other_parts(self, count: u32) -> Result<Self> {
        let path = self.contents.path.clone();
        let invalid =
            |path: &Path, reason| Error::InvalidFile { path: path.to_owned(), format: "GGUF", reason };
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(name) = PartName::parse(name).filter(|name| name.count == count) else {
            let reason = format!(
                "it is a part of a model of {count} parts, whose names end in `-00001-of-{count:05}.gguf` \
                 and so on: name it as it was"
            );
            return Err(invalid(&path, reason));
        };
        let paths: Vec<PathBuf> = name.all().iter().map(|name| path.with_file_name(name)).collect();
        let missing: Vec<String> = (paths.iter().filter(|path| !path.exists()))
            .filter_map(|path| Some(format!("`{}`", path.file_name()?.to_str()?)))
            .collect();
        if !missing.is_empty() {
            let reason = format!("it is one of {count} parts, and {} is missing", missing.join(", "));
            return Err(invalid(&path, reason));
        }
        let mut whole: Option<Contents> = None;
        for (number, path) in (0..count).zip(&paths) {
            let file = Self::parse(MappedBytes::map_file(path)?, path)?;
            for (key, expected) in [(SPLIT_NUMBER, number), (SPLIT_COUNT, count)] {
                let found = file.split_number(key)?;
                if found != Some(expected) {
                    let found = found.map_or_else(|| "missing".to_owned(), |found| found.to_string());
                    return Err(invalid(path, format!("`{key}` is {found}, expected {expected}")));
                }
            }
            // Nobody else has it yet.
            let Some(mut part) = Arc::into_inner(file.contents) else { continue };
            match &mut whole {
                None => whole = Some(part),
                Some(whole) => {
                    let index = whole.parts.len();
                    whole.parts.append(&mut part.parts);
                    for (name, info) in part.tensors {
                        let duplicate = format!("tensor `{name}` is in an earlier part too");
                        if whole.tensors.insert(name, GgufTensorInfo { part: index, ..info }).is_some() {
                            return Err(invalid(path, duplicate));
                        }
                    }
                }
            }
        }
        let Some(mut whole) = whole else { return Ok(self) };
        whole.path = path;
        let whole = Self { contents: Arc::new(whole) };
        if let Some(expected) = whole.split_number(SPLIT_TENSORS)?
            && usize::try_from(expected).ok() != Some(whole.contents.tensors.len())
        {
            let found = whole.contents.tensors.len();
            let reason = format!("its parts have {found} tensors, but `{SPLIT_TENSORS}` is {expected}");
            return Err(invalid(&whole.contents.path, reason));
        }
        Ok(whole)
    }

    /// The files that it lies in, in order: several, where the model was cut into parts.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.contents.parts.iter().map(|part| part.path.as_path())
    }

    /// The format's version, 2 or 3.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.contents.version
    }

    /// The metadata value of that key.
    #[must_use]
    pub fn meta(&self, key: &str) -> Option<&GgufValue> {
        self.contents.metadata.get(key)
    }

    /// All metadata, sorted by key.
    pub fn metadata(&self) -> impl Iterator<Item = (&str, &GgufValue)> {
        self.contents.metadata.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The model's architecture, `general.architecture`: `llama`, `gemma3`, …
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is missing or not a string.
    pub fn architecture(&self) -> Result<&str> {
        self.str(ARCHITECTURE)
    }

    /// The string of that key.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is missing or of another type.
    pub fn str(&self, key: &str) -> Result<&str> {
        self.typed(key, "a string", |value| match value {
            GgufValue::String(text) => Some(text.as_str()),
            _ => None,
        })
    }

    /// The non-negative integer of that key, of any integer type that the file uses.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is missing, of another type, negative or above 32 bits.
    pub fn u32(&self, key: &str) -> Result<u32> {
        self.typed(key, "an unsigned integer of 32 bits", GgufValue::as_u32)
    }

    /// The number of that key.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is missing or not a floating-point number.
    pub fn f32(&self, key: &str) -> Result<f32> {
        self.typed(key, "a number", |value| match *value {
            GgufValue::F32(number) => Some(number),
            GgufValue::F64(number) => Some(number as f32),
            _ => None,
        })
    }

    /// The truth value of that key.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is missing or of another type.
    pub fn bool(&self, key: &str) -> Result<bool> {
        self.typed(key, "a truth value", |value| match *value {
            GgufValue::Bool(truth) => Some(truth),
            _ => None,
        })
    }

    /// The strings of that key.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is missing or of another type.
    pub fn strings(&self, key: &str) -> Result<&[String]> {
        self.typed(key, "an array of strings", |value| match value {
            GgufValue::Strings(strings) => Some(strings.as_slice()),
            _ => None,
        })
    }

    /// The single-precision numbers of that key.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is missing or of another type.
    pub fn f32s(&self, key: &str) -> Result<&[f32]> {
        self.typed(key, "an array of single-precision numbers", |value| match value {
            GgufValue::F32s(numbers) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    /// The 32-bit integers of that key.
    ///
    /// # Errors
    /// [`Error::InvalidConfig`] if it is missing or of another type.
    pub fn i32s(&self, key: &str) -> Result<&[i32]> {
        self.typed(key, "an array of 32-bit integers", |value| match value {
            GgufValue::I32s(numbers) => Some(numbers.as_slice()),
            _ => None,
        })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &str,
        convert: impl Fn(&'a GgufValue) -> Option<T>,
    ) -> Result<T> {
        let invalid = |found| Error::InvalidConfig {
            path: self.contents.path.clone(),
            reason: format!("metadata `{key}` is {found}, expected {expected}"),
        };
        let value = self.meta(key).ok_or_else(|| invalid("missing"))?;
        convert(value).ok_or_else(|| invalid(value.type_name()))
    }
}

impl TensorSource for GgufFile {
    fn tensor(&self, name: &str) -> Result<RawTensor> {
        let Contents { tensors, parts, .. } = &*self.contents;
        let info = tensors.get(name).ok_or_else(|| self.missing(name))?;
        let FilePart { path, bytes } = parts.get(info.part).ok_or_else(|| self.missing(name))?;
        let Some((dtype, range)) = &info.stored else {
            return Err(Error::UnsupportedQuantisation {
                path: path.clone(),
                tensor: name.to_owned(),
                found: unreadable_type(info.type_id),
            });
        };
        let bytes = bytes.slice(range.clone()).ok_or_else(|| Error::InvalidFile {
            path: path.clone(),
            format: "GGUF",
            reason: format!("tensor `{name}` reaches beyond the end of the file"),
        })?;
        RawTensor::new(name, *dtype, info.shape.clone(), bytes, path)
    }

    fn has(&self, name: &str) -> bool {
        self.contents.tensors.contains_key(name)
    }

    fn names(&self) -> Vec<&str> {
        self.contents.tensors.keys().map(String::as_str).collect()
    }

    fn path(&self) -> &Path {
        &self.contents.path
    }
}

/// The storage type of ggml's type number.
fn storage_type(id: u32) -> Option<StorageType> {
    Some(match id {
        0 => StorageType::F32,
        1 => StorageType::F16,
        2 => StorageType::Q4_0,
        3 => StorageType::Q4_1,
        6 => StorageType::Q5_0,
        7 => StorageType::Q5_1,
        8 => StorageType::Q8_0,
        12 => StorageType::Q4K,
        13 => StorageType::Q5K,
        14 => StorageType::Q6K,
        30 => StorageType::BF16,
        _ => return None,
    })
}

/// What to call a type that cannot be read: the name that ggml gives it, or its number.
fn unreadable_type(id: u32) -> String {
    let name = match id {
        9 => "Q8_1",
        10 => "Q2_K",
        11 => "Q3_K",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        20 => "IQ4_NL",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        39 => "MXFP4",
        _ => return format!("ggml type {id}"),
    };
    name.to_owned()
}

type Header = (u32, BTreeMap<String, GgufValue>, BTreeMap<String, GgufTensorInfo>);

/// Parses everything before the tensors' data; the error is the reason why the file is invalid.
fn parse_header(bytes: &[u8]) -> Result<Header, String> {
    let mut reader = Reader { bytes, at: 0 };
    let magic = reader.array::<4>("the magic")?;
    if &magic != MAGIC {
        return Err(format!("it starts with {magic:02x?}, not with `GGUF`"));
    }
    let version = reader.u32("the version")?;
    if !(2..=3).contains(&version) {
        let big_endian = (2..=3).contains(&version.swap_bytes());
        let found = if big_endian { "big-endian".to_owned() } else { format!("version {version}") };
        return Err(format!("it is {found}, expected version 2 or 3, little-endian"));
    }
    let tensor_count = reader.count("the count of tensors", MIN_TENSOR_BYTES)?;
    let entry_count = reader.count("the count of metadata entries", MIN_ENTRY_BYTES)?;

    let mut metadata = BTreeMap::new();
    for i in 0..entry_count {
        let key = reader.string(&format!("the key of metadata entry {i}"))?;
        let what = format!("metadata `{key}`");
        let type_id = reader.u32(&what)?;
        let value = reader.value(type_id, &what)?;
        if metadata.insert(key, value).is_some() {
            return Err(format!("{what} occurs twice"));
        }
    }
    let alignment = alignment(&metadata)?;

    let mut described = Vec::new();
    for i in 0..tensor_count {
        described.push(reader.tensor(i)?);
    }
    let data = reader.at.checked_next_multiple_of(alignment).ok_or("its header overflows")?;
    let tensors = place(described, data, alignment, bytes.len())?;
    Ok((version, metadata, tensors))
}

fn alignment(metadata: &BTreeMap<String, GgufValue>) -> Result<usize, String> {
    let Some(value) = metadata.get(ALIGNMENT) else {
        return Ok(DEFAULT_ALIGNMENT);
    };
    value
        .as_u32()
        .and_then(|alignment| usize::try_from(alignment).ok())
        .filter(|alignment| alignment.is_power_of_two())
        .ok_or_else(|| format!("metadata `{ALIGNMENT}` is {value:?}, not a power of two"))
}

/// A tensor's description as the file gives it: the shape outermost first, the offset relative to
/// the start of the data.
struct Description {
    name: String,
    shape: Vec<usize>,
    type_id: u32,
    offset: u64,
}

/// Finds where in the file each tensor's bytes are, and refuses those that are misplaced.
fn place(
    described: Vec<Description>,
    data: usize,
    alignment: usize,
    file_len: usize,
) -> Result<BTreeMap<String, GgufTensorInfo>, String> {
    let mut tensors = BTreeMap::new();
    let mut extents = Vec::new();
    for Description { name, shape, type_id, offset } in described {
        let out_of_file = || format!("tensor `{name}` reaches beyond the end of the file");
        let offset = usize::try_from(offset).map_err(|_| out_of_file())?;
        if offset % alignment != 0 {
            return Err(format!("tensor `{name}` is at offset {offset}, not a multiple of {alignment}"));
        }
        let start = data.checked_add(offset).filter(|&start| start <= file_len);
        let start = start.ok_or_else(out_of_file)?;
        let stored = match storage_type(type_id) {
            // Its size is unknown, so only reading it is an error: a file may hold tensors that
            // the model does not need.
            None => None,
            Some(dtype) => {
                let len = dtype.bytes_of_shape(&shape).ok_or_else(|| {
                    format!("tensor `{name}` of shape {shape:?} cannot be stored as {dtype}")
                })?;
                let end = start.checked_add(len).filter(|&end| end <= file_len);
                let end = end.ok_or_else(out_of_file)?;
                extents.push((start, end, name.clone()));
                Some((dtype, start..end))
            }
        };
        let duplicate = format!("tensor `{name}` is described twice");
        if tensors.insert(name, GgufTensorInfo { part: 0, shape, type_id, stored }).is_some() {
            return Err(duplicate);
        }
    }
    extents.sort_unstable();
    for pair in extents.windows(2) {
        if let [(_, end, first), (start, _, second)] = pair
            && start < end
        {
            return Err(format!("tensors `{first}` and `{second}` overlap"));
        }
    }
    Ok(tensors)
}

/// A cursor over the header. `what` names the thing being read, for the error.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Reader<'a> {
    fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.at)
    }

    fn take(&mut self, len: usize, what: &str) -> Result<&'a [u8], String> {
        let taken = self.bytes.get(self.at..).and_then(|rest| rest.get(..len));
        let taken = taken.ok_or_else(|| format!("it ends inside {what} (byte {})", self.at))?;
        self.at += len;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N], String> {
        let taken = self.take(N, what)?;
        // `take` returns exactly N bytes.
        taken.try_into().map_err(|_| format!("it ends inside {what}"))
    }

    fn u32(&mut self, what: &str) -> Result<u32, String> {
        self.array(what).map(u32::from_le_bytes)
    }

    fn u64(&mut self, what: &str) -> Result<u64, String> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A count of things that each take at least `min_bytes` of what is left.
    fn count(&mut self, what: &str, min_bytes: usize) -> Result<usize, String> {
        let count = self.u64(what)?;
        usize::try_from(count).ok().filter(|&count| count <= self.remaining() / min_bytes).ok_or_else(|| {
            format!("{what} is {count}, more than the {} bytes left can hold", self.remaining())
        })
    }

    fn string(&mut self, what: &str) -> Result<String, String> {
        let len = self.count(what, 1)?;
        let text = self.take(len, what)?;
        let text = std::str::from_utf8(text).map_err(|_| format!("{what} is not UTF-8"))?;
        Ok(text.to_owned())
    }

    fn value(&mut self, type_id: u32, what: &str) -> Result<GgufValue, String> {
        self.value_at_depth(type_id, what, 0)
    }

    fn value_at_depth(&mut self, type_id: u32, what: &str, depth: usize) -> Result<GgufValue, String> {
        Ok(match type_id {
            0 => GgufValue::U8(u8::from_le_bytes(self.array(what)?)),
            1 => GgufValue::I8(i8::from_le_bytes(self.array(what)?)),
            2 => GgufValue::U16(u16::from_le_bytes(self.array(what)?)),
            3 => GgufValue::I16(i16::from_le_bytes(self.array(what)?)),
            4 => GgufValue::U32(self.u32(what)?),
            5 => GgufValue::I32(i32::from_le_bytes(self.array(what)?)),
            6 => GgufValue::F32(f32::from_le_bytes(self.array(what)?)),
            7 => match self.array(what)? {
                [0] => GgufValue::Bool(false),
                [1] => GgufValue::Bool(true),
                [other] => return Err(format!("{what} is a truth value of {other}")),
            },
            8 => GgufValue::String(self.string(what)?),
            9 => self.array_value(what, depth)?,
            10 => GgufValue::U64(self.u64(what)?),
            11 => GgufValue::I64(i64::from_le_bytes(self.array(what)?)),
            12 => GgufValue::F64(f64::from_le_bytes(self.array(what)?)),
            _ => return Err(format!("{what} is of the unknown type {type_id}")),
        })
    }

    fn array_value(&mut self, what: &str, depth: usize) -> Result<GgufValue, String> {
        if depth == MAX_ARRAY_DEPTH {
            return Err(format!("{what} has arrays in arrays more than {MAX_ARRAY_DEPTH} deep"));
        }
        let type_id = self.u32(what)?;
        let min_bytes = match type_id {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10..=12 => 8,
            9 => 12,
            _ => return Err(format!("{what} is an array of the unknown type {type_id}")),
        };
        let len = self.count(&format!("the length of {what}"), min_bytes)?;
        // The vocabulary's arrays are long, so they are stored flat.
        Ok(match type_id {
            4 => GgufValue::U32s(self.numbers(len, what, u32::from_le_bytes)?),
            5 => GgufValue::I32s(self.numbers(len, what, i32::from_le_bytes)?),
            6 => GgufValue::F32s(self.numbers(len, what, f32::from_le_bytes)?),
            8 => GgufValue::Strings((0..len).map(|_| self.string(what)).collect::<Result<_, _>>()?),
            _ => GgufValue::Array(
                (0..len).map(|_| self.value_at_depth(type_id, what, depth + 1)).collect::<Result<_, _>>()?,
            ),
        })
    }

    fn numbers<T>(
        &mut self,
        len: usize,
        what: &str,
        from_le_bytes: impl Fn([u8; 4]) -> T,
    ) -> Result<Vec<T>, String> {
        // `len * 4` bytes are left: `count` has checked it.
        let (numbers, _) = self.take(len * 4, what)?.as_chunks::<4>();
        Ok(numbers.iter().map(|number| from_le_bytes(*number)).collect())
    }

    fn tensor(&mut self, i: usize) -> Result<Description, String> {
        let name = self.string(&format!("the name of tensor {i}"))?;
        let what = format!("the description of tensor `{name}`");
        let dimensions = self.u32(&what)?;
        if dimensions > MAX_DIMENSIONS {
            return Err(format!(
                "tensor `{name}` has {dimensions} dimensions, at most {MAX_DIMENSIONS} are possible"
            ));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let length = self.u64(&what)?;
            let length = usize::try_from(length).ok().filter(|&length| length > 0);
            shape.push(length.ok_or_else(|| format!("{what} has an impossible dimension"))?);
        }
        shape.reverse();
        let type_id = self.u32(&what)?;
        let offset = self.u64(&what)?;
        Ok(Description { name, shape, type_id, offset })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TINY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/quants/tiny.gguf");

    fn tiny() -> Vec<u8> {
        std::fs::read(TINY).unwrap()
    }

    fn parse(bytes: Vec<u8>) -> Result<GgufFile> {
        GgufFile::parse(bytes.into(), Path::new("tiny.gguf"))
    }

    /// The reason why a file is refused.
    fn refusal(bytes: Vec<u8>) -> String {
        match parse(bytes) {
            Err(Error::InvalidFile { format: "GGUF", reason, .. }) => reason,
            other => panic!("expected an invalid file, got {other:?}"),
        }
    }

    /// Where `needle` ends in the file.
    fn end_of(bytes: &[u8], needle: &[u8]) -> usize {
        bytes.windows(needle.len()).position(|window| window == needle).unwrap() + needle.len()
    }

    /// `tiny` with other bytes at `at`.
    fn patched(at: usize, patch: &[u8]) -> Vec<u8> {
        let mut bytes = tiny();
        bytes[at..at + patch.len()].copy_from_slice(patch);
        bytes
    }

    /// Where the description of a tensor goes on after its name: its count of dimensions.
    fn description_of(name: &str) -> usize {
        let len = u64::try_from(name.len()).unwrap();
        end_of(&tiny(), &[&len.to_le_bytes(), name.as_bytes()].concat())
    }

    #[test]
    fn a_file_of_the_reference_writer_is_read_as_it_was_written() {
        let file = GgufFile::open(TINY).unwrap();
        assert_eq!(file.version(), 3);
        assert_eq!(file.architecture().unwrap(), "llama");
        assert_eq!(file.u32("test.u8").unwrap(), 200);
        assert_eq!(file.meta("test.i8"), Some(&GgufValue::I8(-100)));
        assert_eq!(file.u32("test.u16").unwrap(), 60_000);
        assert_eq!(file.meta("test.i16"), Some(&GgufValue::I16(-30_000)));
        assert_eq!(file.u32("test.u32").unwrap(), 4_000_000_000);
        assert_eq!(file.meta("test.i32"), Some(&GgufValue::I32(-2_000_000_000)));
        assert_eq!(file.meta("test.u64"), Some(&GgufValue::U64(1 << 63)));
        assert_eq!(file.meta("test.i64"), Some(&GgufValue::I64(-(1 << 62))));
        assert_eq!(file.f32("test.f32").unwrap(), 0.1);
        assert_eq!(file.f32("test.f64").unwrap(), 0.1);
        assert!(file.bool("test.bool").unwrap());
        assert_eq!(file.str("test.string").unwrap(), "naïve");
        assert_eq!(file.strings("test.strings").unwrap(), ["", "Ġthe", "▁the"]);
        assert_eq!(file.i32s("test.i32s").unwrap(), [1, -2, 3]);
        assert_eq!(file.f32s("test.f32s").unwrap(), [0.5, -1.5]);
        let bools = vec![GgufValue::Bool(true), GgufValue::Bool(false)];
        assert_eq!(file.meta("test.bools"), Some(&GgufValue::Array(bools)));
        assert_eq!(file.names(), ["cube", "last", "matrix", "unreadable", "vector"]);
        assert_eq!(file.tensor("vector").unwrap().to_f32(), [0.0, 1.0, 2.0, 3.0, 4.0]);
        let cube = file.tensor("cube").unwrap();
        assert_eq!((cube.dtype(), cube.shape()), (StorageType::F16, &[2, 3, 4][..]));
        assert!(cube.to_f32().into_iter().eq((0_u8..24).map(f32::from)));
    }

    #[test]
    fn tensors_have_the_bytes_that_were_written() {
        let golden = std::fs::read(TINY.replace("tiny.gguf", "quants.safetensors")).unwrap();
        let golden = safetensors::SafeTensors::deserialize(&golden).unwrap();
        let file = GgufFile::open(TINY).unwrap();
        for (name, dtype) in [("matrix", StorageType::Q4_1), ("last", StorageType::Q6K)] {
            let tensor = file.tensor(name).unwrap();
            assert_eq!((tensor.dtype(), tensor.shape()), (dtype, &[3, 256][..]));
            assert_eq!(&**tensor.bytes(), golden.tensor(&format!("{dtype}.blocks")).unwrap().data());
        }
    }

    #[test]
    fn a_metadata_value_that_is_missing_or_of_another_type_says_so() {
        let file = GgufFile::open(TINY).unwrap();
        let message = |error: Error| error.to_string();
        let missing = message(file.u32("llama.block_count").unwrap_err());
        assert!(missing.contains("`llama.block_count` is missing"), "{missing}");
        let other = message(file.str("test.f32").unwrap_err());
        assert!(other.contains("`test.f32` is a single-precision number, expected a string"), "{other}");
        for negative_or_large in ["test.i8", "test.i32", "test.u64", "test.bool"] {
            assert!(file.u32(negative_or_large).is_err(), "{negative_or_large}");
        }
    }

    #[test]
    fn a_missing_tensor_names_the_nearest() {
        let error = GgufFile::open(TINY).unwrap().tensor("matrik").unwrap_err().to_string();
        assert!(error.ends_with("has no tensor `matrik`, the nearest is `matrix`"), "{error}");
    }

    #[test]
    fn an_unsupported_type_is_named_when_its_tensor_is_read() {
        let error = GgufFile::open(TINY).unwrap().tensor("unreadable").unwrap_err();
        assert!(
            matches!(&error, Error::UnsupportedQuantisation { tensor, found, .. }
                if tensor == "unreadable" && found == "Q2_K"),
            "{error}"
        );
        // Its type follows the count and the two dimensions.
        let at = description_of("vector") + 4 + 8;
        let file = parse(patched(at, &999_u32.to_le_bytes())).unwrap();
        let error = file.tensor("vector").unwrap_err().to_string();
        assert!(error.contains("tensor `vector` in `tiny.gguf` is stored as ggml type 999"), "{error}");
    }

    #[test]
    fn a_file_cut_off_anywhere_is_refused() {
        let whole = tiny();
        // The last tensor ends the file, but for padding.
        let last = parse(whole.clone()).unwrap().tensor("last").unwrap();
        let padding = whole.len() - end_of(&whole, last.bytes());
        for len in 0..whole.len() - padding {
            refusal(whole[..len].to_vec());
        }
        parse(whole[..whole.len() - padding].to_vec()).unwrap();
    }

    #[test]
    fn no_corrupt_byte_makes_it_panic() {
        let whole = tiny();
        let header = end_of(&whole, b"last") + 32;
        for at in 0..header {
            for value in [0, 1, 9, 0x7f, 0x80, 0xff] {
                if let Ok(file) = parse(patched(at, &[value])) {
                    for name in file.names() {
                        let _ = file.tensor(name).map(|tensor| tensor.to_f32());
                    }
                }
            }
        }
    }

    #[test]
    fn another_magic_or_version_is_refused() {
        assert!(refusal(patched(0, b"GGML")).contains("not with `GGUF`"));
        assert!(refusal(patched(4, &1_u32.to_le_bytes())).contains("version 1"));
        assert!(refusal(patched(4, &4_u32.to_le_bytes())).contains("version 4"));
        assert!(refusal(patched(4, &3_u32.to_be_bytes())).contains("big-endian"));
        assert!(parse(patched(4, &2_u32.to_le_bytes())).is_ok());
    }

    #[test]
    fn counts_that_the_file_cannot_hold_are_refused() {
        let absurd = u64::MAX.to_le_bytes();
        assert!(refusal(patched(8, &absurd)).contains("count of tensors is 18446744073709551615"));
        assert!(refusal(patched(16, &absurd)).contains("count of metadata entries"));
        let strings = end_of(&tiny(), b"test.strings") + 4 + 4;
        assert!(refusal(patched(strings, &absurd)).contains("length of metadata `test.strings`"));
        // As many strings as there are bytes left would each need eight.
        let many = u64::try_from(tiny().len() / 2).unwrap().to_le_bytes();
        assert!(refusal(patched(strings, &many)).contains("length of metadata `test.strings`"));
        let dimensions = description_of("cube");
        assert!(refusal(patched(dimensions, &5_u32.to_le_bytes())).contains("5 dimensions"));
        let huge = (u64::MAX / 2).to_le_bytes();
        assert!(refusal(patched(dimensions + 4, &huge)).contains("`cube`"));
        assert!(refusal(patched(dimensions + 4, &0_u64.to_le_bytes())).contains("`cube`"));
    }

    #[test]
    fn metadata_of_an_unknown_type_is_refused() {
        let at = end_of(&tiny(), b"test.u8");
        assert!(refusal(patched(at, &77_u32.to_le_bytes())).contains("`test.u8` is of the unknown type 77"));
    }

    #[test]
    fn arrays_nested_without_end_are_refused() {
        let mut bytes = [&b"GGUF"[..], &3_u32.to_le_bytes(), &[0; 8], &1_u64.to_le_bytes()].concat();
        bytes.extend(1_u64.to_le_bytes());
        bytes.push(b'k');
        bytes.extend(9_u32.to_le_bytes());
        for _ in 0..100_000 {
            // An array of one array.
            bytes.extend(9_u32.to_le_bytes());
            bytes.extend(1_u64.to_le_bytes());
        }
        assert!(refusal(bytes).contains("arrays in arrays"));
    }

    #[test]
    fn offsets_that_overlap_leave_the_file_or_are_not_aligned_are_refused() {
        let offset = description_of("matrix") + 4 + 2 * 8 + 4;
        let overlapping = refusal(patched(offset, &0_u64.to_le_bytes()));
        assert!(overlapping.contains("`matrix`") && overlapping.contains("overlap"), "{overlapping}");
        for outside in [1 << 20, u64::MAX - 31] {
            let reason = refusal(patched(offset, &outside.to_le_bytes()));
            assert!(reason.contains("`matrix` reaches beyond the end"), "{reason}");
        }
        let unaligned = refusal(patched(offset, &33_u64.to_le_bytes()));
        assert!(unaligned.contains("not a multiple of 32"), "{unaligned}");
    }

    #[test]
    fn a_row_of_part_of_a_block_is_refused() {
        let innermost = description_of("matrix") + 4;
        let reason = refusal(patched(innermost, &200_u64.to_le_bytes()));
        assert!(reason.contains("`matrix` of shape [3, 200] cannot be stored as Q4_1"), "{reason}");
    }

    #[test]
    fn an_empty_file_a_folder_and_a_missing_file_are_refused() {
        assert!(refusal(Vec::new()).contains("it ends inside the magic"));
        let folder = tempfile::tempdir().unwrap();
        for path in [folder.path(), &folder.path().join("missing.gguf")] {
            assert!(matches!(GgufFile::open(path), Err(Error::Io { .. })));
        }
    }
}
