//! The detectors against what was published of them.

use super::*;

#[test]
fn every_word_is_read_and_written() {
    for word in Detector::WORDS {
        assert_eq!(word.parse::<Detector>().unwrap().to_string(), word);
    }
    let error = "ch".parse::<Detector>().unwrap_err().to_string();
    assert_eq!(error, "`ch` is no detector; there are fixed, chen, bertier, phi, blend");
}

/// Akka, `AccrualFailureDetectorSpec`: its table of φ, its cumulative distribution, its outliers.
#[test]
fn phi_has_the_values_that_akka_publishes() {
    let cdf =
        |x: f64, mean: f64, deviation: f64| 1.0 - 10f64.powf(-phi::phi((x - mean) / deviation));
    let normal = [
        (0.0, 0.5),
        (6.0, 0.7257),
        (15.0, 0.9332),
        (20.0, 0.97725),
        (25.0, 0.99379),
        (35.0, 0.99977),
        (40.0, 0.99997),
    ];
    for (x, expected) in normal {
        assert!((cdf(x, 0.0, 10.0) - expected).abs() < 0.001, "{x}");
    }
    assert!((cdf(22.0, 20.0, 3.0) - 0.7475).abs() < 0.001);
    let table = [
        (0.0, 0.0),
        (500.0, 0.1),
        (1000.0, 0.3),
        (1200.0, 1.6),
        (1400.0, 4.7),
        (1600.0, 10.8),
        (1700.0, 15.3),
    ];
    for (elapsed, expected) in table {
        let got = phi::phi((elapsed - 1000.0) / 100.0);
        assert!((got - expected).abs() <= 0.1, "φ({elapsed}) = {got}, published {expected}");
    }
    assert!((phi::phi(10.0) - 38.0).abs() < 1.0);
    assert_eq!(phi::phi(-25.0), 0.0);
}

#[test]
fn the_tail_is_inverted_exactly() {
    for tenth in 1..4_000 {
        let threshold = f64::from(tenth) / 10.0;
        let back = phi::phi(phi::deviations(threshold));
        // Beyond 300 a double holds no such small probability.
        if threshold < 300.0 {
            assert!((back / threshold - 1.0).abs() < 1e-9, "{threshold} came back as {back}");
        }
    }
    assert!((phi::deviations(8.0) - 5.226).abs() < 0.001, "{}", phi::deviations(8.0));
}

/// Akka, `HeartbeatHistory`: the plain variance, as long as the window holds all samples.
#[test]
fn mean_and_variance_are_those_that_akka_publishes() {
    let learnt = |samples: &[f32]| {
        let mut arrivals = Arrivals::default();
        for sample in samples {
            Detector::Phi(Phi::default()).learn(&mut arrivals, *sample, 1);
        }
        (arrivals.mean_ns, arrivals.spread)
    };
    let (mean, variance) = learnt(&[100.0, 200.0, 125.0, 340.0, 130.0]);
    assert!((mean - 179.0).abs() < 1e-3 && (variance - 7584.0).abs() < 1e-1, "{mean} {variance}");
    assert_eq!(learnt(&[1000.0]), (1000.0, 0.0));
    let (mean, variance) = learnt(&[100.0, 110.0, 90.0]);
    assert!((mean - 100.0).abs() < 1e-3 && (variance - 66.66667).abs() < 1e-3, "{mean} {variance}");
}

/// Chen et al., equation (6.3): the mean of `A_i − η i` over all arrivals, plus `η (l + 1)`.
#[test]
fn chen_expects_what_his_formula_does_while_the_window_holds_all() {
    const ETA: f64 = 1e9;
    let delays = [3e6, 1e6, 9e6, 2e6, 2e6, 5e6, 30e6, 1e6, 4e6, 2e6, 7e6, 3e6];
    // The seventh is lost.
    let heard: Vec<(f64, f64)> = (0..delays.len())
        .filter(|i| *i != 7)
        .map(|i| (i as f64, i as f64 * ETA + delays[i]))
        .collect();
    let chen = Detector::Chen(Chen::default());
    let mut arrivals = Arrivals::default();
    for pair in heard.windows(2) {
        let ((from, before), (to, at)) = (pair[0], pair[1]);
        let late = at - before - (to - from) * ETA;
        chen.learn(&mut arrivals, late as f32, (to - from) as u32);
    }
    let n = heard.len() as f64;
    let mean = heard.iter().map(|(i, at)| at - ETA * i).sum::<f64>() / n;
    let (last, last_at) = heard[heard.len() - 1];
    let published = mean + ETA * (last + 1.0);
    let ours = last_at + chen.forecast(&arrivals, ETA).unwrap().expected_ns;
    assert!((ours - published).abs() < 100.0, "{ours} against {published}");
}

/// The recursion of Bertier et al. with β = 1, φ = 4, γ = 0.1, worked out by hand for a sender that
/// was punctual ten times and then late by 10 ms twice: against its mean the errors are 10 ms and,
/// with the mean moved by a twelfth, 10 × 11/12 + 0 ms.
#[test]
fn bertier_follows_his_recursion() {
    let bertier = Bertier { gain: 1.0 / 64.0, ..Bertier::default() };
    let detector = Detector::Bertier(bertier);
    let mut arrivals = Arrivals::default();
    (0..10).for_each(|_| detector.learn(&mut arrivals, 0.0, 1));
    assert_eq!(detector.forecast(&arrivals, 1e9).unwrap().margin_ns, 0.0);
    detector.learn(&mut arrivals, 10e6, 1);
    // error 10, delay 1, var 1, margin 1 + 4.
    assert!((detector.forecast(&arrivals, 1e9).unwrap().margin_ns - 5e6).abs() < 10.0);
    detector.learn(&mut arrivals, 0.0, 1);
    let error = 10e6 * 11.0 / 12.0 - 1e6;
    let (delay, var) = (1e6 + 0.1 * error, 1e6 + 0.1 * (error - 1e6));
    let margin = detector.forecast(&arrivals, 1e9).unwrap().margin_ns;
    assert!((margin - (delay + 4.0 * var)).abs() < 100.0, "{margin}");
}

#[test]
fn a_loss_is_not_taken_for_jitter() {
    for word in ["bertier", "phi", "blend"] {
        let detector: Detector = word.parse().unwrap();
        let mut arrivals = Arrivals::default();
        (0..50).for_each(|i| detector.learn(&mut arrivals, [1e6, -1e6][i % 2], 1));
        let before = (arrivals.spread, arrivals.mean_ns, arrivals.extra);
        detector.learn(&mut arrivals, 400e6, 5);
        assert_eq!(before, (arrivals.spread, arrivals.mean_ns, arrivals.extra), "{word}");
    }
}
