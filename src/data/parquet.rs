//! Parquet files of images, as on the Hugging Face Hub: `train-*.parquet` and `test-*.parquet`.
//!
//! *Source:* the `datasets` library. An image is a struct with the encoded file in `bytes`, and a label is an integer.
//! The key `huggingface` of the file's metadata holds the features as JSON, including the class names. A plain binary
//! column of encoded images is read too.
//!
//! This file changes only when the layout of the Parquet files that are read changes. Two fifths of it are tests.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ::parquet::basic::Type;
use ::parquet::column::reader::{ColumnReader, ColumnReaderImpl};
use ::parquet::data_type::{ByteArray, DataType};
use ::parquet::errors::ParquetError;
use ::parquet::file::reader::{FileReader as _, RowGroupReader, SerializedFileReader};
use serde_json::Value;

use super::dataset::{DatasetPair, MAX_CLASSES};
use super::picture::{CHUNK, Gathered, Picture, decode_all};
use super::settings::{Settings, entries};
use crate::error::{Error, Result};
use crate::file;

/// Size limit of a file, bytes. The Hub cuts data sets into files of 0.5 GB.
const MAX_FILE_BYTES: u64 = 64 << 30;
const TRAIN: &str = "train";
/// Names of the test part; the first one that has files is read, and a message names the others.
const TEST: [&str; 4] = ["test", "val", "valid", "validation"];
const IMAGES: [&str; 4] = ["image.bytes", "img.bytes", "image", "img"];
const LABELS: [&str; 4] = ["label", "labels", "fine_label", "fine_labels"];
/// Key of the features in the file's metadata.
const FEATURES: &str = "huggingface";

/// The files of both parts, each sorted by name.
pub(super) struct Files {
    folder: PathBuf,
    train: Vec<PathBuf>,
    test: Vec<PathBuf>,
}

impl Files {
    /// The Parquet files in `folder`, if it has any for either part.
    pub(super) fn find(folder: &Path) -> Result<Option<Self>> {
        if !folder.is_dir() {
            return Ok(None);
        }
        let names = entries(folder)?;
        let part = |part: &str| -> Vec<PathBuf> {
            let is_of_part = |name: &&String| {
                let stem = name.strip_suffix(".parquet").and_then(|stem| stem.strip_prefix(part));
                stem.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
            };
            names.iter().filter(is_of_part).map(|name| folder.join(name)).collect()
        };
        let train = part(TRAIN);
        let mut tests = TEST.iter().map(|name| part(name)).filter(|files| !files.is_empty());
        let test = tests.next().unwrap_or_default();
        for other in tests.flatten() {
            tracing::warn!(
                "{} is not read: the test images are those of {}",
                other.display(),
                test[0].display()
            );
        }
        let found = !train.is_empty() || !test.is_empty();
        Ok(found.then(|| Self { folder: folder.to_owned(), train, test }))
    }
}

/// One open file, and where its columns are.
struct Table {
    path: PathBuf,
    reader: SerializedFileReader<File>,
    image: usize,
    label: usize,
    rows: u64,
    bytes: u64,
    classes: Option<Vec<String>>,
}

/// Reads both parts of the data set.
///
/// # Errors
/// [`Error::Invalid`] if a part or a size is missing; [`Error::Corrupt`], naming the file, if one is damaged, and also
/// the row if an image cannot be read.
pub(super) fn open(name: &str, files: &Files, settings: &Settings) -> Result<DatasetPair> {
    let Files { folder, train, test } = files;
    for (part, files) in [(TRAIN, train), ("test", test)] {
        if files.is_empty() {
            let reason = format!("{} holds no {part}-*.parquet", folder.display());
            return Err(Error::invalid("data", reason));
        }
    }
    let tables = |files: &[PathBuf]| files.iter().map(|path| Table::open(path)).collect::<Result<Vec<_>>>();
    let (train, test) = (tables(train)?, tables(test)?);
    let named = &train[0].classes;
    if let Some(other) = train.iter().chain(&test).find(|table| table.classes != *named) {
        let (path, first) = (other.path.display(), train[0].path.display());
        return Err(Error::corrupt(path.to_string(), format!("its class names are not those of {first}")));
    }
    let (train_images, train_greatest) = gather(&train, folder, settings)?;
    let (test_images, test_greatest) = gather(&test, folder, settings)?;
    let numbered = || (0..=train_greatest.max(test_greatest)).map(|label| label.to_string()).collect();
    let classes = named.clone().unwrap_or_else(numbered);
    Gathered::pair(name, train_images, test_images, &classes, settings)
}

/// The images of `tables`, and the greatest label.
fn gather(tables: &[Table], folder: &Path, settings: &Settings) -> Result<(Gathered, u16)> {
    let rows = tables.iter().fold(0u64, |rows, table| rows.saturating_add(table.rows));
    let (mut gathered, mut greatest) = (Gathered::new(rows, folder)?, 0);
    for table in tables {
        let mut row = 0;
        for group in 0..table.reader.num_row_groups() {
            let group = library(&table.path, || table.reader.get_row_group(group))?;
            let mut columns = Columns::open(table, group.as_ref())?;
            while let Some((images, labels)) = columns.next(table, row)? {
                let numbered: Vec<(usize, &ByteArray)> = (row..).zip(&images).collect();
                let pictures = decode_all(&numbered, |(row, image)| {
                    Picture::decode(image.data(), &table.source(*row), settings)
                })?;
                for (picture, label) in pictures.into_iter().zip(labels) {
                    gathered.push(picture, label, &table.source(row))?;
                    greatest = greatest.max(label);
                    row += 1;
                }
            }
        }
        if row as u64 != table.rows {
            return Err(table.corrupt(format!("holds {row} rows, its metadata say {}", table.rows)));
        }
    }
    Ok((gathered, greatest))
}

impl Table {
    fn open(path: &Path) -> Result<Self> {
        let corrupt = |reason: String| Error::corrupt(path.display().to_string(), reason);
        let (file, metadata) = file::open(path, MAX_FILE_BYTES)?;
        let bytes = metadata.len();
        let reader = library(path, || SerializedFileReader::new(file))?;
        let file = reader.metadata().file_metadata();
        let columns = file.schema_descr().columns();
        let find = |names: &[&str], types: &[Type]| {
            let at = |name: &&str| {
                columns.iter().position(|column| {
                    let flat = column.max_rep_level() == 0 && types.contains(&column.physical_type());
                    flat && column.path().string() == *name
                })
            };
            names.iter().find_map(at).ok_or_else(|| {
                let found: Vec<String> =
                    columns.iter().take(32).map(|column| column.path().string()).collect();
                corrupt(format!(
                    "has no column {} of type {types:?}; its columns are {}",
                    names.join(" or "),
                    found.join(", ")
                ))
            })
        };
        let image = find(&IMAGES, &[Type::BYTE_ARRAY])?;
        let label = find(&LABELS, &[Type::INT64, Type::INT32])?;
        let rows = u64::try_from(file.num_rows())
            .map_err(|_| corrupt(format!("{} is not a number of rows", file.num_rows())))?;
        let pairs = file.key_value_metadata().map_or(&[][..], Vec::as_slice);
        let features = pairs.iter().find(|pair| pair.key == FEATURES).and_then(|pair| pair.value.as_deref());
        let classes = match features {
            Some(json) => class_names(json, columns[label].name()).map_err(corrupt)?,
            None => None,
        };
        Ok(Self { path: path.to_owned(), image, label, rows, bytes, classes, reader })
    }

    fn source(&self, row: usize) -> String {
        format!("{}, row {row}", self.path.display())
    }

    fn corrupt(&self, reason: String) -> Error {
        Error::corrupt(self.path.display().to_string(), reason)
    }
}

/// Calls the library. Its panics become errors too, because it can panic on damaged files.
fn library<T>(path: &Path, call: impl FnOnce() -> Result<T, ParquetError>) -> Result<T> {
    let reason = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "a page or the metadata are damaged".to_owned(),
    };
    Err(Error::corrupt(path.display().to_string(), format!("cannot be read as Parquet: {reason}")))
}

/// The class names of the `ClassLabel` feature called `label`, or `None` if there is no such feature.
fn class_names(json: &str, label: &str) -> Result<Option<Vec<String>>, String> {
    let features: Value = serde_json::from_str(json)
        .map_err(|error| format!("its metadata {FEATURES} are not JSON: {error}"))?;
    let Some(names) = features["info"]["features"][label]["names"].as_array() else {
        return Ok(None);
    };
    let texts: Option<Vec<String>> = names.iter().map(|name| name.as_str().map(ToOwned::to_owned)).collect();
    texts
        .filter(|names| (1..=MAX_CLASSES).contains(&names.len()))
        .map(Some)
        .ok_or_else(|| format!("{} class names are not 1..={MAX_CLASSES} texts", names.len()))
}

/// Readers of the two columns of one row group.
struct Columns {
    images: ColumnReader,
    labels: ColumnReader,
}

impl Columns {
    fn open(table: &Table, group: &dyn RowGroupReader) -> Result<Self> {
        let column = |i: usize| {
            // Check that the file holds the column's bytes before asking the library for them.
            let column = group.metadata().column(i);
            let start = column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset());
            let (start, length) = (u64::try_from(start), u64::try_from(column.compressed_size()));
            let end = start.and_then(|start| length.map(|length| start.saturating_add(length)));
            if !end.is_ok_and(|end| end <= table.bytes) {
                let name = column.column_path();
                return Err(table.corrupt(format!("column {name} is not within its {} bytes", table.bytes)));
            }
            library(&table.path, || group.get_column_reader(i))
        };
        Ok(Self { images: column(table.image)?, labels: column(table.label)? })
    }

    /// The next images and labels, or `None` at the end of the group. `row` is the number of the first one in the file.
    fn next(&mut self, table: &Table, row: usize) -> Result<Option<(Vec<ByteArray>, Vec<u16>)>> {
        let ColumnReader::ByteArrayColumnReader(images) = &mut self.images else {
            return Err(table.corrupt("its images are not bytes".to_owned()));
        };
        let images: Vec<ByteArray> = values(images, "image", table, row)?;
        let labels: Vec<i64> = if let ColumnReader::Int64ColumnReader(labels) = &mut self.labels {
            values(labels, "label", table, row)?
        } else if let ColumnReader::Int32ColumnReader(labels) = &mut self.labels {
            values(labels, "label", table, row)?.into_iter().map(i64::from).collect()
        } else {
            return Err(table.corrupt("its labels are not integers".to_owned()));
        };
        if images.len() != labels.len() {
            let (images, labels) = (images.len(), labels.len());
            return Err(table.corrupt(format!("{images} images and {labels} labels follow row {row}")));
        }
        let classes = table.classes.as_ref().map_or(MAX_CLASSES, Vec::len);
        let label = |(row, label): (usize, i64)| {
            let known = u16::try_from(label).ok().filter(|label| usize::from(*label) < classes);
            known.ok_or_else(|| {
                Error::corrupt(
                    table.source(row),
                    format!("label {label} is beyond the classes (0..{classes})"),
                )
            })
        };
        let labels = (row..).zip(labels).map(label).collect::<Result<Vec<u16>>>()?;
        Ok((!images.is_empty()).then_some((images, labels)))
    }
}

/// Up to [`CHUNK`] values. A null is an error.
fn values<T: DataType>(
    reader: &mut ColumnReaderImpl<T>,
    what: &str,
    table: &Table,
    row: usize,
) -> Result<Vec<T::T>> {
    let (mut values, mut levels) = (Vec::new(), Vec::new());
    let (records, found, _) =
        library(&table.path, || reader.read_records(CHUNK, Some(&mut levels), None, &mut values))?;
    if found != records {
        let reason = format!("{} of {records} rows from row {row} on have no {what}", records - found);
        return Err(table.corrupt(reason));
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use ::parquet::column::writer::ColumnWriter;
    use ::parquet::data_type::Int64Type;
    use ::parquet::file::{metadata::KeyValue, properties::WriterProperties, writer::SerializedFileWriter};
    use ::parquet::schema::parser::parse_message_type;

    use super::super::dataset::tests::{SAMPLE, sample};
    use super::super::open::tests::put;
    use super::super::picture::tests::{bomb, colour, grey};
    use super::*;
    use crate::data;

    const PLAIN: &str = "message set { optional binary image; required int64 label; }";

    /// A file with the columns of `schema`. An image of `None` is written as null.
    fn file(schema: &str, images: &[Option<&[u8]>], labels: &[i64], features: Option<&str>) -> Vec<u8> {
        let pairs = features.map(|json| vec![KeyValue::new(FEATURES.to_owned(), json.to_owned())]);
        let properties = WriterProperties::builder().set_key_value_metadata(pairs).build();
        let schema = Arc::new(parse_message_type(schema).unwrap());
        let mut file = SerializedFileWriter::new(Vec::new(), schema, Arc::new(properties)).unwrap();
        let mut group = file.next_row_group().unwrap();
        while let Some(mut column) = group.next_column().unwrap() {
            let numbers: Vec<i32> = labels.iter().map(|label| *label as i32).collect();
            let levels: Vec<i16> = images.iter().map(|image| i16::from(image.is_some())).collect();
            let bytes: Vec<ByteArray> =
                images.iter().flatten().map(|image| ByteArray::from(image.to_vec())).collect();
            let written = if let ColumnWriter::ByteArrayColumnWriter(column) = column.untyped() {
                column.write_batch(&bytes, Some(&levels), None)
            } else if let ColumnWriter::Int32ColumnWriter(column) = column.untyped() {
                column.write_batch(&numbers, None, None)
            } else {
                column.typed::<Int64Type>().write_batch(labels, None, None)
            };
            written.unwrap();
            column.close().unwrap();
        }
        group.close().unwrap();
        file.into_inner().unwrap()
    }

    fn open(files: &[(&str, &[u8])]) -> Result<DatasetPair> {
        let root = tempfile::tempdir().unwrap();
        for (path, bytes) in files {
            put(&root.path().join("set").join(path), bytes);
        }
        data::open("set", root.path())
    }

    #[test]
    fn sample_is_the_upstream_pixels_in_order() {
        let DatasetPair { train, test } = data::open("fashion-parquet", Path::new(SAMPLE)).unwrap();
        let upstream = sample();
        assert_eq!(train.class_names(), upstream.train.class_names());
        assert_eq!((train.len(), test.len(), train.licence()), (24, 12, "unknown"));
        for (found, upstream) in [(train, upstream.train), (test, upstream.test)] {
            for item in 0..found.len() {
                assert_eq!(found.label(item), upstream.label(item));
                assert_eq!(found.image(item), upstream.image(item));
            }
        }
    }

    #[test]
    fn plain_columns_several_files_and_numbered_classes_are_read() {
        let (a, b) = (grey(2, 2), colour(6, 3));
        let other = "message set { required int32 fine_label; optional binary img; }";
        let pair = open(&[
            ("train-00001.parquet", &file(other, &[Some(&b)], &[4], None)),
            ("train-00000.parquet", &file(PLAIN, &[Some(&a), Some(&b)], &[0, 2], None)),
            ("validation.parquet", &file(PLAIN, &[Some(&a)], &[5], Some("{\"info\": {}}"))),
            ("training.parquet", b"is of no part"),
            ("dataset.toml", b"size = 2\nlicence = \"CC-BY-4.0\""),
        ])
        .unwrap();
        assert_eq!(pair.train.class_names(), ["0", "1", "2", "3", "4", "5"]);
        assert_eq!((0..3).map(|i| pair.train.label(i)).collect::<Vec<_>>(), [0, 2, 4]);
        assert_eq!((pair.train.shape().channels, pair.test.shape().channels), (3, 3));
        assert_eq!((pair.train.image(1), pair.test.licence()), (pair.train.image(2), "CC-BY-4.0"));
    }

    #[test]
    fn more_rows_than_are_decoded_at_once_stay_in_order() {
        let images: Vec<Vec<u8>> = (1..=CHUNK as u32 + 9).map(|i| grey(i % 5 + 1, i % 7 + 1)).collect();
        let images: Vec<Option<&[u8]>> = images.iter().map(|image| Some(image.as_slice())).collect();
        let labels: Vec<i64> = (0..).take(images.len()).collect();
        let bytes = file(PLAIN, &images, &labels, None);
        let pair =
            open(&[("train.parquet", &bytes), ("test.parquet", &bytes), ("dataset.toml", b"size = 2")])
                .unwrap();
        assert!((0..images.len()).all(|item| pair.train.label(item) == item));
    }

    #[test]
    fn files_that_are_no_data_set_are_refused() {
        let image = grey(2, 2);
        let one = Some(image.as_slice());
        let good = file(PLAIN, &[one], &[0], None);
        let names = |json| file(PLAIN, &[one], &[1], Some(json));
        let named = names(r#"{"info": {"features": {"label": {"names": ["a", "b"]}}}}"#);
        for (train, test, words) in [
            (b"".to_vec(), good.clone(), "train.parquet: cannot be read as Parquet"),
            (good.clone(), b"PAR1PAR1".to_vec(), "test.parquet: cannot be read as Parquet"),
            (file(PLAIN, &[], &[], None), good.clone(), "holds 0 images, 1..="),
            (
                file("message set { required int64 label; }", &[], &[1], None),
                good.clone(),
                "no column image.bytes or img.bytes or image or img of type [BYTE_ARRAY]; its columns are label",
            ),
            (
                file("message set { required binary label; required binary image; }", &[one], &[], None),
                good.clone(),
                "no column label or labels or fine_label or fine_labels of type [INT64, INT32]",
            ),
            (
                file(PLAIN, &[one, None], &[0, 1], None),
                good.clone(),
                "1 of 2 rows from row 0 on have no image",
            ),
            (
                file(PLAIN, &[one], &[-1], None),
                good.clone(),
                "row 0: label -1 is beyond the classes (0..65536)",
            ),
            (file(PLAIN, &[one], &[65_536], None), good.clone(), "label 65536 is beyond the classes"),
            (
                names(r#"{"info": {"features": {"label": {"names": ["a"]}}}}"#),
                good.clone(),
                "class names are not those",
            ),
            (named.clone(), good.clone(), "test.parquet: its class names are not those of"),
            (names("{"), good.clone(), "its metadata huggingface are not JSON"),
            (
                names(r#"{"info": {"features": {"label": {"names": []}}}}"#),
                good.clone(),
                "0 class names are not 1..=",
            ),
            (
                file(PLAIN, &[one, Some(&bomb(50_000, 2))], &[0, 0], None),
                good.clone(),
                "train.parquet, row 1: 50000x2 pixels are beyond 1..=16384",
            ),
            (file(PLAIN, &[Some(b"text")], &[0], None), good.clone(), "row 0: begins neither as a PNG nor"),
            (
                file(PLAIN, &[Some(&colour(3, 2))], &[0], None),
                good.clone(),
                "row 0: 3x2 pixels are not square",
            ),
        ] {
            let error = open(&[("train.parquet", &train), ("test.parquet", &test)]).unwrap_err().to_string();
            assert!(error.contains(words), "\"{error}\" does not say \"{words}\"");
        }
        let beyond = names(r#"{"info": {"features": {"label": {"names": ["a"]}}}}"#);
        let error = open(&[("train.parquet", &beyond), ("test.parquet", &beyond)]).unwrap_err().to_string();
        assert!(error.contains("row 0: label 1 is beyond the classes (0..1)"), "{error}");
        let error = open(&[("data/train-0.parquet", &good)]).unwrap_err().to_string();
        assert!(error.contains("set/data holds no test-*.parquet"), "{error}");
    }

    #[test]
    fn damaged_files_give_an_error_or_other_data_and_never_a_panic() {
        let path = Path::new(SAMPLE).join("fashion-parquet/data/test-00000-of-00001.parquet");
        let good = std::fs::read(path).unwrap();
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("test.parquet");
        let read = |bytes: &[u8]| {
            put(&path, bytes);
            let table = Table::open(&path)?;
            gather(&[table], root.path(), &Settings::default())
        };
        read(&good).unwrap();
        for cut in (0..good.len()).step_by(97) {
            read(&good[..cut]).unwrap_err();
        }
        // Change every byte of the footer, which holds the counts, offsets and sizes, and some bytes of the rest.
        let footer = good.len() - 1200;
        for at in (0..footer).step_by(41).chain(footer..good.len()) {
            for flip in [0x01, 0x80] {
                let mut changed = good.clone();
                changed[at] ^= flip;
                let _ = read(&changed);
            }
        }
    }
}
