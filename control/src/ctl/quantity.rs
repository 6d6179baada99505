//! Amounts with their units, three digits or so: exact ones are in the JSON.

/// `1.4 MiB`.
pub fn bytes(amount: u64) -> String {
    scaled(amount as f64, 1024.0, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"])
}

/// `9.3 Gbit/s`.
pub fn bits_per_second(bytes_per_second: f64) -> String {
    let units = ["bit/s", "kbit/s", "Mbit/s", "Gbit/s", "Tbit/s"];
    scaled(bytes_per_second * 8.0, 1000.0, &units)
}

/// `1.2 M/s`.
pub fn per_second(rate: f64) -> String {
    scaled(rate, 1000.0, &["/s", "k/s", "M/s", "G/s"])
}

/// `12.3 %`.
pub fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => String::new(),
        _ => format!("{:.1} %", 100.0 * part as f64 / whole as f64),
    }
}

/// `3 h 12 min`: the two largest units.
pub fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {} min", minutes % 60),
        _ => format!("{days} d {} h", hours % 24),
    }
}

fn scaled(mut amount: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // 999.95 would be shown as 1000.0.
    while amount >= step - 0.05 && unit + 1 < units.len() {
        amount /= step;
        unit += 1;
    }
    match unit {
        0 => format!("{amount:.0} {}", units[0]),
        _ => format!("{amount:.1} {}", units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_few_digits_and_a_unit() {
        assert_eq!([bytes(0), bytes(1023), bytes(1024)], ["0 B", "1023 B", "1.0 KiB"]);
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        assert_eq!([per_second(0.4), per_second(999.96)], ["0 /s", "1.0 k/s"]);
        assert_eq!(bits_per_second(1.25e9), "10.0 Gbit/s");
        assert_eq!([percent(1, 8), percent(0, 0)], ["12.5 %", ""]);
    }

    #[test]
    fn durations_have_two_units() {
        let shown = [59, 61, 3600, 90_061].map(duration);
        assert_eq!(shown, ["59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    }
}
