//! Turns the bytes of one image into normalised values, with random crop, flip and erasing.
//!
//! *Sources:* He et al. 2016 (arXiv 1512.03385, section 4.2) for crop and flip; Zhong et al. 2020 (arXiv 1708.04896)
//! for random erasing, with timm's `mode="pixel"`. *Differs from timm in:* halves round away from zero, not to even.

use serde::{Deserialize, Serialize};

use super::dataset::ImageShape;
use crate::blueprint::Preprocessing;
use crate::error::{Error, Result};
use crate::tensor::rng::Stream;

const PER_MILLE: u16 = 1000;
const ERASE_ATTEMPTS: u32 = 10;
/// ln(1/0.3): aspect ratios are log-uniform in 0.3..1/0.3.
const LOG_ASPECT: f32 = 1.203_972_8;

/// Random changes to a training image. The default changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Width of the black border that is added before a random crop to the original size, pixels; 0 = no crop.
    pub crop_padding: u32,
    /// Mirrors left and right with probability 1/2.
    pub flip: bool,
    /// Replaces one rectangle with noise.
    pub erase: Option<Erase>,
}

/// Random erasing. After normalisation, one rectangle becomes standard normal noise, drawn per pixel and channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the unit belongs to the key that a recipe writes")]
pub struct Erase {
    /// Probability that an image is changed, per mille.
    pub probability_per_mille: u16,
    /// Smallest rectangle, per mille of the image's area.
    pub min_area_per_mille: u16,
    /// Largest rectangle, per mille of the image's area.
    pub max_area_per_mille: u16,
}

impl Augment {
    /// Checks the settings for images of `size` x `size` pixels.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a border wider than the image, a probability above 1000, or areas that are not an
    /// ascending range within 1..=1000.
    pub fn validate(&self, size: usize) -> Result<()> {
        let Self { crop_padding, flip: _, erase } = *self;
        if crop_padding as usize > size {
            let reason = format!("{crop_padding} is more than the image size of {size}");
            return Err(Error::invalid("augment.crop_padding", reason));
        }
        let Some(Erase { probability_per_mille, min_area_per_mille, max_area_per_mille }) = erase else {
            return Ok(());
        };
        if probability_per_mille > PER_MILLE {
            let reason = format!("{probability_per_mille} is more than {PER_MILLE}");
            return Err(Error::invalid("augment.erase.probability_per_mille", reason));
        }
        if !(1 <= min_area_per_mille
            && min_area_per_mille <= max_area_per_mille
            && max_area_per_mille <= PER_MILLE)
        {
            let reason = format!(
                "areas {min_area_per_mille}..={max_area_per_mille} are not an ascending range within 1..={PER_MILLE}"
            );
            return Err(Error::invalid("augment.erase", reason));
        }
        Ok(())
    }

    /// How many different images this makes of one, if they are few: the unchanged one, and the mirrored one.
    pub(super) fn views(&self) -> Option<u8> {
        let few = self.crop_padding == 0 && self.erase.is_none();
        few.then_some(if self.flip { 2 } else { 1 })
    }

    /// Writes the augmented and normalised image into `out`. Returns which of the [`Augment::views`] it is, or 0 if
    /// views are not counted. An option that is off draws nothing from `random`.
    ///
    /// # Shapes
    /// - `pixels`, `out`: `[channels, size, size]`; `table`: for the same channels.
    pub(super) fn apply(
        &self,
        pixels: &[u8],
        shape: ImageShape,
        table: &Table,
        random: &mut Stream,
        out: &mut [f32],
    ) -> u8 {
        let size = shape.size;
        let padding = self.crop_padding as usize;
        let (top, left) = if padding == 0 {
            (0, 0)
        } else {
            let places = 2 * padding as u64 + 1;
            (random.below(places) as usize, random.below(places) as usize)
        };
        let mirrored = self.flip && random.below(2) == 1;

        let view = if padding == 0 {
            table.view(pixels, shape, mirrored, out)
        } else {
            table.shift(pixels, shape, Shift { padding, top, left, mirrored }, out);
            0
        };
        if let Some(erase) = self.erase {
            erase.apply(size, random, out);
        }
        view
    }
}

/// Maps each pixel to its value, without a branch.
fn look_up<'a>(values: &[f32; 256], pixels: impl IntoIterator<Item = &'a u8>, out: &mut [f32]) {
    for (&pixel, out) in pixels.into_iter().zip(out) {
        *out = values[usize::from(pixel)];
    }
}

impl Erase {
    fn apply(self, size: usize, random: &mut Stream, out: &mut [f32]) {
        if random.below(u64::from(PER_MILLE)) >= u64::from(self.probability_per_mille) {
            return;
        }
        let (min, max) = (f32::from(self.min_area_per_mille), f32::from(self.max_area_per_mille));
        for _ in 0..ERASE_ATTEMPTS {
            let share = (min + (max - min) * random.unit_f32()) / f32::from(PER_MILLE);
            let area = share * (size * size) as f32;
            let aspect = libm::expf((2.0 * random.unit_f32() - 1.0) * LOG_ASPECT);
            let height = libm::roundf(libm::sqrtf(area * aspect)) as usize;
            let width = libm::roundf(libm::sqrtf(area / aspect)) as usize;
            if height >= size || width >= size {
                continue;
            }
            let top = random.below((size - height) as u64 + 1) as usize;
            let left = random.below((size - width) as u64 + 1) as usize;
            for plane in out.chunks_exact_mut(size * size) {
                for row in plane.chunks_exact_mut(size).skip(top).take(height) {
                    row[left..left + width].fill_with(|| random.normal_f32());
                }
            }
            return;
        }
    }
}

/// Position of a crop in the bordered image.
#[derive(Clone, Copy)]
struct Shift {
    padding: usize,
    top: usize,
    left: usize,
    mirrored: bool,
}

/// `(pixel / 255 − mean) / std` for each channel and pixel value.
#[derive(Clone)]
pub(super) struct Table {
    channels: Vec<[f32; 256]>,
}

impl Table {
    pub(super) fn new(normalize: &Preprocessing) -> Self {
        let channels = normalize.mean.iter().zip(&normalize.std);
        let channels = channels
            .map(|(mean, std)| std::array::from_fn(|pixel| (pixel as f32 / 255.0 - mean) / std))
            .collect();
        Self { channels }
    }

    /// Writes the normalised image into `out`.
    ///
    /// # Shapes
    /// - `pixels`, `out`: `[channels, size, size]`.
    pub(super) fn normalise(&self, pixels: &[u8], shape: ImageShape, out: &mut [f32]) {
        let plane = shape.size * shape.size;
        let planes = pixels.chunks_exact(plane).zip(out.chunks_exact_mut(plane));
        for ((plane, out), values) in planes.zip(&self.channels) {
            look_up(values, plane, out);
        }
    }

    /// Like [`Table::normalise`], mirrored on request. Returns the number of the view.
    pub(super) fn view(&self, pixels: &[u8], shape: ImageShape, mirrored: bool, out: &mut [f32]) -> u8 {
        if mirrored {
            self.shift(pixels, shape, Shift { padding: 0, top: 0, left: 0, mirrored }, out);
        } else {
            self.normalise(pixels, shape, out);
        }
        u8::from(mirrored)
    }

    /// Like [`Table::normalise`], but shifted over a black border and mirrored on request.
    fn shift(&self, pixels: &[u8], shape: ImageShape, shift: Shift, out: &mut [f32]) {
        let (size, Shift { padding, top, left, mirrored }) = (shape.size, shift);
        // The part of an output row that the image covers, and the image column where that part begins.
        let covered = padding.saturating_sub(left)..(size + padding - left).min(size);
        let from = covered.start + left - padding;
        // In a mirrored row, the covered part is counted from the other end.
        let covered = if mirrored { size - covered.end..size - covered.start } else { covered };
        let planes = pixels.chunks_exact(size * size).zip(out.chunks_exact_mut(size * size));
        for ((plane, out), values) in planes.zip(&self.channels) {
            for (y, out) in out.chunks_exact_mut(size).enumerate() {
                let row = (y + top).checked_sub(padding).filter(|&row| row < size);
                let Some(row) = row.map(|row| &plane[row * size + from..][..covered.len()]) else {
                    out.fill(values[0]);
                    continue;
                };
                out[..covered.start].fill(values[0]);
                out[covered.end..].fill(values[0]);
                let out = &mut out[covered.clone()];
                if mirrored {
                    look_up(values, row.iter().rev(), out);
                } else {
                    look_up(values, row, out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensor::rng::stream;

    const SHAPE: ImageShape = ImageShape { channels: 3, size: 8 };

    fn normalize() -> Preprocessing {
        Preprocessing { mean: vec![0.5, 0.25, 0.125], std: vec![0.5, 0.25, 2.0] }
    }

    /// Every pixel of a plane has a different value, and none is black.
    fn pixels() -> Vec<u8> {
        (0..SHAPE.values()).map(|i| (i + 1) as u8).collect()
    }

    fn apply(augment: Augment, seed: u64) -> Vec<f32> {
        augment.validate(SHAPE.size).unwrap();
        let mut out = vec![f32::NAN; SHAPE.values()];
        augment.apply(&pixels(), SHAPE, &Table::new(&normalize()), &mut stream(seed, "test"), &mut out);
        out
    }

    fn plain() -> Vec<f32> {
        let Preprocessing { mean, std } = normalize();
        let value = |(i, pixel): (usize, u8)| (f32::from(pixel) / 255.0 - mean[i / 64]) / std[i / 64];
        pixels().into_iter().enumerate().map(value).collect()
    }

    #[test]
    fn no_option_is_plain_normalisation() {
        assert_eq!(apply(Augment::default(), 0), plain());
    }

    #[test]
    fn flip_mirrors_half_of_the_images() {
        let mirrored: Vec<f32> = plain().chunks(8).flat_map(|row| row.iter().rev().copied()).collect();
        let flip = Augment { flip: true, ..Augment::default() };
        let found: Vec<Vec<f32>> = (0..200).map(|seed| apply(flip, seed)).collect();
        assert!(found.iter().all(|image| *image == plain() || *image == mirrored));
        let flipped = found.iter().filter(|image| **image == mirrored).count();
        assert!((70..130).contains(&flipped), "{flipped} of 200");
    }

    #[test]
    fn crop_shifts_every_channel_alike_over_a_black_border() {
        let crop = Augment { crop_padding: 2, ..Augment::default() };
        let Preprocessing { mean, std } = normalize();
        let plain = plain();
        let shifted = |dy: usize, dx: usize| -> Vec<f32> {
            let value = |i: usize| {
                let (channel, y, x) = (i / 64, i / 8 % 8 + dy, i % 8 + dx);
                if (2..10).contains(&y) && (2..10).contains(&x) {
                    plain[channel * 64 + (y - 2) * 8 + x - 2]
                } else {
                    -mean[channel] / std[channel]
                }
            };
            (0..SHAPE.values()).map(value).collect()
        };
        let places: Vec<Vec<f32>> = (0..25).map(|place| shifted(place / 5, place % 5)).collect();
        let mut seen = [false; 25];
        for seed in 0..400 {
            let found = apply(crop, seed);
            let place = places.iter().position(|place| *place == found).expect("a shift by at most 2");
            seen[place] = true;
        }
        assert_eq!(seen, [true; 25]);
    }

    #[test]
    fn erase_changes_one_rectangle_in_every_channel() {
        let areas = Erase { probability_per_mille: 1000, min_area_per_mille: 50, max_area_per_mille: 400 };
        let erase = Augment { erase: Some(areas), ..Augment::default() };
        let plain = plain();
        for seed in 0..100 {
            let found = apply(erase, seed);
            let changed: Vec<bool> =
                found.iter().zip(&plain).map(|(a, b)| a.to_bits() != b.to_bits()).collect();
            let places: Vec<(usize, usize)> =
                (0..64).filter(|&i| changed[i]).map(|i| (i / 8, i % 8)).collect();
            let top = places.iter().map(|place| place.0).min().expect("a rectangle");
            let bottom = places.iter().map(|place| place.0).max().unwrap();
            let left = places.iter().map(|place| place.1).min().unwrap();
            let right = places.iter().map(|place| place.1).max().unwrap();
            for (i, &changed) in changed.iter().enumerate() {
                let (y, x) = (i / 8 % 8, i % 8);
                let inside = (top..=bottom).contains(&y) && (left..=right).contains(&x);
                assert_eq!(changed, inside, "seed {seed}, value {i}");
            }
            assert!(found.iter().all(|value| value.is_finite()));
            assert!((1..=36).contains(&places.len()), "{} of 64 pixels", places.len());
        }
    }

    #[test]
    fn erase_probability_is_a_share_of_the_images() {
        let share = |probability_per_mille| {
            let areas = Erase { probability_per_mille, min_area_per_mille: 50, max_area_per_mille: 300 };
            let erase = Augment { erase: Some(areas), ..Augment::default() };
            (0..400).filter(|&seed| apply(erase, seed) != plain()).count()
        };
        assert_eq!(share(0), 0);
        assert!((60..140).contains(&share(250)), "{} of 400", share(250));
    }

    #[test]
    fn settings_read_strictly_and_default_to_none() {
        assert_eq!(toml::from_str::<Augment>("").unwrap(), Augment::default());
        let text = "crop_padding = 2\nflip = true\n[erase]\nprobability_per_mille = 250\nmin_area_per_mille = 20\n\
                    max_area_per_mille = 333";
        let full: Augment = toml::from_str(text).unwrap();
        assert_eq!((full.crop_padding, full.flip), (2, true));
        assert_eq!(full.erase.unwrap().max_area_per_mille, 333);
        assert!(toml::from_str::<Augment>("flipp = true").is_err());
        assert!(toml::from_str::<Augment>(&format!("{text}\ncount = 2")).is_err());
    }

    #[test]
    fn settings_beyond_their_limits_are_refused() {
        let erase = |probability_per_mille, min_area_per_mille, max_area_per_mille| Augment {
            erase: Some(Erase { probability_per_mille, min_area_per_mille, max_area_per_mille }),
            ..Augment::default()
        };
        assert!(erase(1000, 1, 1000).validate(8).is_ok());
        for wrong in [erase(1001, 1, 2), erase(1, 0, 2), erase(1, 3, 2), erase(1, 1, 1001)] {
            assert!(matches!(wrong.validate(8), Err(Error::Invalid { .. })), "{wrong:?}");
        }
        let crop = Augment { crop_padding: 9, ..Augment::default() };
        assert_eq!(
            crop.validate(8).unwrap_err().to_string(),
            "augment.crop_padding: 9 is more than the image size of 8"
        );

        assert!(normalize().validate(3).is_ok());
        assert!(normalize().validate(1).is_err());
        for (mean, std) in [(f32::NAN, 1.0), (0.0, f32::INFINITY), (0.0, 0.0), (0.0, -1.0), (0.0, 1e-40)] {
            let wrong = Preprocessing { mean: vec![mean], std: vec![std] };
            assert!(matches!(wrong.validate(1), Err(Error::Invalid { .. })), "{wrong:?}");
        }
    }
}
