//! A small plot as SVG: curves over a linear axis of seconds, against a logarithmic one of rates.
//!
//! What was wanted is a dashed corner, and what is named a ring. Colours are Okabe and Ito's, which most
//! eyes tell apart; each curve is named at the right edge. Points without a single mistake have no logarithm:
//! they are drawn on the lower edge.

use std::fmt::Write;

/// A curve: its name, and its points from left to right, x and y.
pub struct Curve {
    /// Name in the legend.
    pub name: String,
    /// The points.
    pub points: Vec<(f64, f64)>,
}

/// What stands out in a plot, each x and y.
#[derive(Clone, Debug, Default)]
pub struct Marks {
    /// What was wanted: at most so much of either.
    pub wanted: Option<(f64, f64)>,
    /// The points that are named.
    pub named: Vec<(f64, f64)>,
}

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 440.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 700.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 385.0;
const COLOURS: [&str; 6] = ["#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9"];

/// Draws the curves with a title and the names of both axes.
pub fn svg(title: &str, x_name: &str, y_name: &str, curves: &[Curve], marks: &Marks) -> String {
    let marked = || marks.named.iter().chain(&marks.wanted).copied();
    let all = || curves.iter().flat_map(|curve| curve.points.iter().copied()).chain(marked());
    let x_most = all().map(|(x, _)| x).fold(0.0, f64::max).max(1e-9);
    let positive = || all().map(|(_, y)| y).filter(|y| *y > 0.0);
    let y_least = positive().fold(f64::INFINITY, f64::min).min(1e12).log10().floor() - 1.0;
    let y_most = positive().fold(0.0, f64::max).max(1e-12).log10().ceil().max(y_least + 1.0);
    let x_at = |x: f64| LEFT + (RIGHT - LEFT) * x / x_most;
    let y_at = |y: f64| {
        let share = if y > 0.0 { (y.log10() - y_least) / (y_most - y_least) } else { 0.0 };
        BOTTOM - (BOTTOM - TOP) * share
    };
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"white\"/>\n\
         <text x=\"{LEFT}\" y=\"24\" font-size=\"15\">{}</text>\n",
        escape(title)
    );
    // Writing to a String cannot fail, here and below.
    for decade in y_least as i32..=y_most as i32 {
        let y = y_at(10f64.powi(decade));
        let label = if decade == y_least as i32 { "none".into() } else { format!("1e{decade}") };
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {y:.1}H{RIGHT}\" stroke=\"#ddd\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{label}</text>",
            LEFT - 6.0,
            y + 4.0
        );
    }
    let step = nice_step(x_most / 8.0);
    for n in 0..=(x_most / step) as u32 {
        let value = f64::from(n) * step;
        let x = x_at(value);
        let _ = writeln!(
            out,
            "<path d=\"M{x:.1} {TOP}V{BOTTOM}\" stroke=\"#eee\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            BOTTOM + 18.0,
            (value * 1e6).round() / 1e6
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\
         <text transform=\"translate(20 {:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
        (LEFT + RIGHT) / 2.0,
        HEIGHT - 12.0,
        escape(x_name),
        (TOP + BOTTOM) / 2.0,
        escape(y_name)
    );
    for (place, curve) in curves.iter().enumerate() {
        let colour = COLOURS[place % COLOURS.len()];
        let points: Vec<String> =
            curve.points.iter().map(|(x, y)| format!("{:.1},{:.1}", x_at(*x), y_at(*y))).collect();
        for (x, y) in &curve.points {
            let (x, y) = (x_at(*x), y_at(*y));
            let _ =
                write!(out, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"2.5\" fill=\"{colour}\"/>");
        }
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"{colour}\" text-anchor=\"end\">{}</text>",
            points.join(" "),
            RIGHT - 6.0,
            TOP + 16.0 * (place as f64 + 1.0),
            escape(&curve.name)
        );
    }
    if let Some((x, y)) = marks.wanted {
        let (x, y) = (x_at(x), y_at(y));
        let _ = writeln!(
            out,
            "<path d=\"M{LEFT} {y:.1}H{x:.1}V{BOTTOM}\" fill=\"none\" stroke=\"#555\" \
             stroke-dasharray=\"5 4\"/><text x=\"{:.1}\" y=\"{:.1}\" fill=\"#555\">wanted</text>",
            LEFT + 6.0,
            y - 5.0
        );
    }
    for (x, y) in &marks.named {
        let (x, y) = (x_at(*x), y_at(*y));
        let _ = writeln!(
            out,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"6\" fill=\"none\" stroke=\"#000\"/>"
        );
    }
    out + "</svg>\n"
}

/// 1, 2 or 5 times a power of ten, the nearest above.
fn nice_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|digit| digit * power);
    steps.into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plot_stays_within_its_frame_and_says_its_names() {
        let curve = |name: &str, points| Curve { name: name.into(), points };
        let curves =
            [curve("a<b", vec![(0.1, 10.0), (2.0, 0.001)]), curve("none", vec![(3.0, 0.0)])];
        let marks = Marks { wanted: Some((5.0, 0.0001)), named: vec![(4.0, 0.0)] };
        let text = svg("Title & more", "seconds", "rate", &curves, &marks);
        assert!(text.starts_with("<svg ") && text.ends_with("</svg>\n"));
        for word in
            ["Title &amp; more", "a&lt;b", "seconds", "rate", ">none<", ">wanted<", "r=\"6\""]
        {
            assert!(text.contains(word), "{word}");
        }
        for line in text.split("points=\"").skip(1) {
            for point in line.split('"').next().unwrap().split(' ') {
                let (x, y) = point.split_once(',').unwrap();
                assert!((LEFT..=RIGHT).contains(&x.parse().unwrap()), "{point}");
                assert!((TOP..=BOTTOM).contains(&y.parse().unwrap()), "{point}");
            }
        }
        for at in text.split("cx=\"").skip(1) {
            let x: f64 = at.split('"').next().unwrap().parse().unwrap();
            assert!((LEFT..=RIGHT).contains(&x), "{at}");
        }
        assert!(svg("", "", "", &[], &Marks::default()).ends_with("</svg>\n"));
    }
}
