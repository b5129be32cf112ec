//! Moments of the wall clock as HTTP headers and the servlet's error pages write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Milliseconds since 1970.
pub(crate) fn millis(at: SystemTime) -> i64 {
    i64::try_from(since(at).as_millis()).unwrap_or(i64::MAX)
}

/// `Sun, 22 Nov 2026 07:36:36 GMT`.
pub(crate) fn http(at: SystemTime) -> String {
    let seconds = since(at).as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let weekday = pick(&DAYS, seconds / 86_400 % 7);
    let name = pick(&MONTHS, month - 1);
    let (h, m, s) = clock(seconds);
    format!("{weekday}, {day:02} {name} {year:04} {h:02}:{m:02}:{s:02} GMT")
}

/// `2026-11-22T07:36:37.397+00:00`.
pub(crate) fn iso(at: SystemTime) -> String {
    let since = since(at);
    let (year, month, day) = civil(since.as_secs() / 86_400);
    let (h, m, s) = clock(since.as_secs());
    let ms = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}+00:00")
}

fn since(at: SystemTime) -> Duration {
    // A clock before 1970 shows 1970: the dates are for reading, nothing is decided by them.
    at.duration_since(UNIX_EPOCH).unwrap_or_default()
}

fn pick(names: &[&'static str], at: u64) -> &'static str {
    usize::try_from(at)
        .ok()
        .and_then(|at| names.get(at).copied())
        .unwrap_or_default()
}

fn clock(seconds: u64) -> (u64, u64, u64) {
    (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60)
}

/// Year, month (1..=12) and day (1..=31) of a day since 1970, by eras of 400 years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_read_as_the_original_wrote_them() {
        let at = UNIX_EPOCH + Duration::from_millis(1_795_332_997_397);
        assert_eq!(http(at), "Sun, 22 Nov 2026 07:36:37 GMT");
        assert_eq!(iso(at), "2026-11-22T07:36:37.397+00:00");
        let leap = UNIX_EPOCH + Duration::from_secs(951_782_400);
        assert_eq!(http(leap), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(http(UNIX_EPOCH), "Thu, 01 Jan 1970 00:00:00 GMT");
    }
}
