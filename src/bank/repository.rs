//! Models as repositories of the Hub protocol: their names, revisions and files.
//!
//! `genebank/{gene}-d{depth}-w{width}[-hf][-{dtype}]`: a repository is a request. There is one for
//! every size, and none is stored. `genebank/{gene}` is another name of the one of the trained size.

use std::{collections::BTreeMap, fmt, time::SystemTime};

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::{
    blueprint::{Entry, model::data_name},
    error::{Error, Kind, Result},
    export::{Layout, card::Card, sentences, task::Task},
    gene::{GeneMeta, SizeRequest},
    nn::Role,
    tensor::Dtype,
    train::{Length, finetune},
};

use super::{Admitted, Bank, Guard, ModelRequest, Quote, size_name};

/// Owner of every repository.
pub const OWNER: &str = "genebank";
/// Path of the weights in a repository.
pub const WEIGHTS: &str = "model.safetensors";
/// The branch.
pub const BRANCH: &str = "main";

/// Hex digits of a commit.
const COMMIT_DIGITS: usize = 40;
/// Hex digits of a tag.
const TAG_DIGITS: usize = 12;
/// Ending of the name of a repository in transformers' layout.
const TRANSFORMERS_ENDING: &str = "-hf";
/// The form of a name, as errors show it.
const FORM: &str = "{gene}[-d{depth}-w{width}[-hf][-f16|-bf16]]";

/// The name of a repository without its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryName {
    /// Name of the gene.
    pub gene: String,
    /// Transformer blocks.
    pub depth: u64,
    /// Embedding dimension.
    pub width: u64,
    /// How tensors are laid out.
    pub layout: Layout,
    /// Element type of the file.
    pub dtype: Dtype,
}

impl RepositoryName {
    /// Reads `owner` and `name`. The name is read from the right, because a gene's name may hold anything but a size.
    ///
    /// # Errors
    /// [`Error::NoRepository`] for another owner or form. A model has one name: numbers have no leading zero, and f32
    /// is not written.
    pub fn parse(owner: &str, name: &str) -> Result<Self> {
        if owner != OWNER {
            return Err(unknown(owner, name, format!("the owner of every repository is \"{OWNER}\"")));
        }
        Self::read(name).ok_or_else(|| unknown(owner, name, format!("names have the form {FORM}")))
    }

    /// The model that was trained, of the gene with this record.
    pub(super) fn trained(meta: &GeneMeta) -> Self {
        Self {
            gene: meta.name.clone(),
            depth: meta.config.depth() as u64,
            width: meta.config.width() as u64,
            layout: Layout::Timm,
            dtype: Dtype::F32,
        }
    }

    fn read(name: &str) -> Option<Self> {
        let shortened = [Dtype::F16, Dtype::Bf16]
            .into_iter()
            .find_map(|dtype| Some((name.strip_suffix(&dtype.to_string())?.strip_suffix('-')?, dtype)));
        let (rest, dtype) = shortened.unwrap_or((name, Dtype::F32));
        let (rest, layout) = rest
            .strip_suffix(TRANSFORMERS_ENDING)
            .map_or((rest, Layout::Timm), |rest| (rest, Layout::Transformers));
        let at = rest.rfind("-d")?;
        let (depth, width) = size_name::parse(&rest[at + 1..])?;
        Some(Self { gene: rest[..at].to_owned(), depth, width, layout, dtype })
    }
}

impl RepositoryName {
    /// Admits a caller to the gene of the repository.
    ///
    /// # Errors
    /// [`Error::NoRepository`] where the name has no gene; those of [`Guard::admit`].
    pub fn admit<'a>(&'a self, guard: Guard<'a>) -> Result<Admitted<'a>> {
        // An empty name would mean the default gene.
        if self.gene.is_empty() {
            return Err(self.unknown(&Error::invalid("gene", "its name is empty")));
        }
        guard.admit(&self.gene)
    }

    fn unknown(&self, reason: &Error) -> Error {
        unknown(OWNER, &self.to_string(), reason.to_string())
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { gene, depth, width, layout, dtype } = self;
        write!(f, "{gene}-d{depth}-w{width}")?;
        match layout {
            Layout::Timm => {}
            Layout::Transformers => f.write_str(TRANSFORMERS_ENDING)?,
        }
        match dtype {
            Dtype::F32 => Ok(()),
            Dtype::F16 | Dtype::Bf16 => write!(f, "-{dtype}"),
        }
    }
}

fn unknown(owner: &str, name: &str, reason: String) -> Error {
    // This repeats a client's text; a limit keeps messages short.
    Error::NoRepository { name: format!("{owner}/{name}").chars().take(120).collect(), reason }
}

/// What is known of a repository by its name and its gene's record alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: RepositoryName,
    /// Number of parameters.
    pub parameters: u64,
    /// Others need a token for it.
    pub private: bool,
    /// Name of the data set that the gene was trained on; `none` if there is none.
    pub dataset: String,
    /// Licence of the weights.
    pub licence: String,
    /// What the model is for.
    pub task: Task,
    /// When the gene's file was changed last. The same file has the same date after a restart.
    pub modified: SystemTime,
}

/// One model as a repository: its plan and its small files.
#[derive(Debug, Clone)]
pub struct Repository {
    /// What a list says of it.
    pub listed: Listed,
    /// The model of its weights.
    pub quote: Quote,
    /// What the head of its README says.
    pub metadata: Map<String, Value>,
    /// Every file except the weights, by path.
    pub texts: BTreeMap<&'static str, Bytes>,
    /// Every file of weights, by path.
    pub weights: BTreeMap<&'static str, Quote>,
}

impl Repository {
    fn new(listed: Listed, quote: Quote) -> Result<Self> {
        let name = &listed.name;
        let (info, meta) = (&quote.blueprint.info, quote.gene.meta());
        let recipe = finetune::recipe(&listed.dataset, Length::Epochs(1), None, 0)?;
        let tuning = toml::to_string(&recipe).map_err(|error| Error::invalid("recipe", error.to_string()))?;
        let tuning = (listed.task == Task::ImageClassification).then_some(tuning.as_str());
        let base_model = format!("{OWNER}/{}", name.gene);
        let card = Card {
            repository: &format!("{OWNER}/{name}"),
            // The gene's own repository is the model of its trained size, which is not derived from itself.
            base_model: (*name != RepositoryName::trained(meta)).then_some(&base_model),
            blueprint: &quote.blueprint,
            layout: quote.layout,
            dtype: quote.dtype,
            size_bytes: quote.size_bytes(),
            quality: quote.expected,
            licence: &listed.licence,
            teacher: &meta.teacher,
            recipe: &meta.recipe,
            tuning,
        };
        let files = quote.layout.files(info, quote.dtype, quote.gene.tokenizer())?;
        let texts = files.into_iter().chain([("README.md", card.render())]);
        let texts = texts.map(|(path, text)| (path, Bytes::from(text))).collect();
        Ok(Self { metadata: card.metadata(), weights: weights(&quote), listed, quote, texts })
    }

    /// The one commit: the first digits of the request's identity, so that the same request has the same commit.
    pub fn commit(&self) -> String {
        let mut digits = self.quote.blueprint.identity.to_string();
        digits.truncate(COMMIT_DIGITS);
        digits
    }

    /// The tag: the first digits of the gene's digest, the version of the gene.
    pub fn tag(&self) -> &str {
        &self.quote.gene.digest()[..TAG_DIGITS]
    }

    /// Whether `revision` is the full commit, whose content never changes.
    ///
    /// # Errors
    /// [`Error::NoRevision`] for anything but the branch, the tag and the commit.
    pub fn is_pinned_by(&self, revision: &str) -> Result<bool> {
        let commit = self.commit();
        if revision == commit {
            return Ok(true);
        }
        if revision == BRANCH || revision == self.tag() {
            return Ok(false);
        }
        let known = format!("{BRANCH}, {} and {commit}", self.tag());
        Err(Error::NoRevision { name: revision.chars().take(80).collect(), known })
    }
}

/// The files of weights of the model of `quote`. sentence-transformers keeps the projection in a file of its own.
fn weights(quote: &Quote) -> BTreeMap<&'static str, Quote> {
    let schema = quote.blueprint.info.config.schema();
    let Some(projection) = schema.tail.into_iter().find(|spec| spec.role == Role::Projection) else {
        return BTreeMap::from([(WEIGHTS, quote.clone())]);
    };
    let is_it = |entry: &Entry| entry.name == projection.name;
    let network = |entry: &Entry| (!is_it(entry)).then(|| entry.name.clone());
    let alone = |entry: &Entry| is_it(entry).then(|| sentences::PROJECTION_NAME.to_owned());
    BTreeMap::from([
        (WEIGHTS, quote.part(WEIGHTS, network)),
        (sentences::PROJECTION_FILE, quote.part(sentences::PROJECTION_FILE, alone)),
    ])
}

impl Bank {
    /// Reads `owner` and `name`. The name of a gene alone means the model of its trained size.
    ///
    /// # Errors
    /// [`Error::NoRepository`] for another owner or form.
    pub fn repository_name(&self, owner: &str, name: &str) -> Result<RepositoryName> {
        RepositoryName::parse(owner, name).or_else(|error| {
            // An empty name would mean the default gene.
            let named = owner == OWNER && !name.is_empty();
            let gene = named.then(|| self.registry.find(name).ok()).flatten();
            gene.map(|gene| RepositoryName::trained(gene.meta())).ok_or(error)
        })
    }

    /// What a list says of the repository called `name`, with a model of so many `parameters`.
    pub(super) fn listed(&self, meta: &GeneMeta, name: RepositoryName, parameters: u64) -> Listed {
        Listed {
            name,
            parameters,
            private: self.is_private(&meta.name),
            dataset: data_name(&meta.data).to_owned(),
            licence: meta.weights_licence().to_owned(),
            task: Task::of(&meta.config),
            modified: self.registry.modified(&meta.name),
        }
    }

    /// The repository called `name`, of the admitted gene. No weight is touched.
    ///
    /// # Errors
    /// [`Error::NoRepository`] where the gene does not exist or does not give the size.
    pub async fn repository(&self, admitted: &Admitted<'_>, name: RepositoryName) -> Result<Repository> {
        let size = SizeRequest {
            depth: Some(name.depth),
            width: Some(name.width),
            dtype: name.dtype,
            ..SizeRequest::default()
        };
        let (gene, layout) = (name.gene.clone(), name.layout);
        let request = ModelRequest { gene, size, layout, ..ModelRequest::default() };
        let read = self.read(admitted, &request.start).await;
        match read.and_then(|()| self.plan(admitted, &request)) {
            Ok(quote) => {
                let listed = self.listed(quote.gene.meta(), name, quote.blueprint.parameters());
                Repository::new(listed, quote)
            }
            Err(error) if matches!(error.kind(), Kind::NotFound | Kind::Invalid) => Err(name.unknown(&error)),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_the_right_and_written_back() {
        for (name, gene, layout, dtype) in [
            ("fashion-s-d7-w96", "fashion-s", Layout::Timm, Dtype::F32),
            ("x-hf-d7-w96-hf", "x-hf", Layout::Transformers, Dtype::F32),
            ("a-d4-d7-w96-bf16", "a-d4", Layout::Timm, Dtype::Bf16),
            ("a-d7-w96-hf-f16", "a", Layout::Transformers, Dtype::F16),
        ] {
            let read = RepositoryName::parse(OWNER, name).unwrap();
            assert_eq!((read.gene.as_str(), read.layout, read.dtype), (gene, layout, dtype), "{name}");
            assert_eq!((read.depth, read.width), (7, 96));
            assert_eq!(read.to_string(), name);
        }
    }

    #[test]
    fn a_model_has_one_name() {
        for name in [
            "",
            "fashion-s",
            "a-d7",
            "a-w96-d7",
            "a-d07-w96",
            "a-d7-w096",
            "a-d+7-w96",
            "a-d-7-w96",
            "a-d7-w96-f32",
            "a-d7-w96-f16-hf",
            "a-d7-w96-hf-hf",
            "a-d7-w96-linear",
            "a-d99999999999999999999-w96",
            "a-d7-w96 ",
            "é-d7-wé",
        ] {
            let error = RepositoryName::parse(OWNER, name).unwrap_err();
            assert_eq!(error.kind(), Kind::NoRepository, "{name}");
        }
        RepositoryName::parse("other", "a-d7-w96").unwrap_err();
    }
}
