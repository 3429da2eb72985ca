//! Where to write labels so that they cover nothing: each takes the best of a number of places near what it names,
//! given where the others are, a few times round.

/// A rectangle in pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Area {
    pub left: f64,
    pub top: f64,
    pub right: f64,
    pub bottom: f64,
}

impl Area {
    /// So far around a point.
    pub fn around((x, y): (f64, f64), dx: f64, dy: f64) -> Self {
        Self {
            left: x - dx,
            top: y - dy,
            right: x + dx,
            bottom: y + dy,
        }
    }

    fn overlap(&self, other: &Self) -> f64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        width.max(0.0) * height.max(0.0)
    }

    fn contains(&self, other: &Self) -> bool {
        other.left >= self.left
            && other.right <= self.right
            && other.top >= self.top
            && other.bottom <= self.bottom
    }
}

/// What is not to be covered, and how bad a square pixel of it is.
pub struct Obstacle {
    pub area: Area,
    pub weight: f64,
}

/// The boxes along a line, as obstacles.
pub fn along(from: (f64, f64), to: (f64, f64), weight: f64) -> impl Iterator<Item = Obstacle> {
    let length = (to.0 - from.0).hypot(to.1 - from.1);
    let n = (length / 4.0).ceil().max(1.0) as usize;
    (0..=n).map(move |i| {
        let t = i as f64 / n as f64;
        let at = (from.0 + t * (to.0 - from.0), from.1 + t * (to.1 - from.1));
        Obstacle {
            area: Area::around(at, 2.0, 2.0),
            weight,
        }
    })
}

/// A label to be placed.
pub struct Label {
    /// Points of which it may stand beside any, the one it belongs to most first.
    pub anchors: Vec<(f64, f64)>,
    pub width: f64,
    pub height: f64,
    /// Left out where it would cover something.
    pub optional: bool,
}

/// Where a label went.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Spot {
    pub area: Area,
    /// The point that it stands beside.
    pub anchor: (f64, f64),
    /// Distance step, from 0: from 2 on, a line to the point helps.
    pub step: usize,
}

/// Gaps between a point and its label, by step.
const GAPS: [f64; 4] = [9.0, 16.0, 28.0, 46.0];
/// Directions, the preferred first; y runs downwards.
const DIRECTIONS: [(f64, f64); 8] = [
    (1.0, 0.0),
    (0.0, -1.0),
    (0.0, 1.0),
    (-1.0, 0.0),
    (1.0, -1.0),
    (1.0, 1.0),
    (-1.0, -1.0),
    (-1.0, 1.0),
];
/// Covering another label is worse than covering anything drawn.
const LABEL_WEIGHT: f64 = 12.0;
/// Rounds after the first, in which labels make room for those placed after them.
const N_ROUNDS: usize = 4;

/// The places of the labels, `None` for optional ones without a free place. All places are inside `bounds`, as far as
/// labels fit there at all.
pub fn place(labels: &[Label], obstacles: &[Obstacle], bounds: Area) -> Vec<Option<Spot>> {
    let mut spots: Vec<Option<Spot>> = vec![None; labels.len()];
    for round in 0..=N_ROUNDS {
        for (i, label) in labels.iter().enumerate() {
            let others = spots
                .iter()
                .enumerate()
                .filter(|(j, _)| *j != i)
                .filter_map(|(_, spot)| *spot);
            let others: Vec<Area> = others.map(|spot| spot.area).collect();
            let best = best_spot(label, obstacles, &others, bounds);
            let fits = best.is_some_and(|(_, covered)| covered < 1.0);
            spots[i] = best
                .filter(|_| !label.optional || (fits && round > 0))
                .map(|(spot, _)| spot);
        }
    }
    spots
}

/// The best place, and how much it covers.
fn best_spot(label: &Label, obstacles: &[Obstacle], others: &[Area], bounds: Area) -> Option<(Spot, f64)> {
    let mut best: Option<(Spot, f64, f64)> = None;
    for (rank, &anchor) in label.anchors.iter().enumerate() {
        for (step, &gap) in GAPS
            .iter()
            .enumerate()
            .take(if label.optional { 1 } else { GAPS.len() })
        {
            for (turn, &direction) in DIRECTIONS.iter().enumerate() {
                let area = beside(anchor, label, direction, gap);
                if !bounds.contains(&area) {
                    continue;
                }
                let of_obstacles: f64 = obstacles.iter().map(|o| o.weight * o.area.overlap(&area)).sum();
                let of_labels: f64 = others
                    .iter()
                    .map(|other| LABEL_WEIGHT * other.overlap(&area))
                    .sum();
                let covered = of_obstacles + of_labels;
                let cost = covered + 9.0 * step as f64 * step as f64 + 1.5 * turn as f64 + 4.0 * rank as f64;
                if best.as_ref().is_none_or(|(_, _, lowest)| cost < *lowest) {
                    best = Some((Spot { area, anchor, step }, covered, cost));
                }
            }
        }
    }
    best.map(|(spot, covered, _)| (spot, covered))
}

fn beside((x, y): (f64, f64), label: &Label, (dx, dy): (f64, f64), gap: f64) -> Area {
    let gap = if dx != 0.0 && dy != 0.0 { gap * 0.75 } else { gap };
    let (half_width, half_height) = (label.width / 2.0, label.height / 2.0);
    let centre = (x + dx * (gap + half_width), y + dy * (gap + half_height));
    Area::around(centre, half_width, half_height)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Area = Area {
        left: 0.0,
        top: 0.0,
        right: 200.0,
        bottom: 100.0,
    };

    fn label(anchor: (f64, f64)) -> Label {
        Label {
            anchors: vec![anchor],
            width: 60.0,
            height: 14.0,
            optional: false,
        }
    }

    #[test]
    fn a_lone_label_stands_to_the_right() {
        let spot = place(&[label((50.0, 50.0))], &[], BOUNDS)[0].unwrap();
        assert_eq!((spot.area.left, spot.area.top, spot.step), (59.0, 43.0, 0));
    }

    #[test]
    fn labels_of_neighbouring_points_do_not_overlap_and_stay_inside() {
        let labels: Vec<Label> = (0..5)
            .map(|i| label((180.0, 40.0 + 5.0 * f64::from(i))))
            .collect();
        let spots = place(&labels, &[], BOUNDS);
        for (i, spot) in spots.iter().enumerate() {
            let area = spot.unwrap().area;
            assert!(BOUNDS.contains(&area));
            assert!(
                spots[..i]
                    .iter()
                    .all(|other| other.unwrap().area.overlap(&area) == 0.0),
                "{i}"
            );
        }
    }

    #[test]
    fn optional_labels_give_way() {
        let wall = || Obstacle {
            area: Area::around((100.0, 50.0), 100.0, 50.0),
            weight: 1.0,
        };
        let optional = || Label {
            optional: true,
            ..label((50.0, 50.0))
        };
        assert_eq!(place(&[optional()], &[wall()], BOUNDS), [None]);
        assert!(place(&[optional()], &[], BOUNDS)[0].is_some());
        assert!(place(&[label((50.0, 50.0))], &[wall()], BOUNDS)[0].is_some());
    }
}
