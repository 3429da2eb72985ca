use super::*;
use crate::plot::tests::numbers;

fn point(x: f64, y: f64, on_front: bool) -> Point {
    Point {
        x,
        y,
        interval: Some([y - 1.0, y + 1.0]),
        note: format!("{x}"),
        tooltip: format!("x is {x}"),
        on_front,
    }
}

fn chart() -> LineChart {
    LineChart {
        title: "Accuracy & cost".to_owned(),
        front: "Pareto front".to_owned(),
        series: vec![
            Series {
                name: "visipruner".to_owned(),
                points: vec![point(10.0, 90.0, true), point(20.0, 95.0, true)],
                markers: true,
            },
            Series {
                name: "random".to_owned(),
                points: vec![point(15.0, 80.0, false)],
                markers: true,
            },
        ],
        references: vec![Reference {
            y: 96.0,
            name: "dense 96 %".to_owned(),
        }],
        marks: vec![Mark {
            x: 12.0,
            name: "k".to_owned(),
        }],
        ..LineChart::default()
    }
}

fn n_of(svg: &str, what: &str) -> usize {
    svg.matches(what).count()
}

#[test]
fn every_series_has_its_name_and_every_point_its_tooltip() {
    let svg = chart().to_svg();
    for text in [
        "Accuracy &amp; cost",
        ">visipruner</text>",
        ">random</text>",
        ">dense 96 %</text>",
        ">k</text>",
    ] {
        assert!(svg.contains(text), "{text}");
    }
    for x in [10, 15, 20] {
        assert!(svg.contains(&format!("<title>x is {x}</title>")));
    }
}

#[test]
fn points_off_the_front_are_hollow() {
    let mut chart = chart();
    let n_hollow = |chart: &LineChart| n_of(&chart.to_svg(), "class=\"hollow l");
    assert_eq!(n_hollow(&chart), 1);
    chart
        .series
        .iter_mut()
        .flat_map(|series| &mut series.points)
        .for_each(|point| point.on_front = false);
    assert_eq!(n_hollow(&chart), 0);
    assert!(!chart.to_svg().contains("Pareto front"));
}

/// The first point of visipruner is left of and below its second one.
#[test]
fn greater_values_are_further_right_and_up() {
    let svg = chart().to_svg();
    let line = svg
        .lines()
        .find(|line| line.contains("class=\"none l0\" ") && line.contains("stroke-width=\"2\""))
        .unwrap();
    let coordinates = numbers(line, "points");
    assert!(
        coordinates[0] < coordinates[2] && coordinates[1] > coordinates[3],
        "{coordinates:?}"
    );
}
