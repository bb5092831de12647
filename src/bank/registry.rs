//! The genes of a folder, or the one inside the program, by name.
//!
//! At the start only the headers are read, so that a folder may hold many genes. The weights of a gene are read and
//! checked once, when it is first asked for, and stay in memory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, TryLockError},
    time::SystemTime,
};

use crate::{
    blueprint::{Ancestor, ModelInfo},
    digest::Digest,
    error::{Error, Kind, Result},
    file,
    gene::{GeneMeta, Learngene, Method, learngene::GeneHeader},
    tensor::codec::MAX_FILE_BYTES,
};

use super::{GeneSummary, builtin};

/// Folder of the ancestors beside the genes.
pub const ANCESTORS: &str = "ancestors";

/// The genes of a folder, in name order.
#[derive(Debug)]
pub struct Registry {
    genes: BTreeMap<String, GeneFile>,
    default: String,
}

impl Registry {
    /// Reads the headers of every `*.safetensors` of `folder`, or the gene inside the program where there is no folder.
    ///
    /// # Errors
    /// [`Error::Io`], those of [`GeneHeader::open`], and [`Error::NotFound`] where there is no gene or `default` is not
    /// among them.
    pub fn open(folder: Option<&Path>, default: Option<&str>) -> Result<Self> {
        let mut registry = folder.map_or_else(Self::built_in, Self::of_folder)?;
        if let Some(default) = default {
            default.clone_into(&mut registry.default);
        }
        registry.find("")?;
        Ok(registry)
    }

    fn built_in() -> Result<Self> {
        let gene = GeneFile::built_in()?;
        let default = gene.meta().name.clone();
        Ok(Self { genes: BTreeMap::from([(default.clone(), gene)]), default })
    }

    /// The genes of `folder`. A header that breaks an invariant fails the whole: a server that silently lacks a gene is
    /// worse than one that does not start. The ancestor of a gene is optional: a file with the gene's name in the folder
    /// [`ANCESTORS`].
    fn of_folder(folder: &Path) -> Result<Self> {
        let mut genes = BTreeMap::new();
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let Some(gene) = GeneFile::open(folder, &path)? else {
                    tracing::warn!(
                        "{} is skipped: another library wrote it, so it is no gene",
                        path.display()
                    );
                    continue;
                };
                genes.insert(gene.meta().name.clone(), gene);
            }
        }
        let Some(default) = genes.keys().next().cloned() else {
            return Err(Error::NotFound {
                what: "folder of genes",
                name: folder.display().to_string(),
                known: String::new(),
            });
        };
        Ok(Self { genes, default })
    }

    /// The file of the gene called `name`; empty: the default one.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn find(&self, name: &str) -> Result<&GeneFile> {
        let name = if name.is_empty() { &self.default } else { name };
        self.genes.get(name).ok_or_else(|| Error::NotFound {
            what: "gene",
            // This repeats a client's text; a limit keeps messages short.
            name: name.chars().take(80).collect(),
            known: self.genes.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// The gene called `name`; empty: the default one. It may have to be read.
    ///
    /// # Errors
    /// [`Error::NotFound`], and those of [`GeneFile::gene`].
    pub fn get(&self, name: &str) -> Result<Arc<Learngene>> {
        self.find(name)?.gene()
    }

    /// The description of the gene called `name`; empty: the default one. Its digest may have to be computed.
    ///
    /// # Errors
    /// [`Error::NotFound`], and those of [`GeneFile::digest`].
    pub fn summary(&self, name: &str) -> Result<GeneSummary> {
        let gene = self.find(name)?;
        let meta = gene.meta();
        Ok(GeneSummary::new(meta, gene.digest()?, gene.header.size_bytes, meta.name == self.default))
    }

    /// When the file of the gene called `name` was changed last.
    pub fn modified(&self, name: &str) -> SystemTime {
        self.genes.get(name).map_or(SystemTime::UNIX_EPOCH, |gene| gene.modified)
    }

    /// The gene of requests that name none.
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// The records of the genes in name order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &GeneMeta> {
        self.genes.values().map(GeneFile::meta)
    }
}

/// A gene in its file, and its ancestor, if it has one.
#[derive(Debug)]
pub struct GeneFile {
    header: GeneHeader,
    place: Place,
    modified: SystemTime,
    gene: Once<Arc<Learngene>>,
    digest: Once<String>,
    ancestor: Option<(Content, Once<Ancestor>)>,
}

impl GeneFile {
    fn built_in() -> Result<Self> {
        let header = GeneHeader::of(&builtin::file()?, builtin::NAME)?;
        Ok(Self::new(header, Place::Program, builtin::modified()?, None))
    }

    /// The gene at `path`; None for a file of another library.
    fn open(folder: &Path, path: &Path) -> Result<Option<Self>> {
        let Some(header) = GeneHeader::open(path)? else { return Ok(None) };
        let ancestor = folder.join(ANCESTORS).join(format!("{}.safetensors", header.meta.name));
        let ancestor = ancestor.try_exists().map_err(Error::io(&ancestor))?.then_some(ancestor);
        if let Some(path) = &ancestor
            && ModelInfo::open(path)?.labels != header.meta.labels
        {
            let reason = format!("its classes are not those of gene \"{}\"", header.meta.name);
            return Err(Error::corrupt(path.display().to_string(), reason));
        }
        let ancestor = ancestor.map(Content::of).transpose()?.map(|content| (content, Once::default()));
        let content = Content::of(path.to_owned())?;
        let modified = content.modified.unwrap_or(SystemTime::UNIX_EPOCH);
        Ok(Some(Self::new(header, Place::Folder(content), modified, ancestor)))
    }

    fn new(
        header: GeneHeader,
        place: Place,
        modified: SystemTime,
        ancestor: Option<(Content, Once<Ancestor>)>,
    ) -> Self {
        Self { header, place, modified, gene: Once::default(), digest: Once::default(), ancestor }
    }

    /// The gene's record.
    pub const fn meta(&self) -> &GeneMeta {
        &self.header.meta
    }

    /// The gene, if it was read before.
    fn known(&self) -> Option<Arc<Learngene>> {
        self.gene.known()
    }

    /// The gene. It is read and checked by whoever asks first; others wait.
    ///
    /// # Errors
    /// Those of [`Learngene::open`]; [`Error::Corrupt`] if the file has changed since its header was read.
    pub fn gene(&self) -> Result<Arc<Learngene>> {
        self.gene.get(|| self.place.gene().map(Arc::new))
    }

    /// Whether everything that `method` needs is in memory: the gene, and its ancestor, if it has one.
    pub fn is_read(&self, method: Method) -> bool {
        let ancestor = self.ancestor.as_ref().filter(|_| method.selects());
        let ready = |ancestor: Ancestor| method != Method::Importance || ancestor.is_ordered();
        self.gene.known().is_some()
            && ancestor.is_none_or(|(_, ancestor)| ancestor.known().is_some_and(ready))
    }

    /// Whether [`GeneFile::digest`] is at hand.
    pub fn is_digested(&self) -> bool {
        self.gene.known().is_some() || self.digest.known().is_some()
    }

    /// SHA-256 of the file, hex. It is computed once, without keeping the file in memory.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Corrupt`] if the file has changed since its header was read.
    pub fn digest(&self) -> Result<String> {
        if let Some(gene) = self.known() {
            return Ok(gene.digest().to_owned());
        }
        self.digest.get(|| self.place.digest().map(|digest| digest.to_string()))
    }

    /// Its ancestor, if there is one. It is read and checked as the gene is.
    ///
    /// # Errors
    /// Those of [`Ancestor::open`]; [`Error::Corrupt`] if the file has changed since its header was read.
    pub fn ancestor(&self) -> Result<Option<Ancestor>> {
        let Some((content, ancestor)) = &self.ancestor else { return Ok(None) };
        ancestor.get(|| content.read(Ancestor::open)).map(Some)
    }
}

/// Where a gene is.
#[derive(Debug)]
enum Place {
    Program,
    Folder(Content),
}

impl Place {
    fn gene(&self) -> Result<Learngene> {
        match self {
            Self::Program => Learngene::from_file(builtin::file()?, builtin::NAME),
            Self::Folder(content) => content.read(Learngene::open),
        }
    }

    fn digest(&self) -> Result<Digest> {
        match self {
            Self::Program => Ok(Digest::of(builtin::file()?.bytes())),
            Self::Folder(content) => content.read(|path| {
                let (file, _) = file::open(path, MAX_FILE_BYTES)?;
                Digest::of_reader(file).map_err(Error::io(path))
            }),
        }
    }
}

/// A file by what tells its content from another without reading it.
#[derive(Debug)]
struct Content {
    path: PathBuf,
    size: u64,
    modified: Option<SystemTime>,
}

impl Content {
    fn of(path: PathBuf) -> Result<Self> {
        let metadata = std::fs::metadata(&path).map_err(Error::io(&path))?;
        Ok(Self { size: metadata.len(), modified: metadata.modified().ok(), path })
    }

    /// What `read` makes of the file, which must not have changed since its header was read.
    fn read<T>(&self, read: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let value = read(&self.path)?;
        let now = Self::of(self.path.clone())?;
        if (now.size, now.modified) == (self.size, self.modified) {
            return Ok(value);
        }
        let reason = "it has changed since this program read its header; start the program again";
        Err(Error::corrupt(self.path.display().to_string(), reason))
    }
}

/// A value that is made when it is first asked for. That the file is damaged is remembered too; that it could not be
/// read is not.
#[derive(Debug)]
struct Once<T>(Mutex<Option<Result<T, Arc<Error>>>>);

impl<T> Default for Once<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: Clone> Once<T> {
    fn get(&self, make: impl FnOnce() -> Result<T>) -> Result<T> {
        let mut made = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = &*made {
            return Ok(made.clone()?);
        }
        match make() {
            Err(error) if error.kind() != Kind::DataLoss => Err(error),
            outcome => Ok(made.insert(outcome.map_err(Arc::new)).clone()?),
        }
    }

    /// The value, if it was made before.
    fn known(&self) -> Option<T> {
        let made = match self.0.try_lock() {
            Ok(made) => made,
            Err(TryLockError::Poisoned(made)) => made.into_inner(),
            // It is being made.
            Err(TryLockError::WouldBlock) => return None,
        };
        made.as_ref()?.as_ref().ok().cloned()
    }
}
