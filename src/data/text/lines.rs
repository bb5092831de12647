//! Sentences, one at a time, from files that need not fit into memory.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ::parquet::basic::Type;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, ByteArrayType};
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader as _, SerializedFileReader};
use flate2::read::MultiGzDecoder;
use serde_json::Value;

use super::tokenizer::MAX_TEXT_BYTES;
use crate::data::settings::entries;
use crate::error::{Error, Result};
use crate::file;

/// Size limit of a file, bytes.
const MAX_FILE_BYTES: u64 = 64 << 30;
/// Columns that are read if none is named; the first that a file has.
const COLUMNS: [&str; 2] = ["text", "sentence"];
/// Rows of Parquet that are read at once.
const ROWS: usize = 1024;

/// How a file holds sentences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// One a line.
    Text,
    /// One JSON value a line: a string, or an object.
    Json,
    /// A column.
    Parquet,
}

/// The form of a file with this name, and whether it is compressed; `None` for other files.
fn form(name: &str) -> Option<(Form, bool)> {
    let (name, gz) = name.strip_suffix(".gz").map_or((name, false), |name| (name, true));
    let form = match Path::new(name).extension()?.to_str()? {
        "txt" => Form::Text,
        "jsonl" => Form::Json,
        "parquet" if !gz => Form::Parquet,
        _ => return None,
    };
    Some((form, gz))
}

/// The sentences of some files, in order.
#[derive(Debug)]
pub struct Sentences {
    files: VecDeque<PathBuf>,
    column: Option<String>,
    open: Option<Open>,
}

/// The sentences of the file at `path`, or of every such file in the folder `path`, in the order of their names: `.txt`
/// with one a line, `.jsonl` with a string or an object a line, either as `.gz`, and `.parquet`. `column` names the key
/// or column; without it, `text` or `sentence` is read. Empty ones are left out.
///
/// # Errors
/// [`Error::Io`]; [`Error::Invalid`] for another kind of file, or a folder without one. Each sentence may be an error:
/// [`Error::Corrupt`] naming file and line.
pub fn sentences(path: &Path, column: Option<&str>) -> Result<Sentences> {
    let files = if path.is_dir() {
        let names = entries(path)?.into_iter().filter(|name| form(name).is_some());
        names.map(|name| path.join(name)).collect()
    } else {
        VecDeque::from([path.to_owned()])
    };
    let readable = |path: &PathBuf| path.file_name().and_then(|name| form(name.to_str()?)).is_some();
    if files.is_empty() || !files.iter().all(readable) {
        let reason = "sentences are read from .txt, .jsonl, .txt.gz, .jsonl.gz and .parquet";
        return Err(Error::invalid(path.display().to_string(), reason));
    }
    Ok(Sentences { files, column: column.map(ToOwned::to_owned), open: None })
}

impl Iterator for Sentences {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if self.open.is_none() {
                let path = self.files.pop_front()?;
                match Open::new(path, self.column.as_deref()) {
                    Ok(open) => self.open = Some(open),
                    Err(error) => return Some(self.end(error)),
                }
            }
            match self.open.as_mut().and_then(|open| open.next(self.column.as_deref()).transpose()) {
                Some(Ok(sentence)) if sentence.trim().is_empty() => {}
                Some(Ok(sentence)) => return Some(Ok(sentence)),
                Some(Err(error)) => return Some(self.end(error)),
                None => self.open = None,
            }
        }
    }
}

impl Sentences {
    /// After an error nothing follows.
    fn end(&mut self, error: Error) -> Result<String> {
        self.files.clear();
        self.open = None;
        Err(error)
    }
}

/// A file that is being read.
#[derive(Debug)]
struct Open {
    origin: String,
    line: u64,
    source: Source,
}

enum Source {
    Lines(Box<dyn BufRead + Send>, Form),
    Rows(Box<Rows>),
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Lines(..) => "Lines",
            Self::Rows(_) => "Rows",
        })
    }
}

impl Open {
    fn new(path: PathBuf, column: Option<&str>) -> Result<Self> {
        let origin = path.display().to_string();
        let (file, _) = file::open(&path, MAX_FILE_BYTES)?;
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let source = match form(name) {
            Some((Form::Parquet, _)) => Source::Rows(Box::new(Rows::new(file, column, &origin)?)),
            Some((form, false)) => Source::Lines(Box::new(BufReader::new(file)), form),
            Some((form, true)) => Source::Lines(Box::new(BufReader::new(MultiGzDecoder::new(file))), form),
            None => return Err(Error::invalid(origin, "is no file of sentences")),
        };
        Ok(Self { origin, line: 0, source })
    }

    /// The next sentence, which may be empty.
    fn next(&mut self, column: Option<&str>) -> Result<Option<String>> {
        let (reader, form) = match &mut self.source {
            Source::Rows(rows) => return rows.next(&self.origin),
            Source::Lines(reader, form) => (reader, *form),
        };
        self.line += 1;
        let corrupt = |reason: String| Error::corrupt(&self.origin, format!("line {}: {reason}", self.line));
        let mut bytes = Vec::new();
        let limit = MAX_TEXT_BYTES as u64 + 2;
        let read = reader.by_ref().take(limit).read_until(b'\n', &mut bytes);
        if read.map_err(|error| corrupt(error.to_string()))? == 0 {
            return Ok(None);
        }
        let line = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.len() > MAX_TEXT_BYTES {
            return Err(corrupt(format!("is longer than the limit of {MAX_TEXT_BYTES} bytes")));
        }
        let line = std::str::from_utf8(line).map_err(|error| corrupt(format!("is not text: {error}")))?;
        if form == Form::Text || line.trim().is_empty() {
            return Ok(Some(line.to_owned()));
        }
        let found = match serde_json::from_str(line).map_err(|error| corrupt(error.to_string()))? {
            Value::String(sentence) => Some(sentence),
            Value::Object(mut object) => {
                let mut names =
                    column.into_iter().chain(column.is_none().then_some(COLUMNS).into_iter().flatten());
                names.find_map(|name| match object.remove(name) {
                    Some(Value::String(sentence)) => Some(sentence),
                    _ => None,
                })
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
        };
        found.map(Some).ok_or_else(|| corrupt(no_column(column)))
    }
}

fn no_column(column: Option<&str>) -> String {
    let wanted = column.map_or_else(|| COLUMNS.join("\" or \""), ToOwned::to_owned);
    format!("no text under \"{wanted}\"")
}

/// The rows of a column of strings of a Parquet file.
struct Rows {
    reader: SerializedFileReader<File>,
    column: usize,
    group: usize,
    values: Option<ColumnReaderImpl<ByteArrayType>>,
    ready: VecDeque<ByteArray>,
}

impl Rows {
    fn new(file: File, column: Option<&str>, origin: &str) -> Result<Self> {
        let reader = guarded(origin, || SerializedFileReader::new(file))?;
        let schema = reader.metadata().file_metadata().schema_descr_ptr();
        let at = |name: &str| {
            let is_it = |column: &_| {
                let column: &::parquet::schema::types::ColumnDescriptor = column;
                column.path().string() == name && column.physical_type() == Type::BYTE_ARRAY
            };
            schema.columns().iter().position(|column| is_it(column))
        };
        let found = match column {
            Some(name) => at(name),
            None => COLUMNS.into_iter().find_map(at),
        };
        let column = found.ok_or_else(|| Error::corrupt(origin, no_column(column)))?;
        Ok(Self { reader, column, group: 0, values: None, ready: VecDeque::new() })
    }

    fn next(&mut self, origin: &str) -> Result<Option<String>> {
        while self.ready.is_empty() {
            let Some(values) = &mut self.values else {
                if self.group == self.reader.num_row_groups() {
                    return Ok(None);
                }
                let (reader, group, column) = (&self.reader, self.group, self.column);
                let values = guarded(origin, || reader.get_row_group(group)?.get_column_reader(column))?;
                let ColumnReader::ByteArrayColumnReader(values) = values else {
                    return Err(Error::corrupt(origin, "the column does not hold text"));
                };
                self.values = Some(values);
                self.group += 1;
                continue;
            };
            let mut levels = Vec::new();
            let mut read = Vec::with_capacity(ROWS);
            let (rows, _, _) =
                guarded(origin, || values.read_records(ROWS, Some(&mut levels), None, &mut read))?;
            self.ready.extend(read);
            if rows == 0 {
                self.values = None;
            }
        }
        let Some(bytes) = self.ready.pop_front() else { return Ok(None) };
        if bytes.len() > MAX_TEXT_BYTES {
            let reason =
                format!("a text of {} bytes is longer than the limit of {MAX_TEXT_BYTES}", bytes.len());
            return Err(Error::corrupt(origin, reason));
        }
        let text = bytes.as_utf8().map_err(|error| Error::corrupt(origin, error.to_string()))?;
        Ok(Some(text.to_owned()))
    }
}

/// Runs `read`, which may panic on damaged files.
fn guarded<T>(origin: &str, read: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    match catch_unwind(AssertUnwindSafe(read)) {
        Ok(result) => result.map_err(|error| Error::corrupt(origin, error.to_string())),
        Err(_) => Err(Error::corrupt(origin, "the file is damaged")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn all(path: &Path, column: Option<&str>) -> Result<Vec<String>> {
        sentences(path, column)?.collect()
    }

    fn gz(text: &str) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_form_gives_the_same_sentences_in_the_order_of_the_files() {
        let folder = tempfile::tempdir().unwrap();
        let write =
            |name: &str, bytes: &[u8]| file::write_atomic(&folder.path().join(name), [bytes]).unwrap();
        write("a.txt", "one\r\n\n  \ntwo\n".as_bytes());
        write("b.txt.gz", &gz("three\nvier ä"));
        write("c.jsonl", b"\"five\"\n{\"text\": \"six\", \"x\": 1}\n{\"sentence\": \"seven\"}\n\n");
        write("d.md", b"not read");
        let found = all(folder.path(), None).unwrap();
        assert_eq!(found, ["one", "two", "three", "vier ä", "five", "six", "seven"]);
        write("c.jsonl", b"{\"text\": \"six\", \"x\": \"other\"}\n");
        assert_eq!(all(&folder.path().join("c.jsonl"), Some("x")).unwrap(), ["other"]);
    }

    #[test]
    fn a_column_of_parquet_is_read_group_by_group() {
        use ::parquet::file::writer::SerializedFileWriter;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.parquet");
        let schema = "message m { optional binary text (UTF8); required int64 n; }";
        let schema = std::sync::Arc::new(::parquet::schema::parser::parse_message_type(schema).unwrap());
        let file = File::create(&path).unwrap();
        let mut writer = SerializedFileWriter::new(file, schema, std::sync::Arc::default()).unwrap();
        for group in [["one", "two"], ["three", "four"]] {
            let mut row_group = writer.next_row_group().unwrap();
            let mut column = row_group.next_column().unwrap().unwrap();
            let values = group.map(ByteArray::from);
            column.typed::<ByteArrayType>().write_batch(&values, Some(&[1, 0, 1]), None).unwrap();
            column.close().unwrap();
            let mut column = row_group.next_column().unwrap().unwrap();
            column.typed::<::parquet::data_type::Int64Type>().write_batch(&[1, 2, 3], None, None).unwrap();
            column.close().unwrap();
            row_group.close().unwrap();
        }
        writer.close().unwrap();
        assert_eq!(all(&path, None).unwrap(), ["one", "two", "three", "four"]);
        for column in ["n", "title"] {
            assert!(all(&path, Some(column)).unwrap_err().to_string().contains(column));
        }
        let bytes = std::fs::read(&path).unwrap();
        file::write_atomic(&path, [&bytes[..bytes.len() / 2]]).unwrap();
        assert!(all(&path, None).unwrap_err().to_string().contains("x.parquet"));
    }

    #[test]
    fn errors_name_the_file_and_the_line() {
        let folder = tempfile::tempdir().unwrap();
        let long = [b"ok\n".as_slice(), &vec![b'a'; MAX_TEXT_BYTES + 1]].concat();
        let cut = gz("a long enough line\n")[..20].to_vec();
        for (name, bytes, reason) in [
            ("long.txt", long.as_slice(), "line 2: is longer than the limit of 1048576 bytes"),
            ("bytes.txt", b"ok\n\xff\n", "line 2: is not text"),
            ("x.jsonl", b"{\"title\": \"x\"}\n", "line 1: no text under \"text\" or \"sentence\""),
            ("y.jsonl", b"{", "line 1: "),
            ("z.txt.gz", &cut, "line 1: "),
        ] {
            let path = folder.path().join(name);
            file::write_atomic(&path, [bytes]).unwrap();
            let error = all(&path, None).unwrap_err().to_string();
            assert!(error.contains(reason) && error.contains(name), "{error}");
        }
        let path = folder.path().join("long.txt");
        assert_eq!(sentences(&path, None).unwrap().count(), 2, "nothing follows an error");
        file::write_atomic(&folder.path().join("x.csv"), [b"a".as_slice()]).unwrap();
        for path in [folder.path().join("x.csv"), folder.path().join("missing")] {
            all(&path, None).unwrap_err();
        }
    }
}
