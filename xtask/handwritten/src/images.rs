//! Random images of 28 x 28 numbers, as Crayfish's generator makes them: single-precision numbers from 0 to below 1, as text.

use crate::Error;
use crate::bids::Generator;
use std::io::{self, BufWriter, Write};

/// Numbers in an image.
const PIXELS: usize = 28 * 28;

/// Writes `rows` images to standard output, as JSON Lines. The same seed gives the same bytes.
pub(crate) fn write(rows: u64, seed: u64) -> Result<(), Error> {
    let mut out = BufWriter::new(io::stdout().lock());
    let mut generator = Generator::new(seed);
    for _ in 0..rows {
        out.write_all(&image(&mut generator))?;
    }
    Ok(out.flush()?)
}

fn image(generator: &mut Generator) -> Vec<u8> {
    let mut line = b"{\"image\":[".to_vec();
    for pixel in 0..PIXELS {
        if pixel > 0 {
            line.push(b',');
        }
        let value = (generator.next() >> 40) as f32 / (1 << 24) as f32;
        line.extend_from_slice(zmij::Buffer::new().format(value).as_bytes());
    }
    line.extend_from_slice(b"]}\n");
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_repeat_and_have_all_pixels() {
        let make = |seed| image(&mut Generator::new(seed));
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
        let text = make(1);
        let pixels: Vec<f32> = sonic_rs::from_str(sonic_rs::get(&*text, &["image"]).unwrap().as_raw_str()).unwrap();
        assert!(pixels.len() == PIXELS && pixels.iter().all(|pixel| (0.0..1.0).contains(pixel)));
    }
}
