//! Which prompts are searched with, and which are held out.

/// Of so many pictures, one is held out.
const ONE_OF: usize = 4;

/// Prompts, by number, ascending.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Split {
    pub search: Vec<usize>,
    pub held_out: Vec<usize>,
}

impl Split {
    /// Holds out the prompts of every fourth picture; with fewer than four pictures, every fourth prompt.
    pub fn new(pictures: &[usize]) -> Self {
        let mut distinct: Vec<usize> = Vec::new();
        for picture in pictures {
            if !distinct.contains(picture) {
                distinct.push(*picture);
            }
        }
        let place = |i: usize| match distinct.len() {
            n if n < ONE_OF => i,
            _ => distinct
                .iter()
                .position(|picture| *picture == pictures[i])
                .unwrap_or(i),
        };
        let is_held_out = |i: &usize| place(*i) % ONE_OF == ONE_OF - 1;
        let (held_out, search) = (0..pictures.len()).partition(is_held_out);
        Self { search, held_out }
    }
}

/// `n` of the items at equal distances, or all.
pub(super) fn evenly(items: &[usize], n: usize) -> Vec<usize> {
    let n = n.clamp(1, items.len().max(1));
    (0..n)
        .filter_map(|i| items.get(i * items.len() / n).copied())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_held_out_as_a_whole() {
        let split = Split::new(&[7, 7, 3, 5, 5, 9, 9, 1, 3]);
        assert_eq!(split.held_out, [5, 6]);
        assert_eq!(split.search, [0, 1, 2, 3, 4, 7, 8]);
    }

    #[test]
    fn few_pictures_are_split_by_prompt() {
        let split = Split::new(&[0, 0, 0, 0, 1, 1, 1, 1, 1]);
        assert_eq!(split.held_out, [3, 7]);
        assert_eq!(Split::new(&[0, 0]).search, [0, 1]);
        assert_eq!(Split::new(&[]).search, [0; 0]);
    }

    #[test]
    fn some_evenly() {
        assert_eq!(evenly(&[1, 2, 3, 4, 5, 6], 3), [1, 3, 5]);
        assert_eq!(evenly(&[1, 2], 9), [1, 2]);
        assert_eq!(evenly(&[], 3), [0; 0]);
    }
}
