//! A Pod's program on lent sockets, beside one on its kernel's.

use super::grid::Grid;
use super::{compared, maybe, median, spread};
use crate::record::{PodEcho, PodSocket, Record};
use crate::statistics::Summary;

/// A figure of a round.
type Figure = fn(&PodEcho) -> f64;

/// The table of rates and round trips.
pub fn table(records: &[Record]) -> Option<String> {
    let rounds = records.iter().filter_map(|record| match record {
        Record::PodEcho(echo) => Some(echo),
        _ => None,
    });
    let rounds: Vec<&PodEcho> = rounds.collect();
    let first = *rounds.first()?;
    let of = |socket: PodSocket, figure: Figure| -> Vec<f64> {
        let own = rounds.iter().filter(|it| it.socket == socket);
        own.map(|it| figure(it)).collect()
    };
    let mut grid = Grid::new(&["", "lent sockets", "kernel's UDP socket", "lent / kernel"], 1);
    let figures: [(&str, Figure); 5] = [
        ("answers, kpps", |it| it.kpps),
        ("not answered, of a million", |it| {
            1e6 * it.lost as f64 / ((it.lost + it.answered) as f64).max(1.0)
        }),
        ("datapath, CPU ms", |it| it.datapath_cpu_ms as f64),
        ("round trip p50, us (f)", |it| it.p50_us),
        ("round trip p99, us (f)", |it| it.p99_us),
    ];
    for (index, (name, figure)) in figures.into_iter().enumerate() {
        let [lent, kernel] = [PodSocket::Lent, PodSocket::Kernel].map(|it| of(it, figure));
        let pairs: Vec<(f64, f64)> = lent.iter().copied().zip(kernel.iter().copied()).collect();
        let ratio = if index == 1 { "-".to_owned() } else { compared(&pairs) };
        let [lent, kernel] = [lent, kernel].map(|it| spread(Summary::of(&it)));
        grid.row(vec![name.to_owned(), lent, kernel, ratio]);
    }
    let noise = |part: Figure| maybe(median(&rounds.iter().map(|it| part(it)).collect::<Vec<_>>()));
    let count = rounds.iter().filter(|it| it.socket == first.socket).count();
    Some(grid.text(&format!(
        "A Pod asks, another one on the same node answers: {} B of payload, {} datagrams under way \
         for the rate, {} questions a second for the round trips; {count} rounds in turns, steal \
         {} ms, load {}: median [least-most].",
        first.bytes,
        first.window,
        first.asked_hz,
        noise(|it| it.noise.steal_ms as f64),
        noise(|it| it.noise.load),
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::Noise;

    #[test]
    fn both_sockets_have_a_column_and_their_ratio_is_told() {
        let echo = |socket, kpps| {
            let (round, bytes, window, lost, asked_hz, unanswered) = (0, 64, 64, 0, 2000, 0);
            let noise = Noise::default();
            let (p50_us, p99_us, datapath_cpu_ms, answered) = (20.0, 40.0, 100, 1);
            Record::PodEcho(PodEcho {
                round,
                socket,
                bytes,
                window,
                kpps,
                answered,
                lost,
                asked_hz,
                p50_us,
                p99_us,
                unanswered,
                datapath_cpu_ms,
                noise,
            })
        };
        let pair = [echo(PodSocket::Kernel, 100.0), echo(PodSocket::Lent, 200.0)];
        let records: Vec<Record> = pair.iter().cycle().take(12).cloned().collect();
        let text = table(&records).unwrap_or_default();
        assert!(text.contains("200 [200-200]") && text.contains("100 [100-100]"), "{text}");
        assert!(text.contains("2.00 x") && text.contains("6 rounds"), "{text}");
        assert_eq!(table(&[]), None);
    }
}
