//! Embeddings of the pictures that were encoded last.

use std::collections::VecDeque;
use std::time::Duration;

use super::image::Image;

/// A picture that was encoded. A large one may have been cut into tiles, each encoded by itself.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) image: Image,
    pub(crate) tiles: Vec<Tile>,
}

/// The embeddings of a picture, or of a part of it.
#[derive(Debug, Clone)]
pub(crate) struct Tile {
    /// `[vision tokens][n_embd_inp]`
    pub(crate) embd: Vec<f32>,
    /// How long encoding it took.
    pub(crate) took: Duration,
}

/// Pictures by their pixels, the one used last first, within a number of bytes. What comes out is what went in, bit by bit:
/// pictures are compared pixel by pixel.
#[derive(Debug, Default)]
pub(crate) struct PictureCache {
    max_bytes: usize,
    pictures: VecDeque<Encoded>,
}

impl PictureCache {
    /// Of at most so many bytes of pixels and embeddings; of none it keeps nothing.
    pub(crate) fn new(max_bytes: usize) -> Self {
        Self {
            max_bytes,
            pictures: VecDeque::new(),
        }
    }

    /// Whether anything can be kept at all.
    pub(crate) fn is_on(&self) -> bool {
        self.max_bytes > 0
    }

    /// The picture with these pixels, if it is still there.
    pub(crate) fn get(&mut self, image: &Image) -> Option<&Encoded> {
        let i = self.pictures.iter().position(|picture| picture.image == *image)?;
        let found = self.pictures.remove(i)?;
        self.pictures.push_front(found);
        self.pictures.front()
    }

    /// Keeps a picture, and forgets those that were not used for longest where there is no room.
    pub(crate) fn put(&mut self, picture: Encoded) {
        self.pictures.retain(|other| other.image != picture.image);
        self.pictures.push_front(picture);
        while self.n_bytes() > self.max_bytes {
            self.pictures.pop_back();
        }
    }

    fn n_bytes(&self) -> usize {
        self.pictures.iter().map(Encoded::n_bytes).sum()
    }
}

impl Encoded {
    fn n_bytes(&self) -> usize {
        let of_tile = |tile: &Tile| size_of_val(tile.embd.as_slice());
        self.image.data().len() + self.tiles.iter().map(of_tile).sum::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 12 bytes of pixels and as many of embeddings.
    fn picture(shade: u8) -> Encoded {
        Encoded {
            image: Image::from_rgb8(2, 2, vec![shade; 12]).expect("a picture"),
            tiles: vec![Tile {
                embd: vec![f32::from(shade); 3],
                took: Duration::from_millis(5),
            }],
        }
    }

    fn has(cache: &mut PictureCache, shade: u8) -> bool {
        let found = cache.get(&picture(shade).image);
        found.is_some_and(|found| found.tiles[0].embd == [f32::from(shade); 3])
    }

    #[test]
    fn the_one_not_used_for_longest_makes_room() {
        let mut cache = PictureCache::new(2 * 24 + 23);
        cache.put(picture(1));
        cache.put(picture(2));
        assert!(has(&mut cache, 1), "it was used last now");
        cache.put(picture(3));
        assert_eq!([1, 2, 3].map(|shade| has(&mut cache, shade)), [true, false, true]);
        assert_eq!(cache.n_bytes(), 48);
        cache.put(picture(3));
        assert_eq!(
            (cache.n_bytes(), has(&mut cache, 1)),
            (48, true),
            "it was there already"
        );
    }

    #[test]
    fn what_does_not_fit_is_not_kept() {
        let mut cache = PictureCache::new(23);
        cache.put(picture(1));
        assert_eq!((has(&mut cache, 1), cache.n_bytes()), (false, 0));
        let mut none = PictureCache::default();
        none.put(picture(1));
        assert!(!none.is_on() && !has(&mut none, 1));
    }

    #[test]
    fn the_same_bytes_in_another_shape_are_another_picture() {
        let mut cache = PictureCache::new(1000);
        cache.put(picture(7));
        let tall = Image::from_rgb8(1, 4, vec![7; 12]).expect("a picture");
        assert!(cache.get(&tall).is_none());
    }
}
