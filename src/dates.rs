//! Moments of the wall clock as people, HTTP headers and JSON write them; for reading only, nothing is decided by them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];

/// Milliseconds since 1970.
#[must_use]
pub fn millis(at: SystemTime) -> i64 {
    i64::try_from(since(at).as_millis()).unwrap_or(i64::MAX)
}

/// `Sun, 22 Nov 2026 07:36:36 GMT`.
#[must_use]
pub fn http(at: SystemTime) -> String {
    let seconds = since(at).as_secs();
    let (year, month, day) = civil(seconds / 86_400);
    let weekday = pick(&DAYS, seconds / 86_400 % 7);
    let name = pick(&MONTHS, month - 1);
    let (h, m, s) = clock(seconds);
    format!("{weekday}, {day:02} {name} {year:04} {h:02}:{m:02}:{s:02} GMT")
}

/// `2026-11-22T07:36:37.397+00:00`, as a servlet's error page writes it.
#[must_use]
pub fn iso(at: SystemTime) -> String {
    format!("{}+00:00", to_the_millisecond(at))
}

/// `2026-11-22T07:36:37.397Z` (RFC 3339).
#[must_use]
pub fn rfc3339(at: SystemTime) -> String {
    format!("{}Z", to_the_millisecond(at))
}

fn to_the_millisecond(at: SystemTime) -> String {
    let since = since(at);
    let (year, month, day) = civil(since.as_secs() / 86_400);
    let (h, m, s) = clock(since.as_secs());
    let ms = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{ms:03}")
}

/// Reads what [`rfc3339`] writes; `None` for anything else.
#[must_use]
pub fn read_rfc3339(text: &str) -> Option<SystemTime> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<u64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (time, ms) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (h, m, s) = (time.next()??, time.next()??, time.next()??);
    if !(1970..10_000).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = days(year, month, day) * 86_400 + h * 3600 + m * 60 + s;
    UNIX_EPOCH.checked_add(Duration::from_secs(seconds) + Duration::from_millis(ms.parse().ok()?))
}

/// Reads what [`http`] writes, as seconds since 1970; `None` for anything else.
#[must_use]
pub fn read_http(text: &str) -> Option<u64> {
    let (_, date) = text.strip_suffix(" GMT")?.split_once(", ")?;
    let words: Vec<&str> = date.split(' ').collect();
    let [day, month, year, time] = words.as_slice() else {
        return None;
    };
    let month = MONTHS.iter().position(|name| name == month)? + 1;
    let (day, year): (u64, u64) = (day.parse().ok()?, year.parse().ok()?);
    let mut time = time.splitn(3, ':').map(|part| part.parse::<u64>().ok());
    let (h, m, s) = (time.next()??, time.next()??, time.next()??);
    let sound =
        (1970..10_000).contains(&year) && (1..=31).contains(&day) && h < 24 && m < 60 && s < 61;
    let days = days(year, u64::try_from(month).ok()?, day);
    sound.then_some(days * 86_400 + h * 3600 + m * 60 + s)
}

fn since(at: SystemTime) -> Duration {
    // A clock before 1970 shows 1970.
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

/// The inverse of [`civil`].
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * shifted + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn dates_read_as_the_original_wrote_them() {
        let at = UNIX_EPOCH + Duration::from_millis(1_795_332_997_397);
        assert_eq!(http(at), "Sun, 22 Nov 2026 07:36:37 GMT");
        assert_eq!(iso(at), "2026-11-22T07:36:37.397+00:00");
        let leap = UNIX_EPOCH + Duration::from_secs(951_782_400);
        assert_eq!(http(leap), "Tue, 29 Feb 2000 00:00:00 GMT");
        assert_eq!(http(UNIX_EPOCH), "Thu, 01 Jan 1970 00:00:00 GMT");
        assert_eq!(read_rfc3339("yesterday"), None);
    }

    proptest! {
        #[test]
        fn a_header_is_read_back_to_the_second(seconds in 0_u64..250_000_000_000) {
            let at = UNIX_EPOCH + Duration::from_secs(seconds);
            prop_assert_eq!(read_http(&http(at)), Some(seconds));
        }

        #[test]
        fn no_text_is_too_odd_for_a_header(text: String) {
            prop_assert_eq!(read_http(&text), None);
            let inside = read_http(&format!("Sun, {text} GMT"));
            prop_assert!(inside.is_none_or(|seconds| seconds < 300_000_000_000));
        }

        #[test]
        fn what_is_written_is_read_back(ms in 0_u64..4_000_000_000_000) {
            let at = UNIX_EPOCH + Duration::from_millis(ms);
            prop_assert_eq!(read_rfc3339(&rfc3339(at)), Some(at));
        }

        #[test]
        fn no_text_panics(text: String) {
            _ = read_rfc3339(&text);
        }
    }
}
