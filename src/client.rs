//! A client of the gRPC service that writes a model whole or not at all.

mod plan;

use std::{io::Write as _, path::Path, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tempfile::NamedTempFile;
use tokio::{sync::mpsc, task::JoinHandle};
use tonic::{
    Status, Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    bank::{GeneSummary, Length, ModelRequest, ModelSummary, Progress},
    blueprint::Inheritance,
    error::{Error, Kind, Result},
    gene::{DepthRule, Head, Method, Quality, Size, Start, Target},
    proto::{self, gene_bank_client::GeneBankClient, init_model_response::Event as Message},
    tensor::{Dtype, codec, hex},
};

/// Largest message that is accepted, bytes. Chunks are at most 3 MiB.
const MAX_MESSAGE_BYTES: usize = 8 << 20;
/// Frames that the server may send, bytes: the default of 16 KiB halves the rate.
const FRAME_BYTES: u32 = 1 << 20;

/// A connection to a server.
#[derive(Debug, Clone)]
pub struct Client {
    url: String,
    service: GeneBankClient<Channel>,
}

/// What happens while a model arrives.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// What the model is. Comes again after tuning, with the size of the tuned file.
    Header(ModelSummary),
    /// Tuning goes on.
    Progress(Progress),
    /// This many bytes of the file have arrived.
    Received {
        /// Bytes so far.
        bytes: u64,
        /// Bytes of the file.
        of: u64,
    },
}

/// A model that was written.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// What it is.
    #[serde(flatten)]
    pub model: ModelSummary,
    /// SHA-256 of the file's header and its tensors' digests, hex.
    pub manifest: String,
    /// SHA-256 of the file, hex.
    pub sha256: String,
}

impl Client {
    /// Connects to the server at `url`, for example `http://127.0.0.1:8080`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is not a URL, [`Error::Remote`] where nobody answers.
    pub async fn connect(url: &str) -> Result<Self> {
        let endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| Error::invalid("server", format!("\"{url}\" is not a URL: {error}")))?
            .connect_timeout(Duration::from_secs(10))
            .tcp_nodelay(true)
            .max_frame_size(FRAME_BYTES)
            .initial_stream_window_size(8 << 20)
            .initial_connection_window_size(16 << 20)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        let channel = endpoint.connect().await.map_err(|error| {
            let cause =
                std::error::Error::source(&error).map_or_else(String::new, |cause| format!(": {cause}"));
            Error::Remote { server: url.to_owned(), kind: Kind::Internal, message: format!("{error}{cause}") }
        })?;
        let service = GeneBankClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        Ok(Self { url: url.to_owned(), service })
    }

    /// The genes of the server in name order.
    ///
    /// # Errors
    /// [`Error::Remote`].
    pub async fn genes(&self) -> Result<Vec<GeneSummary>> {
        let answer = self.service.clone().list_genes(proto::ListGenesRequest {}).await;
        let proto::ListGenesResponse { genes } = answer.map_err(|status| self.remote(&status))?.into_inner();
        Ok(genes.into_iter().map(gene).collect())
    }

    /// Writes the model of `request` to `path`, which is left as it was unless every byte arrived and has the
    /// announced digest.
    ///
    /// # Errors
    /// [`Error::Remote`] with the kind that the server reported, or where the stream is not what it announced;
    /// [`Error::Io`].
    pub async fn init_model(
        &self,
        request: &ModelRequest,
        path: &Path,
        on_event: impl FnMut(Event),
    ) -> Result<Summary> {
        let answer = self.service.clone().init_model(message(request)?).await;
        let mut stream = answer.map_err(|status| self.remote(&status))?.into_inner();
        let (chunks, writer) = write_beside(path)?;
        let received = self.receive(&mut stream, chunks, on_event).await;
        // Awaited whatever happened, so that no temporary outlives this call.
        let written = writer.await.map_err(|_| Error::Cancelled)?;
        let (summary, (temporary, sha256)) = (received?, written?);
        if summary.sha256 != sha256 {
            return Err(
                self.broken(format!("the file has SHA-256 {sha256}, announced was {}", summary.sha256))
            );
        }
        let target = path.to_owned();
        let finish = move || codec::finish_atomic(temporary, &target);
        tokio::task::spawn_blocking(finish).await.map_err(|_| Error::Cancelled)??;
        Ok(summary)
    }

    /// Hands chunks on in order, and returns what the last message announced.
    async fn receive(
        &self,
        stream: &mut Streaming<proto::InitModelResponse>,
        chunks: mpsc::Sender<Bytes>,
        mut on_event: impl FnMut(Event),
    ) -> Result<Summary> {
        let (mut model, mut bytes) = (None, 0u64);
        while let Some(message) = stream.message().await.map_err(|status| self.remote(&status))? {
            match message.event {
                Some(Message::Header(header)) if bytes == 0 => {
                    let (summary, manifest) = model_summary(header);
                    if summary.size_bytes > codec::MAX_FILE_BYTES {
                        let (size, limit) = (summary.size_bytes, codec::MAX_FILE_BYTES);
                        return Err(
                            self.broken(format!("file of {size} bytes is beyond the limit of {limit}"))
                        );
                    }
                    on_event(Event::Header(summary.clone()));
                    model = Some((summary, manifest));
                }
                Some(Message::Progress(progress)) => {
                    let proto::TuningProgress { step, total_steps, loss } = progress;
                    on_event(Event::Progress(Progress { step, total_steps, loss }));
                }
                Some(Message::Chunk(proto::Chunk { offset, data })) => {
                    let of = model.as_ref().map_or(0, |(model, _)| model.size_bytes);
                    if offset != bytes || data.len() as u64 > of - bytes {
                        let length = data.len();
                        return Err(
                            self.broken(format!("{length} bytes at {offset}, expected {bytes} of {of}"))
                        );
                    }
                    bytes += data.len() as u64;
                    // A closed channel means that writing failed, and the writer knows why.
                    chunks.send(data).await.map_err(|_| Error::Cancelled)?;
                    on_event(Event::Received { bytes, of });
                }
                Some(Message::Completed(proto::Completed { sha256, size_bytes })) => {
                    return match model {
                        Some((model, manifest)) if [size_bytes, model.size_bytes] == [bytes; 2] => {
                            Ok(Summary { model, manifest, sha256 })
                        }
                        _ => Err(self.broken(format!("{bytes} bytes arrived of {size_bytes}"))),
                    };
                }
                Some(Message::Header(_)) => return Err(self.broken("a second header".to_owned())),
                // A message of a later version.
                None => {}
            }
        }
        Err(self.broken(format!("the stream ended after {bytes} bytes without a digest")))
    }

    /// The stream is not what the protocol says.
    fn broken(&self, message: String) -> Error {
        Error::Remote { server: self.url.clone(), kind: Kind::DataLoss, message }
    }

    fn remote(&self, status: &Status) -> Error {
        let word = status.metadata().get("error-kind").and_then(|word| word.to_str().ok());
        let kind = Kind::ALL.into_iter().find(|kind| Some(kind.codes().word) == word);
        Error::Remote {
            server: self.url.clone(),
            kind: kind.unwrap_or_else(|| Kind::from_grpc(status.code() as i32)),
            message: if status.message().is_empty() {
                status.code().to_string()
            } else {
                status.message().to_owned()
            },
        }
    }
}

type Written = Result<(NamedTempFile, String)>;

/// A task that writes what it is sent to a temporary file beside `path`, and its digest.
fn write_beside(path: &Path) -> Result<(mpsc::Sender<Bytes>, JoinHandle<Written>)> {
    let mut temporary = codec::begin_atomic(path)?;
    let (sender, mut chunks) = mpsc::channel::<Bytes>(4);
    let path = path.to_owned();
    let writer = tokio::task::spawn_blocking(move || {
        let mut hash = Sha256::new();
        while let Some(chunk) = chunks.blocking_recv() {
            temporary.write_all(&chunk).map_err(Error::io(&path))?;
            hash.update(&chunk);
        }
        Ok((temporary, hex(&hash.finalize())))
    });
    Ok((sender, writer))
}

/// A request as a message.
fn message(request: &ModelRequest) -> Result<proto::InitModelRequest> {
    let ModelRequest { gene, size, target, start: Start { method, seed }, tune } = request;
    let Size { depth, width, rule, dtype, allow_untrained_width } = size;
    let Target { image_size, patch_size, head } = target;
    let number = |field: &str, value: &Option<u64>| {
        let fits = |value| {
            u32::try_from(value).map_err(|_| Error::invalid(field, format!("{value} is beyond 2^32 - 1")))
        };
        value.map(fits).transpose()
    };
    let fine_tune = tune.as_ref().map(|tune| proto::FineTune {
        dataset: tune.dataset.clone(),
        learning_rate_e9: tune.learning_rate_e9.unwrap_or(0),
        seed: tune.seed,
        length: Some(match tune.length {
            Length::Steps(steps) => proto::fine_tune::Length::Steps(steps),
            Length::Epochs(epochs) => proto::fine_tune::Length::Epochs(epochs),
        }),
    });
    let message = proto::InitModelRequest {
        gene: gene.clone(),
        depth: number("depth", depth)?,
        width: number("width", width)?,
        dtype: element_type(*dtype).into(),
        depth_rule: match rule {
            DepthRule::Trained => proto::DepthRule::Trained,
            DepthRule::Cyclic => proto::DepthRule::Cyclic,
        }
        .into(),
        allow_untrained_width: *allow_untrained_width,
        max_chunk_bytes: 0,
        fine_tune,
        image_size: number("image_size", image_size)?,
        patch_size: number("patch_size", patch_size)?,
        head: head.clone().map(|Head { labels, seed }| proto::Head { labels, seed }),
        method: match method {
            Method::Gene => proto::Method::Gene,
            Method::Scratch => proto::Method::Scratch,
            Method::FirstLayers => proto::Method::FirstLayers,
            Method::Uniform => proto::Method::Uniform,
        }
        .into(),
        method_seed: *seed,
    };
    let (found, limit) = (message.encoded_len(), proto::MAX_REQUEST_BYTES);
    if found > limit {
        let reason = format!("{found} bytes are beyond the {limit} that a server takes");
        return Err(Error::invalid("request", reason));
    }
    Ok(message)
}

const fn element_type(dtype: Dtype) -> proto::Dtype {
    match dtype {
        Dtype::F32 => proto::Dtype::F32,
        Dtype::F16 => proto::Dtype::F16,
        Dtype::Bf16 => proto::Dtype::Bf16,
    }
}

fn model_summary(header: proto::ModelHeader) -> (ModelSummary, String) {
    let proto::ModelHeader {
        gene,
        depth,
        width,
        identity,
        manifest,
        size_bytes,
        parameters,
        macs,
        stage_layers,
        inheritance,
        untrained_width,
        expected_accuracy,
        image_size,
        patch_size,
        classes,
        fresh_classes,
    } = header;
    let proto::Inheritance { copied, repeated, sliced, resized, mapped: _, fresh, mixed } =
        inheritance.unwrap_or_default();
    let inheritance = Inheritance { copied, repeated, sliced, resized, mixed, fresh };
    let model = ModelSummary {
        gene,
        depth,
        width,
        identity,
        size_bytes,
        parameters,
        macs,
        stage_layers,
        inheritance,
        untrained_width,
        expected_accuracy,
        image_size,
        patch_size,
        classes,
        fresh_classes,
    };
    (model, manifest)
}

fn gene(gene: proto::Gene) -> GeneSummary {
    let proto::Gene {
        name,
        digest,
        family,
        trained_depth,
        trained_width,
        stages,
        head_dim,
        trained_widths,
        min_depth,
        max_depth,
        image_size,
        patch_size,
        channels,
        labels,
        licence,
        data,
        teacher,
        recipe,
        size_bytes,
        quality,
        default,
    } = gene;
    GeneSummary {
        name,
        digest,
        family,
        trained_depth,
        trained_width,
        stages,
        head_dim,
        trained_widths,
        min_depth,
        max_depth,
        image_size,
        patch_size,
        channels,
        labels,
        licence,
        data,
        teacher,
        recipe,
        size_bytes,
        quality: quality.into_iter().map(figure).collect(),
        default,
    }
}

fn figure(quality: proto::Quality) -> Quality {
    let proto::Quality { depth, width, tuning_epochs, accuracy } = quality;
    Quality { depth: depth as usize, width: width as usize, tuning_epochs, accuracy }
}
