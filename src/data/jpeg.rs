//! Whether a JPEG is whole. The decoder fills in what is missing at the end, and a data set must not hold such images.
//!
//! *Source:* ITU-T T.81, annex B. A file is a sequence of segments. Each begins with a marker: `0xFF` and a code. Coded
//! data follow the header of a scan; in them `0xFF` is followed by 0 or by a restart marker.

const END: u8 = 0xd9;

/// Whether the end marker follows the segments of `file`. Bytes after it are allowed, because cameras write some.
pub(super) fn is_whole(file: &[u8]) -> bool {
    // The start marker has no length.
    let mut rest = file.get(2..).unwrap_or_default();
    while let Some(at) = next_marker(rest) {
        let code = rest[at + 1];
        rest = &rest[at + 2..];
        if code == END {
            return true;
        }
        let Some(length) = rest.first_chunk().map(|length| usize::from(u16::from_be_bytes(*length))) else {
            return false;
        };
        let Some(after) = rest.get(length..) else { return false };
        rest = after;
    }
    false
}

/// Where the next marker of a segment is, or the end marker. This skips coded data, restarts and fill bytes.
fn next_marker(bytes: &[u8]) -> Option<usize> {
    bytes.windows(2).position(|pair| pair[0] == 0xff && !matches!(pair[1], 0 | 0x01 | 0xd0..=0xd8 | 0xff))
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use image::{DynamicImage, ImageFormat, RgbImage};

    use super::*;

    #[test]
    fn a_cut_anywhere_is_found() {
        let mut file = Cursor::new(Vec::new());
        let image =
            RgbImage::from_fn(40, 24, |x, y| image::Rgb([(x * 9) as u8, (y * 5) as u8, (x * y) as u8]));
        DynamicImage::from(image).write_to(&mut file, ImageFormat::Jpeg).unwrap();
        let file = file.into_inner();
        assert!(is_whole(&file));
        assert!(is_whole(&[&file[..], b"more"].concat()));
        for end in 0..file.len() {
            assert!(!is_whole(&file[..end]), "{end} of {}", file.len());
        }
        // The thumbnail in a segment of the header is a whole JPEG, and its end is not that of the image.
        let thumbnail = [&[0xff, 0xe1][..], &(file.len() as u16 + 2).to_be_bytes(), &file].concat();
        let nested = [&file[..2], &thumbnail, &file[2..]].concat();
        assert!(is_whole(&nested));
        assert!(!is_whole(&nested[..nested.len() - 2]));
        let scan = file.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        let (head, data) = file.split_at(scan);
        let filled = [head, &[0xff, 0xff], data].concat();
        assert!(is_whole(&filled));
    }
}
