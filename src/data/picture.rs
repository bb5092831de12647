//! Decodes images within limits, and fits them to the one size of a data set.
//!
//! *Source:* torchvision's `Resize(size)` (bilinear, antialiased) and `CenterCrop(size)` on 8-bit images, which is
//! Pillow's `Resample.c`: first the columns, then the rows, each with weights in 22-bit fixed point. The same decoded
//! image gives the same bytes on every machine. An alpha channel is dropped. *Differs from torchvision in:* JPEG decoders
//! may differ by one level; 16-bit samples are scaled to 8 bits, not truncated.
//!
//! The decoder's limits and the fit to one size change together, with what an image of a data set may be. Two fifths of
//! this file are tests.

use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use image::{DynamicImage, ImageDecoder as _, ImageFormat, ImageReader, Limits};

use super::colour;
use super::dataset::{Dataset, DatasetPair, ImageShape, MAX_SIZE};
use super::jpeg;
use super::settings::{SETTINGS, Settings};
use crate::error::{Error, Result};

/// Limit on the width and height of an encoded image, pixels.
pub(super) const MAX_SIDE: u32 = 16_384;
/// Limit on the memory for decoding one image, bytes.
pub(super) const MAX_DECODED_BYTES: u64 = 512 << 20;
/// Limit on the pixel bytes of a training or test set.
pub(super) const MAX_SET_BYTES: u64 = 8 << 30;
/// Number of images that are decoded together.
pub(super) const CHUNK: usize = 128;

/// Fractional bits of a resampling weight.
const PRECISION: u32 = 22;

/// A decoded image, `[channels, size, size]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    shape: ImageShape,
    pixels: Vec<u8>,
}

/// Pixels before they are fitted, `[channels, height, width]`.
struct Raw {
    channels: usize,
    width: usize,
    height: usize,
    pixels: Vec<u8>,
}

impl Picture {
    /// Decodes a PNG or JPEG and fits it to `settings`. Without a size in the settings, the image must be square and
    /// not larger than [`MAX_SIZE`]. Errors name the image by `source`.
    pub(super) fn decode(encoded: &[u8], source: &str, settings: &Settings) -> Result<Self> {
        let raw = Raw::decode(encoded, source)?.with_channels(settings.channels);
        let Raw { channels, width, height, .. } = raw;
        let Some(size) = settings.size else {
            if width != height || width > MAX_SIZE {
                let reason = format!("{width}x{height} pixels are not square with at most {MAX_SIZE}");
                return Err(no_size(source, &reason));
            }
            return Ok(Self { shape: ImageShape { channels, size: width }, pixels: raw.pixels });
        };
        Ok(Self { shape: ImageShape { channels, size }, pixels: raw.fit(size) })
    }
}

fn no_size(source: &str, reason: &str) -> Error {
    Error::invalid(
        "data",
        format!("{source}: {reason}; to resize and crop every image, write `size = N` into {SETTINGS}"),
    )
}

impl Raw {
    fn decode(encoded: &[u8], source: &str) -> Result<Self> {
        let corrupt = |reason: String| Error::corrupt(source, reason);
        let undecodable = |error: image::ImageError| corrupt(format!("cannot be decoded: {error}"));
        let format = image::guess_format(encoded)
            .ok()
            .filter(|format| matches!(format, ImageFormat::Png | ImageFormat::Jpeg))
            .ok_or_else(|| corrupt("begins neither as a PNG nor as a JPEG".to_owned()))?;
        if format == ImageFormat::Jpeg && !jpeg::is_whole(encoded) {
            return Err(corrupt(format!("ends after {} bytes, before the end of its JPEG", encoded.len())));
        }
        let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
        let mut limits = Limits::default();
        limits.max_alloc = Some(MAX_DECODED_BYTES);
        reader.limits(limits);
        // This reads only the header, so the limits are checked before any pixel is decoded.
        let decoder = reader.into_decoder().map_err(undecodable)?;
        let ((width, height), bytes) = (decoder.dimensions(), decoder.total_bytes());
        if width == 0 || height == 0 || width.max(height) > MAX_SIDE {
            return Err(corrupt(format!("{width}x{height} pixels are beyond 1..={MAX_SIDE} a side")));
        }
        if bytes > MAX_DECODED_BYTES {
            return Err(corrupt(format!(
                "{width}x{height} pixels take {bytes} bytes, more than the limit of {MAX_DECODED_BYTES}"
            )));
        }
        let image = DynamicImage::from_decoder(decoder).map_err(undecodable)?;
        let (width, height) = (width as usize, height as usize);
        if !image.color().has_color() {
            return Ok(Self { channels: 1, width, height, pixels: image.into_luma8().into_raw() });
        }
        let interleaved = image.into_rgb8().into_raw();
        let channel = |c: usize| interleaved.iter().skip(c).step_by(3).copied();
        let pixels = (0..3).flat_map(channel).collect();
        Ok(Self { channels: 3, width, height, pixels })
    }

    fn with_channels(self, channels: Option<usize>) -> Self {
        let channels = channels.unwrap_or(self.channels);
        Self { pixels: colour::convert(self.pixels, self.channels, channels), channels, ..self }
    }

    /// Scales the shorter side to `size`, and keeps the middle `size` pixels of the longer side.
    ///
    /// # Shapes
    /// - returns `[channels, size, size]`.
    fn fit(&self, size: usize) -> Vec<u8> {
        let &Self { width, height, .. } = self;
        let short = width.min(height);
        let taps = |side: usize| {
            let scaled = size * side / short;
            taps(side, scaled, centre(scaled - size), size)
        };
        let (columns, rows) = (taps(width), taps(height));
        let planes = self.pixels.chunks_exact(width * height);
        let mut out = Vec::with_capacity(self.channels * size * size);
        let mut narrow = Vec::new();
        for plane in planes {
            // `narrow` is [height, size]. The second step reads down its columns.
            narrow.clear();
            for row in plane.chunks_exact(width) {
                narrow.extend(columns.iter().map(|tap| tap.weigh(|i| row[i])));
            }
            for tap in &rows {
                out.extend((0..size).map(|x| tap.weigh(|i| narrow[i * size + x])));
            }
        }
        out
    }
}

/// Half of `spare`. Halves round to even, as in Python.
const fn centre(spare: usize) -> usize {
    let half = spare / 2;
    half + (spare % 2) * (half % 2)
}

/// The input pixels of one output pixel, and their weights.
struct Tap {
    first: usize,
    weights: Vec<i32>,
}

impl Tap {
    fn weigh(&self, pixel: impl Fn(usize) -> u8) -> u8 {
        let weighted =
            self.weights.iter().enumerate().map(|(i, weight)| i32::from(pixel(self.first + i)) * weight);
        let sum = weighted.sum::<i32>() + (1 << (PRECISION - 1));
        (sum >> PRECISION).clamp(0, 255) as u8
    }
}

/// Taps for the output pixels `from..from + count`, when a side of `side` pixels is scaled to `scaled`.
fn taps(side: usize, scaled: usize, from: usize, count: usize) -> Vec<Tap> {
    let scale = side as f64 / scaled as f64;
    // Antialiasing: each tap is wide enough that no input pixel is skipped.
    let support = scale.max(1.0);
    let tap = |out: usize| {
        let middle = (out as f64 + 0.5) * scale;
        let first = (middle - support + 0.5).max(0.0) as usize;
        let end = ((middle + support + 0.5) as usize).min(side);
        let triangle = |i: usize| {
            let distance = ((i as f64 - middle + 0.5) * (1.0 / support)).abs();
            (1.0 - distance).max(0.0)
        };
        let total: f64 = (first..end).map(triangle).sum();
        let weight = |i: usize| (0.5 + triangle(i) / total * f64::from(1u32 << PRECISION)) as i32;
        Tap { first, weights: (first..end).map(weight).collect() }
    };
    (from..from + count).map(tap).collect()
}

/// Decodes `sources` on all processors. The results keep the order of `sources`.
pub(super) fn decode_all<T: Sync>(
    sources: &[T],
    decode: impl Fn(&T) -> Result<Picture> + Sync,
) -> Result<Vec<Picture>> {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let share = sources.len().div_ceil(threads).max(1);
    let decode = &decode;
    thread::scope(|scope| {
        let start = |sources| {
            let work = move || -> Result<Vec<Picture>> { <[T]>::iter(sources).map(decode).collect() };
            thread::Builder::new()
                .name("genebank-decode".to_owned())
                .spawn_scoped(scope, work)
                .map_err(Error::io("thread genebank-decode"))
        };
        let workers = sources.chunks(share).map(start).collect::<Result<Vec<_>>>()?;
        let mut pictures = Vec::with_capacity(sources.len());
        for worker in workers {
            pictures.extend(worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?);
        }
        Ok(pictures)
    })
}

/// The images of one part of a data set, collected one by one.
#[derive(Debug)]
pub(super) struct Gathered {
    items: usize,
    shape: Option<ImageShape>,
    pixels: Vec<u8>,
    labels: Vec<u16>,
}

impl Gathered {
    /// Prepares to collect `items` images of the set at `path`.
    pub(super) fn new(items: u64, path: &Path) -> Result<Self> {
        if items == 0 || items > u64::from(u32::MAX) {
            let reason = format!("holds {items} images, 1..={} are read", u32::MAX);
            return Err(Error::corrupt(path.display().to_string(), reason));
        }
        Ok(Self { items: items as usize, shape: None, pixels: Vec::new(), labels: Vec::new() })
    }

    /// Appends an image, which must have the same size as those before it. Once one image has colour, all are stored in
    /// colour.
    pub(super) fn push(&mut self, picture: Picture, label: u16, source: &str) -> Result<()> {
        let shape = match self.shape {
            Some(shape) => agree(shape, picture.shape, source)?,
            None => picture.shape,
        };
        self.colour(shape, source)?;
        self.pixels.extend_from_slice(&picture.pixels);
        if picture.shape.channels < shape.channels {
            self.pixels.extend_from_slice(&picture.pixels);
            self.pixels.extend_from_slice(&picture.pixels);
        }
        self.labels.push(label);
        Ok(())
    }

    /// Changes the shape to `shape`. If it has colour and the collected images are grey, their pixels are repeated.
    fn colour(&mut self, shape: ImageShape, source: &str) -> Result<()> {
        if self.shape == Some(shape) {
            return Ok(());
        }
        check_bytes(self.items, shape, source)?;
        if let Some(grey) = self.shape {
            let planes = self.pixels.chunks_exact(grey.values());
            self.pixels = planes.flat_map(|plane| [plane; 3]).flatten().copied().collect();
        }
        self.shape = Some(shape);
        Ok(())
    }

    /// Makes two data sets of one shape from both parts.
    pub(super) fn pair(
        name: &str,
        mut train: Self,
        mut test: Self,
        classes: &[String],
        settings: &Settings,
    ) -> Result<DatasetPair> {
        if let (Some(a), Some(b)) = (train.shape, test.shape) {
            let shape = agree(a, b, &format!("the test set of \"{name}\""))?;
            train.colour(shape, name)?;
            test.colour(shape, name)?;
        }
        let dataset = |part: Self| -> Result<Arc<Dataset>> {
            let shape = part.shape.unwrap_or(ImageShape { channels: 1, size: 0 });
            let dataset = Dataset::new(name, shape, part.pixels, part.labels, classes.to_vec())?;
            Ok(Arc::new(dataset.with_licence(&settings.licence)))
        };
        DatasetPair::new(dataset(train)?, dataset(test)?)
    }
}

fn agree(a: ImageShape, b: ImageShape, source: &str) -> Result<ImageShape> {
    if a.size == b.size {
        return Ok(ImageShape { channels: a.channels.max(b.channels), size: a.size });
    }
    Err(no_size(source, &format!("{0}x{0} pixels, those before {1}x{1}", b.size, a.size)))
}

fn check_bytes(items: usize, shape: ImageShape, source: &str) -> Result<()> {
    let bytes = items as u128 * shape.values() as u128;
    if bytes <= u128::from(MAX_SET_BYTES) {
        return Ok(());
    }
    let ImageShape { channels, size } = shape;
    let reason = format!(
        "{items} images of {channels}x{size}x{size} are {bytes} bytes, more than the limit of {MAX_SET_BYTES}; a \
         smaller `size` in {SETTINGS} helps"
    );
    Err(Error::invalid("data", format!("{source}: {reason}")))
}

#[cfg(test)]
pub(super) mod tests {
    use std::slice;

    use image::{GrayImage, Luma, Rgb, RgbImage, Rgba, RgbaImage};

    use super::*;
    use crate::digest::{hex, sha256};

    fn png(image: impl Into<DynamicImage>) -> Vec<u8> {
        let mut file = Cursor::new(Vec::new());
        image.into().write_to(&mut file, ImageFormat::Png).unwrap();
        file.into_inner()
    }

    /// A colour PNG with varied pixels.
    pub(in crate::data) fn colour(width: u32, height: u32) -> Vec<u8> {
        png(RgbImage::from_fn(width, height, |x, y| {
            Rgb([(x * 7 + y * 13) as u8, (x * x + 3 * y) as u8, (x * y + 17) as u8])
        }))
    }

    pub(in crate::data) fn grey(width: u32, height: u32) -> Vec<u8> {
        png(GrayImage::from_fn(width, height, |x, y| Luma([(x * 7 + y * 13) as u8])))
    }

    /// A PNG whose header announces this size, without pixel data.
    pub(in crate::data) fn bomb(width: u32, height: u32) -> Vec<u8> {
        let chunk = |kind: &[u8; 4], data: &[u8]| {
            let mut crc = flate2::Crc::new();
            crc.update(kind);
            crc.update(data);
            [&(data.len() as u32).to_be_bytes()[..], kind, data, &crc.sum().to_be_bytes()].concat()
        };
        let head = [&width.to_be_bytes()[..], &height.to_be_bytes(), &[8, 2, 0, 0, 0]].concat();
        [&b"\x89PNG\r\n\x1a\n"[..], &chunk(b"IHDR", &head), &chunk(b"IDAT", &[])].concat()
    }

    fn settings(size: Option<usize>, channels: Option<usize>) -> Settings {
        Settings { size, channels, ..Settings::default() }
    }

    fn decode(encoded: &[u8], size: Option<usize>, channels: Option<usize>) -> Result<Picture> {
        Picture::decode(encoded, "a.png", &settings(size, channels))
    }

    #[track_caller]
    fn refused(encoded: &[u8], words: &str) {
        let error = decode(encoded, Some(4), None).unwrap_err();
        assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
        let error = error.to_string();
        assert!(
            error.starts_with("a.png: ") && error.contains(words),
            "\"{error}\" does not say \"{words}\""
        );
    }

    #[test]
    fn pixels_become_planes() {
        let picture = decode(&colour(3, 3), None, None).unwrap();
        assert_eq!(picture.shape, ImageShape { channels: 3, size: 3 });
        assert_eq!(picture.pixels[..9], [0, 7, 14, 13, 20, 27, 26, 33, 40]);
        assert_eq!(picture.pixels[18..], [17, 17, 17, 17, 18, 19, 17, 19, 21]);
        let see_through = RgbaImage::from_pixel(2, 2, Rgba([9, 8, 7, 0]));
        assert_eq!(
            decode(&png(see_through), None, None).unwrap().pixels,
            [9, 9, 9, 9, 8, 8, 8, 8, 7, 7, 7, 7]
        );
    }

    #[test]
    fn grey_stays_grey_unless_colour_is_asked_for() {
        let picture = decode(&grey(2, 2), None, None).unwrap();
        assert_eq!((picture.shape.channels, &picture.pixels[..]), (1, &[0, 7, 13, 20][..]));
        assert_eq!(decode(&grey(2, 2), None, Some(3)).unwrap().pixels, [0, 7, 13, 20].repeat(3));
        let red = RgbImage::from_pixel(1, 1, Rgb([255, 0, 0]));
        // The value of red in Pillow's convert("L").
        assert_eq!(decode(&png(red), None, Some(1)).unwrap().pixels, [76]);
    }

    #[test]
    fn resized_and_cropped_bytes_are_pillows() {
        // First 8 bytes of the SHA-256 of the planes from Pillow 13.0.0: Image.resize with BILINEAR to (size, int(size
        // * long / short)), then a crop at int(round((side - size) / 2)). The second column is the same after
        // convert("L").
        for (width, height, size, colours, greys) in [
            (50, 37, 16, "c2113a948dfb975d", "aaf0b337a7d78720"),
            (37, 50, 16, "b604476a93dad4ea", "14b8af783df01208"),
            (9, 20, 16, "3588565567925dce", "8e724ff93de97a4e"),
            (64, 33, 33, "531e82c69cef7f18", "5531a5ef7fa7bc24"),
            (200, 61, 1, "b03256ba20cace04", "620bfdaa346b088f"),
            (40, 41, 7, "5c018dc3966ad655", "7d7f5b012514b96f"),
        ] {
            let digest = |channels| {
                let picture = decode(&colour(width, height), Some(size), channels).unwrap();
                assert_eq!(picture.pixels.len(), picture.shape.values());
                hex(&sha256(&picture.pixels)[..8])
            };
            assert_eq!(digest(None), colours, "{width}x{height} to {size}");
            assert_eq!(digest(Some(1)), greys, "{width}x{height} to {size}, grey");
        }
    }

    #[test]
    fn jpeg_is_read() {
        let mut file = Cursor::new(Vec::new());
        let image = RgbImage::from_pixel(16, 8, Rgb([200, 100, 50]));
        DynamicImage::from(image).write_to(&mut file, ImageFormat::Jpeg).unwrap();
        let file = file.into_inner();
        let picture = decode(&file, Some(4), None).unwrap();
        for (plane, level) in picture.pixels.chunks(16).zip([200u8, 100, 50]) {
            assert!(plane.iter().all(|pixel| pixel.abs_diff(level) < 4), "{plane:?}");
        }
        refused(&file[..file.len() - 9], "before the end of its JPEG");
    }

    #[test]
    fn hostile_images_are_refused() {
        refused(b"", "begins neither as a PNG nor as a JPEG");
        refused(b"GIF89a", "begins neither as a PNG nor as a JPEG");
        refused(&bomb(60_000, 60_000), "60000x60000 pixels are beyond 1..=16384 a side");
        refused(&bomb(16_384, 16_384), "take 805306368 bytes, more than the limit of 536870912");
        refused(&bomb(8, 8), "cannot be decoded");
        let good = colour(40, 40);
        for cut in 2..good.len() {
            assert!(decode(&good[..cut], Some(4), None).is_err() || cut > good.len() - 20, "{cut}");
        }
        let mut jpeg = Cursor::new(Vec::new());
        DynamicImage::from(RgbImage::new(16, 16)).write_to(&mut jpeg, ImageFormat::Jpeg).unwrap();
        for encoded in [good, jpeg.into_inner()] {
            for at in 0..encoded.len() {
                let mut changed = encoded.clone();
                changed[at] ^= 0x55;
                // The result may be another image or an error, but never a panic.
                let _ = decode(&changed, Some(4), None);
            }
        }
    }

    #[test]
    fn other_sizes_need_a_setting() {
        for (width, height) in [(4, 3), (1025, 1025)] {
            let error = decode(&grey(width, height), None, None).unwrap_err();
            assert!(matches!(error, Error::Invalid { .. }), "{error:?}");
            let words = format!("a.png: {width}x{height} pixels are not square with at most 1024");
            let error = error.to_string();
            assert!(error.contains(&words) && error.contains("`size = N` into dataset.toml"), "{error}");
        }
        let mut gathered = Gathered::new(2, Path::new("set")).unwrap();
        gathered.push(decode(&grey(3, 3), None, None).unwrap(), 0, "a.png").unwrap();
        let error = gathered.push(decode(&grey(2, 2), None, None).unwrap(), 0, "b.png").unwrap_err();
        assert!(error.to_string().contains("b.png: 2x2 pixels, those before 3x3"), "{error}");
    }

    #[test]
    fn one_coloured_image_gives_all_of_them_colour() {
        let gather = |images: &[Vec<u8>]| {
            let mut gathered = Gathered::new(images.len() as u64, Path::new("set")).unwrap();
            for image in images {
                gathered.push(decode(image, None, None).unwrap(), 0, "a.png").unwrap();
            }
            gathered
        };
        let classes = ["a".to_owned()];
        let pair = |train: &[Vec<u8>], test: &[Vec<u8>]| {
            Gathered::pair("set", gather(train), gather(test), &classes, &Settings::default()).unwrap()
        };
        let (coloured, plain) = (colour(2, 2), grey(2, 2));
        let grey_only = pair(&[plain.clone(), plain.clone()], slice::from_ref(&plain));
        assert_eq!((grey_only.train.shape().channels, grey_only.test.shape().channels), (1, 1));
        for mixed in [
            pair(&[plain.clone(), coloured.clone(), plain.clone()], slice::from_ref(&plain)),
            pair(&[plain.clone(), plain.clone(), plain.clone()], &[plain.clone(), coloured.clone()]),
        ] {
            assert_eq!((mixed.train.shape().channels, mixed.test.shape().channels), (3, 3));
            for item in [0, 2] {
                assert_eq!(mixed.train.image(item), [0, 7, 13, 20].repeat(3));
            }
        }
    }

    #[test]
    fn sets_beyond_their_limits_are_refused() {
        let shape = ImageShape { channels: 3, size: 1024 };
        check_bytes(2730, shape, "set").unwrap();
        let error = check_bytes(2731, shape, "set").unwrap_err().to_string();
        assert!(error.contains("8590983168 bytes, more than the limit of 8589934592"), "{error}");
        for items in [0, 1 << 32] {
            let error = Gathered::new(items, Path::new("set")).unwrap_err().to_string();
            assert_eq!(error, format!("set: holds {items} images, 1..=4294967295 are read"));
        }
    }

    #[test]
    fn order_does_not_depend_on_threads() {
        let sizes: Vec<u32> = (1..40).collect();
        let pictures = decode_all(&sizes, |size| decode(&grey(*size, *size), None, None)).unwrap();
        assert!(sizes.iter().zip(&pictures).all(|(size, picture)| picture.shape.size == *size as usize));
        let failing = |size: &u32| decode(&grey(*size, 1 + *size / 20), None, None);
        let error = decode_all(&sizes, failing).unwrap_err().to_string();
        assert!(error.contains("2x1 pixels"), "the first error is told: {error}");
    }
}
