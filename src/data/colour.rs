//! Grey from colour and colour from grey, for images as planes.

/// The image `pixels`, which has `from` channels, with `to` channels; 1 and 3 are known. Colour becomes grey as in
/// Pillow's `convert("L")` (ITU-R 601-2).
///
/// # Shapes
/// - `pixels`: `[from, height, width]`
/// - returns `[to, height, width]`
pub(super) fn convert(pixels: Vec<u8>, from: usize, to: usize) -> Vec<u8> {
    match (from, to) {
        (1, 3) => pixels.repeat(3),
        (3, 1) => {
            let (red, rest) = pixels.split_at(pixels.len() / 3);
            let (green, blue) = rest.split_at(rest.len() / 2);
            let grey = |((r, g), b): ((&u8, &u8), &u8)| {
                ((u32::from(*r) * 19595 + u32::from(*g) * 38470 + u32::from(*b) * 7471 + 0x8000) >> 16) as u8
            };
            red.iter().zip(green).zip(blue).map(grey).collect()
        }
        _ => pixels,
    }
}
