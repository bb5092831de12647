//! The genes of a folder, or the one inside the program, by name.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::SystemTime};

use crate::{
    blueprint::Ancestor,
    error::{Error, Result},
    gene::Learngene,
};

use super::builtin;

/// Folder of the ancestors beside the genes.
pub const ANCESTORS: &str = "ancestors";

/// Genes in memory, in name order.
#[derive(Debug)]
pub struct Registry {
    genes: BTreeMap<String, Arc<Learngene>>,
    ancestors: BTreeMap<String, Ancestor>,
    /// When the file of each gene was changed last.
    modified: BTreeMap<String, SystemTime>,
    default: String,
}

impl Registry {
    /// Loads every `*.safetensors` of `folder`, or the gene inside the program where there is no folder.
    ///
    /// # Errors
    /// [`Error::Io`], those of [`Learngene::open`], and [`Error::NotFound`] where there is no gene or `default` is not
    /// among them.
    pub fn open(folder: Option<&Path>, default: Option<&str>) -> Result<Self> {
        let mut registry = folder.map_or_else(Self::built_in, Self::of_folder)?;
        if let Some(default) = default {
            default.clone_into(&mut registry.default);
        }
        registry.get("")?;
        Ok(registry)
    }

    /// The gene inside the program.
    fn built_in() -> Result<Self> {
        let gene = Learngene::from_file(builtin::file()?, builtin::NAME)?;
        let default = gene.meta().name.clone();
        let modified = BTreeMap::from([(default.clone(), builtin::modified()?)]);
        let genes = BTreeMap::from([(default.clone(), Arc::new(gene))]);
        Ok(Self { genes, ancestors: BTreeMap::new(), modified, default })
    }

    /// The genes of `folder`. A gene that breaks an invariant fails the whole load: a server that silently lacks a gene
    /// is worse than one that does not start. The ancestor of a gene is optional: a file with the gene's name in the
    /// folder [`ANCESTORS`].
    fn of_folder(folder: &Path) -> Result<Self> {
        let (mut genes, mut modified) = (BTreeMap::new(), BTreeMap::new());
        for entry in std::fs::read_dir(folder).map_err(Error::io(folder))? {
            let path = entry.map_err(Error::io(folder))?.path();
            if path.extension().is_some_and(|extension| extension == "safetensors") {
                let gene = Learngene::open(&path)?;
                let time = path.metadata().and_then(|file| file.modified()).map_err(Error::io(&path))?;
                modified.insert(gene.meta().name.clone(), time);
                genes.insert(gene.meta().name.clone(), Arc::new(gene));
            }
        }
        let Some(default) = genes.keys().next().cloned() else {
            return Err(Error::NotFound {
                what: "folder of genes",
                name: folder.display().to_string(),
                known: String::new(),
            });
        };
        let mut ancestors = BTreeMap::new();
        for (name, gene) in &genes {
            let path = folder.join(ANCESTORS).join(format!("{name}.safetensors"));
            if path.is_file() {
                let ancestor = Ancestor::open(&path)?;
                if ancestor.info().labels != gene.meta().labels {
                    let reason = format!("its classes are not those of gene \"{name}\"");
                    return Err(Error::corrupt(path.display().to_string(), reason));
                }
                ancestors.insert(name.clone(), ancestor);
            }
        }
        Ok(Self { genes, ancestors, modified, default })
    }

    /// The gene called `name`; empty: the default one.
    ///
    /// # Errors
    /// [`Error::NotFound`].
    pub fn get(&self, name: &str) -> Result<&Arc<Learngene>> {
        let name = if name.is_empty() { &self.default } else { name };
        self.genes.get(name).ok_or_else(|| Error::NotFound {
            what: "gene",
            // This repeats a client's text; a limit keeps messages short.
            name: name.chars().take(80).collect(),
            known: self.genes.keys().cloned().collect::<Vec<_>>().join(", "),
        })
    }

    /// The ancestor of the gene called `name`, if its file is there.
    pub fn ancestor(&self, name: &str) -> Option<&Ancestor> {
        self.ancestors.get(name)
    }

    /// When the file of the gene called `name` was changed last.
    pub fn modified(&self, name: &str) -> SystemTime {
        self.modified.get(name).copied().unwrap_or(SystemTime::UNIX_EPOCH)
    }

    /// The gene of requests that name none.
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// The genes in name order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Learngene>> {
        self.genes.values()
    }
}
