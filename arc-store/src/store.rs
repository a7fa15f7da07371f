//! An open store.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt as _;
use uuid::Uuid;

use crate::codebooks;
use crate::document::{DocumentSummary, StoredDocument};
use crate::latent_code::{Coder, LatentCode};
use crate::manifest::{
    CODEBOOKS, CodebooksFile, MANIFESTS, Manifest, Retired, Segment, Settings, version_of,
};
use crate::nearest::Vectors;
use crate::place::Place;
use crate::quantiser::Quantiser;
use crate::segment::{Found, OpenSegment};
use crate::{Error, Result};

/// Segments whose footers and filters are kept in memory, the least recently used let go.
const OPEN_SEGMENTS: usize = 256;

/// How often a commit is tried again after another writer's. Each round some writer gets through, so that
/// eight writers need eight rounds if the worst comes to the worst; this many mean that something is wrong.
const ATTEMPTS: u32 = 200;

/// Commits between two sweeps of old manifests.
const SWEEP_EVERY: u64 = 64;

/// How long a manifest is kept after newer ones. A writer that is slower than this between reading the
/// newest manifest and writing the next could otherwise write a number that was used and swept.
const KEEP_MANIFESTS: Duration = Duration::from_secs(3600);

/// A store of compressed documents. It may be shared between threads; other processes may write to it.
///
/// A store shows one commit, the one that it was opened at or refreshed to, and its own later ones.
pub struct Store {
    pub(crate) place: Place,
    manifest: RwLock<Arc<Manifest>>,
    open: Mutex<OpenSegments>,
    quantisers: Mutex<BTreeMap<String, Arc<Quantiser>>>,
    pub(crate) vectors: Mutex<Option<Arc<Vectors>>>,
}

#[derive(Default)]
struct OpenSegments {
    by_file: HashMap<String, Arc<OpenSegment>>,
    /// Least recently used first.
    order: VecDeque<String>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let version = self.manifest().version;
        f.debug_struct("Store").field("place", &self.place).field("version", &version).finish_non_exhaustive()
    }
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store {
    /// Makes a store.
    ///
    /// # Errors
    ///
    /// [`Error::Exists`] if there is one; [`Error::InvalidArgument`] for settings that no store can have;
    /// what the place refuses.
    pub fn init(place: Place, settings: Settings) -> Result<Self> {
        if settings.d_encoder == 0 || settings.encoder_id.is_empty() {
            return Err(Error::InvalidArgument(
                "a store needs an encoder and the width of its latents".into(),
            ));
        }
        if settings.latents == LatentCode::Pq {
            return Err(Error::InvalidArgument(
                "a new store has no codebooks: latents are `f16` or `f32` until they are trained".into(),
            ));
        }
        match Manifest::latest(&place) {
            Ok(_) => return Err(Error::Exists { place: place.to_string() }),
            Err(Error::NoStore { .. }) => {}
            Err(error) => return Err(error),
        }
        let manifest = Manifest::first(Uuid::new_v4().to_string(), settings);
        if !place.create(&Manifest::file(manifest.version), manifest.to_json().into())? {
            return Err(Error::Exists { place: place.to_string() });
        }
        Ok(Self::at(place, manifest))
    }

    /// Opens a store at its newest commit.
    ///
    /// # Errors
    ///
    /// [`Error::NoStore`] if there is none; [`Error::Damaged`] or [`Error::UnsupportedSchema`] for a
    /// manifest that cannot be read; what the place refuses.
    pub fn open(place: Place) -> Result<Self> {
        let manifest = Manifest::latest(&place)?;
        Ok(Self::at(place, manifest))
    }

    fn at(place: Place, manifest: Manifest) -> Self {
        Self {
            place,
            manifest: RwLock::new(Arc::new(manifest)),
            open: Mutex::default(),
            quantisers: Mutex::default(),
            vectors: Mutex::default(),
        }
    }

    /// Where it lies.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The commit that it shows.
    #[must_use]
    pub fn manifest(&self) -> Arc<Manifest> {
        Arc::clone(&self.manifest.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Goes on to the newest commit.
    ///
    /// # Errors
    ///
    /// As [`Store::open`].
    pub fn refresh(&self) -> Result<()> {
        let latest = Manifest::latest(&self.place)?;
        let here = self.manifest();
        if latest.store_id != here.store_id {
            return Err(Error::Moved { place: self.place.to_string() });
        }
        self.show(latest);
        Ok(())
    }

    fn show(&self, manifest: Manifest) {
        let mut shown = self.manifest.write().unwrap_or_else(PoisonError::into_inner);
        if manifest.version > shown.version {
            *shown = Arc::new(manifest);
        }
    }

    /// Refuses another encoder's latents.
    ///
    /// # Errors
    ///
    /// [`Error::OtherEncoder`].
    pub fn check_encoder(&self, encoder_id: &str) -> Result<()> {
        let expected = self.manifest().settings.encoder_id.clone();
        if expected == encoder_id {
            return Ok(());
        }
        Err(Error::OtherEncoder { place: self.place.to_string(), expected, found: encoder_id.to_owned() })
    }

    /// A document with its latents, by its id.
    ///
    /// # Errors
    ///
    /// [`Error::NoDocument`]; [`Error::Damaged`] if it cannot be read as it was written.
    pub fn get(&self, id: &str) -> Result<StoredDocument> {
        let read = || {
            let manifest = self.manifest();
            let Some((segment, found)) = self.find_in(&manifest, id)? else {
                return Err(Error::NoDocument { id: id.to_owned() });
            };
            let open = self.open_segment(segment)?;
            self.with_coder(segment, |coder| open.read(&found, coder, manifest.settings.d_encoder))
        };
        self.again_if_moved(read)
    }

    /// Whether a document can be read from the store with that text, by its sha256, at that factor: if not,
    /// it may be added.
    ///
    /// # Errors
    ///
    /// What the place refuses.
    pub fn holds(&self, id: &str, sha256: &str, factor: u32) -> Result<bool> {
        let found = self.again_if_moved(|| {
            let manifest = self.manifest();
            let found = self.find_in(&manifest, id)?;
            Ok(found.is_some_and(|(_, found)| found.sha256 == sha256 && found.factor == factor))
        });
        match found {
            Err(error) if error.is_lost() => Ok(false),
            found => found,
        }
    }

    /// Whether a document is in the store.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] where that cannot be told.
    pub fn contains(&self, id: &str) -> Result<bool> {
        self.again_if_moved(|| Ok(self.find_in(&self.manifest(), id)?.is_some()))
    }

    /// The id of some document whose text has that sha256, at that factor: its latents are those of the text
    /// wherever else it stands.
    ///
    /// # Errors
    ///
    /// What the place refuses.
    pub fn find_text(&self, sha256: &str, factor: u32) -> Result<Option<String>> {
        self.again_if_moved(|| {
            Ok(self.find_text_in(&self.manifest(), sha256, factor)?.map(|(_, found)| found.id))
        })
    }

    /// The documents of the store, segment by segment; a segment that cannot be read is an error, and the
    /// others follow. Memory holds one segment's at a time.
    pub fn documents(&self) -> impl Iterator<Item = Result<DocumentSummary>> + '_ {
        let manifest = self.manifest();
        (0..manifest.segments.len()).flat_map(move |index| {
            let segment = &manifest.segments[index];
            let summaries = self.open_segment(segment).and_then(|open| open.summaries(&segment.removed));
            match summaries {
                Ok(summaries) => summaries.into_iter().map(Ok).collect(),
                Err(error) => vec![Err(error)],
            }
        })
    }

    /// Takes documents out of the store. Their rows go with the next compaction.
    ///
    /// # Errors
    ///
    /// [`Error::NoDocument`] for the first id that is not there, and then none is taken out; what the
    /// place refuses.
    pub fn remove(&self, ids: &[String]) -> Result<()> {
        self.commit("remove", |next, base| {
            for id in ids {
                let Some((segment, _)) = self.find_in(base, id)? else {
                    return Err(Error::NoDocument { id: id.clone() });
                };
                take_out(next, &segment.file, id);
            }
            Ok(true)
        })?;
        Ok(())
    }

    /// Commits a change of the newest manifest; `change` makes the next one of it, and may be called again
    /// where another writer commits first. It returns `false` where there is nothing left to commit.
    pub(crate) fn commit(
        &self,
        operation: &str,
        mut change: impl FnMut(&mut Manifest, &Manifest) -> Result<bool>,
    ) -> Result<Arc<Manifest>> {
        for attempt in 0..ATTEMPTS {
            self.refresh()?;
            let base = self.manifest();
            let mut next = base.next(operation);
            if !change(&mut next, &base)? {
                return Ok(base);
            }
            // What nobody needs any more stays for readers of earlier commits.
            let empty = next.segments.extract_if(.., |segment| segment.live_documents() == 0);
            let was_there = |file: &String| base.segments.iter().any(|segment| segment.file == *file);
            let retired_unix_ms = next.committed_unix_ms;
            let retired = empty.map(|segment| segment.file).filter(was_there);
            next.retired.extend(retired.map(|file| Retired { file, retired_unix_ms }));
            let file = Manifest::file(next.version);
            // A place may have written it, lost the answer, and found it there when it tried again.
            if self.place.create(&file, next.to_json().into())? || self.is_ours(&file, &next) {
                if next.version.is_multiple_of(SWEEP_EVERY) {
                    self.sweep_manifests(next.version, KEEP_MANIFESTS);
                }
                self.show(next);
                return Ok(self.manifest());
            }
            // Not all at once again: the more others there are, the longer.
            let most = 10 * u64::from(attempt.min(20) + 1);
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(0..=most)));
        }
        Err(Error::Contended { place: self.place.to_string(), attempts: ATTEMPTS })
    }

    fn is_ours(&self, file: &str, manifest: &Manifest) -> bool {
        let written = self.place.read(file).and_then(|json| Manifest::parse(&json, file));
        written.is_ok_and(|written| written.commit_id == manifest.commit_id)
    }

    /// Deletes manifests before the last one that are older than `age`; returns how many. Failing does no
    /// harm: they are swept another time.
    pub(crate) fn sweep_manifests(&self, newest: u64, age: Duration) -> u64 {
        let Ok(listed) = self.place.list(MANIFESTS) else { return 0 };
        let old = listed.into_iter().filter(|listed| {
            version_of(&listed.name).is_some_and(|version| version < newest)
                && listed.modified.elapsed().is_ok_and(|since| since > age)
        });
        old.filter(|listed| self.place.delete(&listed.name).is_ok()).count() as u64
    }

    /// The segment that holds a document, and where in it. A segment that is lost is an error only where no
    /// other has the document.
    pub(crate) fn find_in<'a>(
        &self,
        manifest: &'a Manifest,
        id: &str,
    ) -> Result<Option<(&'a Segment, Found)>> {
        let mut lost = None;
        for segment in manifest.segments.iter().rev() {
            if !segment.spans(id) || segment.removed.contains(id) {
                continue;
            }
            match self.open_segment(segment).and_then(|open| open.find(id)) {
                Ok(Some(found)) => return Ok(Some((segment, found))),
                Ok(None) => {}
                Err(error) if error.is_lost() => lost = Some(error),
                Err(error) => return Err(error),
            }
        }
        lost.map_or(Ok(None), Err)
    }

    /// A document by the hash of its text, of the segments that can be read.
    pub(crate) fn find_text_in<'a>(
        &self,
        manifest: &'a Manifest,
        sha256: &str,
        factor: u32,
    ) -> Result<Option<(&'a Segment, Found)>> {
        for segment in manifest.segments.iter().rev() {
            let found = match self.open_segment(segment).and_then(|open| open.find_sha256(sha256)) {
                Err(error) if error.is_lost() => continue,
                found => found?,
            };
            let live = |found: &Found| found.factor == factor && !segment.removed.contains(&found.id);
            if let Some(found) = found.into_iter().find(live) {
                return Ok(Some((segment, found)));
            }
        }
        Ok(None)
    }

    /// A segment with its footer and filters.
    pub(crate) fn open_segment(&self, segment: &Segment) -> Result<Arc<OpenSegment>> {
        {
            let mut open = lock(&self.open);
            if let Some(found) = open.by_file.get(&segment.file).cloned() {
                if open.by_file.len() > OPEN_SEGMENTS / 2 {
                    open.order.retain(|file| *file != segment.file);
                    open.order.push_back(segment.file.clone());
                }
                return Ok(found);
            }
        }
        // Read outside the lock: threads that read other segments go on.
        let opened = Arc::new(OpenSegment::open(&self.place, segment)?);
        let mut open = lock(&self.open);
        if open.by_file.insert(segment.file.clone(), Arc::clone(&opened)).is_none() {
            open.order.push_back(segment.file.clone());
        }
        while open.order.len() > OPEN_SEGMENTS {
            if let Some(oldest) = open.order.pop_front() {
                open.by_file.remove(&oldest);
            }
        }
        Ok(opened)
    }

    /// The quantiser of a file of codebooks.
    pub(crate) fn quantiser(&self, file: &str) -> Result<Arc<Quantiser>> {
        if let Some(quantiser) = lock(&self.quantisers).get(file) {
            return Ok(Arc::clone(quantiser));
        }
        let quantiser = codebooks::read(self.place.read(file)?, self.manifest().settings.d_encoder);
        let quantiser = quantiser
            .map_err(|reason| Error::Damaged { file: self.place.full_name(file), reason })
            .map(Arc::new)?;
        lock(&self.quantisers).insert(file.to_owned(), Arc::clone(&quantiser));
        Ok(quantiser)
    }

    /// Does something with the code that a segment's latents are in.
    pub(crate) fn with_coder<T>(
        &self,
        segment: &Segment,
        work: impl FnOnce(Coder) -> Result<T>,
    ) -> Result<T> {
        match (segment.latents, &segment.codebooks) {
            (LatentCode::F32, _) => work(Coder::F32),
            (LatentCode::F16, _) => work(Coder::F16),
            (LatentCode::Pq, Some(file)) => work(Coder::Pq(&*self.quantiser(file)?)),
            (LatentCode::Pq, None) => Err(Error::Damaged {
                file: self.place.full_name(&segment.file),
                reason: "its manifest names no codebooks for its codes".into(),
            }),
        }
    }

    /// Stores trained codebooks: what is added from now on is written by them, and a compaction rewrites
    /// what is there.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] for a quantiser of another width; what the place refuses.
    pub fn set_codebooks(&self, quantiser: &Quantiser) -> Result<()> {
        let d = self.manifest().settings.d_encoder;
        if quantiser.width() != d {
            return Err(Error::InvalidArgument(format!(
                "the codebooks are for latents of width {}, the store's have {d}",
                quantiser.width()
            )));
        }
        let bytes = codebooks::write(quantiser).map_err(|error| Error::InvalidArgument(error.to_string()))?;
        let file = format!("{CODEBOOKS}/{}.parquet", Uuid::new_v4());
        let sha256 = sha256_hex(&bytes);
        self.place.write(&file, bytes)?;
        self.commit("train-codes", |next, _| {
            next.settings.latents = LatentCode::Pq;
            next.codebooks = Some(CodebooksFile { file: file.clone(), sha256: sha256.clone() });
            Ok(true)
        })?;
        Ok(())
    }

    /// Reads again at the newest commit where a file has gone: a compaction replaced it.
    pub(crate) fn again_if_moved<T>(&self, read: impl Fn() -> Result<T>) -> Result<T> {
        let version = self.manifest().version;
        match read() {
            Err(error) if error.is_not_found() => {
                self.refresh()?;
                if self.manifest().version == version { Err(error) } else { read() }
            }
            other => other,
        }
    }
}

/// The sha256 of bytes, hexadecimal.
pub(crate) fn sha256_hex(bytes: &Bytes) -> String {
    use sha2::Digest as _;
    crate::segment::hex(&sha2::Sha256::digest(bytes))
}

/// Marks a document of a segment as removed.
pub(crate) fn take_out(manifest: &mut Manifest, file: &str, id: &str) {
    if let Some(segment) = manifest.segments.iter_mut().find(|segment| segment.file == file) {
        segment.removed.insert(id.to_owned());
    }
}
