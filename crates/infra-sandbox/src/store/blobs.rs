//! What files held, by their hashes: `blobs/<hash>` for one or a few that are kept at a time, and `packs/<number>`
//! where many are, since to make a file costs more than to fill it.
//!
//! A pack is what they held, one after another, then a line with hash and length for each, then the length of these
//! lines in eight bytes, the smallest first. It is made aside and renamed into place. Whatever is read is compared
//! with its hash, so that a damaged one is as good as none.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forge_domain::Digest;

use super::lock::no_follow;

const BLOBS: &str = "blobs";
const PACKS: &str = "packs";

/// From so many on, or from so many bytes on, what is kept at a time goes into a pack.
const FEW: usize = 16;
const FEW_BYTES: usize = 1024 * 1024;

/// The last bytes of a pack, which say how long its lines are.
const LENGTH_BYTES: u64 = size_of::<u64>() as u64;

/// Longer lines are not read: more files than a session can have changed.
const MAX_LINES_BYTES: u64 = 1024 * 1024 * 1024;

/// Where what files held is kept.
#[derive(Debug, Clone)]
pub(super) struct Blobs {
    directory: PathBuf,
    /// Read when it is first asked for.
    packed: Arc<Mutex<Option<HashMap<Digest, Place>>>>,
}

/// A place in a pack.
#[derive(Debug, Clone, Copy)]
struct Place {
    pack: u64,
    offset: u64,
    length: u64,
}

impl Blobs {
    /// In a directory that need not be there yet.
    pub(super) fn new(directory: PathBuf) -> Self {
        Self { directory, packed: Arc::default() }
    }

    /// What a file held.
    ///
    /// # Errors
    /// `NotFound`: it is not kept. `FileTooLarge`: it is longer than so many bytes. `InvalidData`: something else
    /// is in its place.
    pub(super) fn contents(&self, digest: Digest, max_bytes: u64) -> io::Result<Vec<u8>> {
        let bytes = match self.place(digest) {
            Some(place) if place.length > max_bytes => return Err(too_large()),
            Some(place) => {
                let pack = open(&self.pack(place.pack))?;
                let mut bytes = vec![0; usize::try_from(place.length).map_err(|_| too_large())?];
                pack.read_exact_at(&mut bytes, place.offset)?;
                bytes
            }
            None => {
                let file = open(&self.blob(digest))?;
                if file.metadata()?.len() > max_bytes {
                    return Err(too_large());
                }
                let mut bytes = Vec::new();
                file.take(max_bytes).read_to_end(&mut bytes)?;
                bytes
            }
        };
        if is_of(&bytes, digest) { Ok(bytes) } else { Err(io::ErrorKind::InvalidData.into()) }
    }

    /// Begins to keep what files hold. What is kept is there when it was finished.
    pub(super) fn keep(&self) -> Keeping<'_> {
        Keeping { blobs: self, few: HashMap::new(), bytes: 0, pack: None }
    }

    fn has(&self, digest: Digest) -> bool {
        self.place(digest).is_some() || self.blob(digest).exists()
    }

    fn place(&self, digest: Digest) -> Option<Place> {
        let mut packed = self.packed();
        let packed = packed.get_or_insert_with(|| self.read_packs());
        packed.get(&digest).copied()
    }

    fn packed(&self) -> MutexGuard<'_, Option<HashMap<Digest, Place>>> {
        self.packed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where everything is. A pack that cannot be read holds nothing.
    fn read_packs(&self) -> HashMap<Digest, Place> {
        let mut all = HashMap::new();
        for pack in self.packs() {
            match self.read_pack(pack) {
                Ok(places) => all.extend(places),
                Err(error) => {
                    let path = self.pack(pack);
                    tracing::warn!(%error, path = %path.display(), "What changed files were cannot be read.");
                }
            }
        }
        all
    }

    fn packs(&self) -> Vec<u64> {
        let Ok(names) = fs::read_dir(self.directory.join(PACKS)) else { return Vec::new() };
        let number = |name: io::Result<fs::DirEntry>| name.ok()?.file_name().to_str()?.parse().ok();
        names.filter_map(number).collect()
    }

    fn read_pack(&self, number: u64) -> io::Result<Vec<(Digest, Place)>> {
        let invalid = || io::Error::from(io::ErrorKind::InvalidData);
        let file = open(&self.pack(number))?;
        let end = file.metadata()?.len().checked_sub(LENGTH_BYTES).ok_or_else(invalid)?;
        let mut length = [0; size_of::<u64>()];
        file.read_exact_at(&mut length, end)?;
        let length = u64::from_le_bytes(length);
        let begin = end.checked_sub(length).filter(|_| length <= MAX_LINES_BYTES);
        let begin = begin.ok_or_else(invalid)?;
        let mut lines = vec![0; usize::try_from(length).map_err(|_| invalid())?];
        file.read_exact_at(&mut lines, begin)?;
        let mut offset = 0;
        let place = |line: &str| {
            let (digest, length) = line.split_once(' ')?;
            let place = Place { pack: number, offset, length: length.parse().ok()? };
            offset = place.offset.checked_add(place.length).filter(|offset| *offset <= begin)?;
            Some((Digest::parse(digest)?, place))
        };
        let lines = std::str::from_utf8(&lines).map_err(|_| invalid())?;
        lines.lines().map(place).collect::<Option<_>>().ok_or_else(invalid)
    }

    fn blob(&self, digest: Digest) -> PathBuf {
        self.directory.join(BLOBS).join(digest.to_string())
    }

    fn pack(&self, number: u64) -> PathBuf {
        self.directory.join(PACKS).join(number.to_string())
    }
}

/// What is being kept. Where it is dropped before it was finished, nothing may be.
#[derive(Debug)]
pub(super) struct Keeping<'a> {
    blobs: &'a Blobs,
    /// As long as these are few.
    few: HashMap<Digest, Vec<u8>>,
    bytes: usize,
    pack: Option<Pack>,
}

/// A pack that is being written.
#[derive(Debug)]
struct Pack {
    number: u64,
    new: PathBuf,
    file: BufWriter<File>,
    places: HashMap<Digest, Place>,
    lines: String,
    offset: u64,
}

impl Keeping<'_> {
    /// Keeps what a file holds, which is read where it is not kept yet, and says whether that is what was hashed.
    /// Where it is not, it is not kept.
    ///
    /// # Errors
    /// It cannot be read or written.
    pub(super) fn keep(
        &mut self,
        digest: Digest,
        read: impl FnOnce() -> io::Result<Vec<u8>>,
    ) -> io::Result<bool> {
        let is_packed = self.pack.as_ref().is_some_and(|pack| pack.places.contains_key(&digest));
        if is_packed || self.few.contains_key(&digest) || self.blobs.has(digest) {
            return Ok(true);
        }
        let bytes = read()?;
        if !is_of(&bytes, digest) {
            return Ok(false);
        }
        if let Some(pack) = &mut self.pack {
            pack.add(digest, &bytes)?;
            return Ok(true);
        }
        self.bytes += bytes.len();
        self.few.insert(digest, bytes);
        if self.few.len() > FEW || self.bytes > FEW_BYTES && self.few.len() > 1 {
            let pack = self.pack.insert(Pack::create(self.blobs)?);
            self.few.drain().try_for_each(|(digest, bytes)| pack.add(digest, &bytes))?;
        }
        Ok(true)
    }

    /// Puts everything in its place.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn finish(self) -> io::Result<()> {
        if let Some(pack) = self.pack {
            return pack.finish(self.blobs);
        }
        if !self.few.is_empty() {
            make_directory(&self.blobs.directory.join(BLOBS))?;
        }
        for (digest, bytes) in &self.few {
            let kept = self.blobs.blob(*digest);
            let new = kept.with_extension("new");
            create(&new)?.write_all(bytes)?;
            fs::rename(new, kept)?;
        }
        Ok(())
    }
}

impl Pack {
    fn create(blobs: &Blobs) -> io::Result<Self> {
        make_directory(&blobs.directory.join(PACKS))?;
        let number = blobs.packs().into_iter().max().map_or(0, |newest| newest.saturating_add(1));
        let new = blobs.pack(number).with_extension("new");
        let file = BufWriter::with_capacity(FEW_BYTES, create(&new)?);
        Ok(Self { number, new, file, places: HashMap::new(), lines: String::new(), offset: 0 })
    }

    fn add(&mut self, digest: Digest, bytes: &[u8]) -> io::Result<()> {
        let length = bytes.len() as u64;
        self.file.write_all(bytes)?;
        // To a string nothing can fail.
        let _written = writeln!(self.lines, "{digest} {length}");
        self.places.insert(digest, Place { pack: self.number, offset: self.offset, length });
        self.offset += length;
        Ok(())
    }

    fn finish(mut self, blobs: &Blobs) -> io::Result<()> {
        self.file.write_all(self.lines.as_bytes())?;
        self.file.write_all(&(self.lines.len() as u64).to_le_bytes())?;
        self.file.flush()?;
        fs::rename(&self.new, blobs.pack(self.number))?;
        let mut packed = blobs.packed();
        packed.get_or_insert_with(|| blobs.read_packs()).extend(self.places);
        Ok(())
    }
}

fn is_of(bytes: &[u8], digest: Digest) -> bool {
    Digest::new(blake3::hash(bytes).into()) == digest
}

fn too_large() -> io::Error {
    io::ErrorKind::FileTooLarge.into()
}

fn open(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(no_follow()).open(path)
}

/// Makes a file that only its owner can use, or empties it.
pub(super) fn create(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(no_follow());
    options.open(path)
}

fn make_directory(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use pretty_assertions::assert_eq;

    use super::*;

    fn text(number: usize) -> Vec<u8> {
        format!("the file with the number {number}\n").into_bytes()
    }

    fn digest_of(bytes: &[u8]) -> Digest {
        Digest::new(blake3::hash(bytes).into())
    }

    fn keep_all(blobs: &Blobs, numbers: std::ops::Range<usize>) {
        let mut keeping = blobs.keep();
        for number in numbers {
            assert!(keeping.keep(digest_of(&text(number)), || Ok(text(number))).unwrap());
        }
        keeping.finish().unwrap();
    }

    fn files_in(directory: &Path) -> usize {
        fs::read_dir(directory).map_or(0, Iterator::count)
    }

    #[test]
    fn few_are_files_of_their_own_and_many_are_one() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(directory.path().to_path_buf());
        keep_all(&blobs, 0..3);
        assert_eq!(files_in(&directory.path().join(BLOBS)), 3);
        keep_all(&blobs, 0..1000);
        keep_all(&blobs, 500..2000);
        keep_all(&blobs, 0..2000);
        assert_eq!(files_in(&directory.path().join(BLOBS)), 3);
        assert_eq!(files_in(&directory.path().join(PACKS)), 2);
        for blobs in [blobs, Blobs::new(directory.path().to_path_buf())] {
            for number in 0..2000 {
                let text = text(number);
                assert_eq!(blobs.contents(digest_of(&text), 1000).unwrap(), text);
                let error = blobs.contents(digest_of(&text), 5).unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
            }
            let error = blobs.contents(digest_of(b"another"), 1000).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::NotFound);
        }
    }

    #[test]
    fn what_is_not_what_was_hashed_is_not_kept() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(directory.path().to_path_buf());
        let mut keeping = blobs.keep();
        for number in 0..100 {
            assert!(!keeping.keep(digest_of(&text(number)), || Ok(text(number + 1))).unwrap());
        }
        keeping.finish().unwrap();
        assert!(blobs.contents(digest_of(&text(1)), 1000).is_err());
    }

    #[test]
    fn what_was_not_finished_is_as_if_it_had_not_begun() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(directory.path().to_path_buf());
        let mut keeping = blobs.keep();
        for number in 0..100 {
            assert!(keeping.keep(digest_of(&text(number)), || Ok(text(number))).unwrap());
        }
        drop(keeping);
        assert_eq!(files_in(&directory.path().join(PACKS)), 1);
        let again = Blobs::new(directory.path().to_path_buf());
        assert!(again.contents(digest_of(&text(1)), 1000).is_err());
        keep_all(&again, 0..100);
        assert_eq!(files_in(&directory.path().join(PACKS)), 1);
        assert_eq!(again.contents(digest_of(&text(1)), 1000).unwrap(), text(1));
    }

    /// Each byte of a pack in turn is another: what is read is right all the same, or is said not to be there.
    #[test]
    fn a_damaged_pack_gives_nothing_that_is_wrong() {
        let directory = tempfile::tempdir().unwrap();
        let blobs = Blobs::new(directory.path().to_path_buf());
        keep_all(&blobs, 0..20);
        let pack = blobs.pack(0);
        let whole = fs::read(&pack).unwrap();
        let right = |blobs: &Blobs| {
            let read = (0..20).map(|number| blobs.contents(digest_of(&text(number)), 1000));
            let read = read.zip(0..).filter_map(|(read, number)| Some((read.ok()?, number)));
            read.map(|(read, number)| assert_eq!(read, text(number))).count()
        };
        assert_eq!(right(&Blobs::new(directory.path().to_path_buf())), 20);
        for place in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[place] ^= 0x10;
            fs::write(&pack, &damaged).unwrap();
            assert!(right(&Blobs::new(directory.path().to_path_buf())) < 20);
        }
        for length in 0..whole.len() {
            fs::write(&pack, &whole[..length]).unwrap();
            assert!(right(&Blobs::new(directory.path().to_path_buf())) < 20);
        }
    }
}
