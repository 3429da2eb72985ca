//! Files of pictures, of any format.

use visipruner::picture::{self, Background};

/// The longest side that a picture comes out with, in pixels.
const MAX_SIDE: u32 = 4096;

pub fn check(data: &[u8]) {
    match picture::decode(data, "a.png", Background([1, 2, 3])) {
        Ok(image) => {
            let (width, height) = (image.width(), image.height());
            assert!((1..=MAX_SIDE).contains(&width) && (1..=MAX_SIDE).contains(&height));
            assert_eq!(image.data().len(), width as usize * height as usize * 3);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}
