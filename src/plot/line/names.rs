//! Writing names beside lines and notes beside points, where they cover nothing.

use super::{Drawing, Series};
use crate::plot::frame::WIDTH;
use crate::plot::labels::{Area, Label, Obstacle, along, place};
use crate::plot::svg::Anchor;
use crate::plot::theme::{self, text_width};

const LABEL_HEIGHT: f64 = 15.0;
const NOTE_HEIGHT: f64 = 13.0;
/// Weights of what labels should not cover.
const MARKER: f64 = 5.0;
const LINE: f64 = 2.0;
const INTERVAL: f64 = 1.5;

impl Drawing<'_> {
    /// Names of lines, then of the reference, then notes at points.
    pub(super) fn labels(&mut self) {
        let (texts, labels) = self.wanted_labels();
        let bounds = Area {
            left: self.frame.plot.left + 2.0,
            // names of marks stand just above the plot
            top: if self.marks.is_empty() {
                self.frame.plot.top - 14.0
            } else {
                self.frame.plot.top
            },
            right: WIDTH - 6.0,
            bottom: self.frame.plot.bottom - 3.0,
        };
        let spots = place(&labels, &self.obstacles(), bounds);
        for ((text, class), spot) in texts.iter().zip(spots) {
            let Some(spot) = spot else { continue };
            let area = spot.area;
            if spot.step > 1 {
                let near = (
                    spot.anchor.0.clamp(area.left, area.right),
                    spot.anchor.1.clamp(area.top, area.bottom),
                );
                self.svg.line(spot.anchor, near, "axis", 1.0);
            }
            let baseline = (area.bottom - 3.5).round();
            // The text is centred where its width was only estimated, so that errors go to both sides.
            let (x, anchor) = match spot.anchor.0 {
                x if area.left > x => (area.left, Anchor::Start),
                x if area.right < x => (area.right, Anchor::End),
                _ => ((area.left + area.right) / 2.0, Anchor::Middle),
            };
            self.svg.text((x, baseline), class, anchor, text);
        }
    }

    fn wanted_labels(&self) -> (Vec<(String, String)>, Vec<Label>) {
        let mut texts = Vec::new();
        let mut labels = Vec::new();
        let mut want =
            |text: &str, class: String, size: f64, height: f64, anchors: Vec<(f64, f64)>, optional: bool| {
                if !text.is_empty() && !anchors.is_empty() {
                    labels.push(Label {
                        anchors,
                        width: text_width(text, size),
                        height,
                        optional,
                    });
                    texts.push((text.to_owned(), class));
                }
            };
        for (i, series) in self.chart.series.iter().enumerate() {
            let anchors = self.name_anchors(series);
            want(
                &series.name,
                format!("strong halo f{}", i % theme::N_COLOURS),
                theme::BODY * 1.04,
                LABEL_HEIGHT,
                anchors,
                false,
            );
        }
        for reference in &self.chart.references {
            let y = self.frame.y.at(reference.y);
            let anchors = [0.0, 0.25, 0.5, 0.75].map(|t| {
                (
                    self.frame.plot.right - 60.0 - t * (self.frame.plot.right - self.frame.plot.left - 120.0),
                    y,
                )
            });
            want(
                &reference.name,
                "muted small halo".to_owned(),
                theme::SMALL,
                NOTE_HEIGHT,
                anchors.to_vec(),
                false,
            );
        }
        for point in self.chart.series.iter().flat_map(|series| &series.points) {
            want(
                &point.note,
                "muted small halo".to_owned(),
                theme::SMALL,
                NOTE_HEIGHT,
                vec![self.at(point)],
                true,
            );
        }
        (texts, labels)
    }

    /// Where a line's name may stand: at either end, or at any point between.
    fn name_anchors(&self, series: &Series) -> Vec<(f64, f64)> {
        let mut anchors: Vec<_> = series.points.iter().map(|point| self.at(point)).collect();
        anchors.reverse();
        let every = if series.markers {
            1
        } else {
            (anchors.len() / 12).max(1)
        };
        anchors.into_iter().step_by(every).collect()
    }

    fn obstacles(&self) -> Vec<Obstacle> {
        let mut obstacles = Vec::new();
        for series in &self.chart.series {
            let path: Vec<_> = series.points.iter().map(|point| self.at(point)).collect();
            obstacles.extend(path.windows(2).flat_map(|ends| along(ends[0], ends[1], LINE)));
            for (point, &at) in series.points.iter().zip(&path) {
                if series.markers {
                    let area = Area::around(at, 7.0, 7.0);
                    obstacles.push(Obstacle { area, weight: MARKER });
                }
                if let Some([low, high]) = point.interval {
                    obstacles.extend(along(
                        (at.0, self.frame.y.at(low)),
                        (at.0, self.frame.y.at(high)),
                        INTERVAL,
                    ));
                }
            }
        }
        for reference in &self.chart.references {
            let y = self.frame.y.at(reference.y);
            obstacles.extend(along(
                (self.frame.plot.left, y),
                (self.frame.plot.right, y),
                INTERVAL,
            ));
        }
        for mark in &self.chart.marks {
            let x = self.frame.x.at(mark.x);
            obstacles.extend(along(
                (x, self.frame.plot.top),
                (x, self.frame.plot.bottom),
                INTERVAL,
            ));
        }
        obstacles
    }
}
