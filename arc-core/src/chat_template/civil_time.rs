//! The current date for templates that state it (`strftime_now`), in UTC.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// The current time in the format of C's `strftime`.
#[expect(clippy::needless_pass_by_value, reason = "minijinja passes arguments by value")]
pub(super) fn now(format: String) -> String {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    format_time(&format, seconds)
}

/// The time of `seconds` since 1970 in a format. Directives that are not known stay as they are.
fn format_time(format: &str, seconds: u64) -> String {
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute) = (second / 3600, second / 60 % 60);
    let month_name = MONTHS[(month - 1) as usize];
    let day_name = DAYS[(days % 7) as usize];

    let mut text = String::new();
    let mut characters = format.chars().peekable();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        // `%-d`: without a leading zero.
        let bare = characters.next_if_eq(&'-').is_some();
        let two = |number: u64| {
            if bare { number.to_string() } else { format!("{number:02}") }
        };
        match characters.next() {
            Some('Y') => text.push_str(&year.to_string()),
            Some('y') => text.push_str(&two(year % 100)),
            Some('m') => text.push_str(&two(month)),
            Some('d') => text.push_str(&two(day)),
            Some('B') => text.push_str(month_name),
            Some('b') => text.push_str(&month_name[..3]),
            Some('A') => text.push_str(day_name),
            Some('a') => text.push_str(&day_name[..3]),
            Some('H') => text.push_str(&two(hour)),
            Some('I') => text.push_str(&two((hour + 11) % 12 + 1)),
            Some('p') => text.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('M') => text.push_str(&two(minute)),
            Some('S') => text.push_str(&two(second % 60)),
            Some('%') => text.push('%'),
            other => {
                text.push_str(if bare { "%-" } else { "%" });
                text.extend(other);
            }
        }
    }
    text
}

/// Year, month and day of a day since 1970 in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    // 400 years have 146,097 days.
    let mut year = 1970 + days / 146_097 * 400;
    let mut left = days % 146_097;
    while left >= 365 + u64::from(leap(year)) {
        left -= 365 + u64::from(leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // From GNU date: `date -u -d @SECONDS +…`.
        let format = "%Y-%m-%d %A %H:%M:%S %d %b %-d %B %I %p %y %% %Q";
        for (seconds, expected) in [
            (0, "1970-01-01 Thursday 00:00:00 01 Jan 1 January 12 AM 70 % %Q"),
            (951_782_400, "2000-02-29 Tuesday 00:00:00 29 Feb 29 February 12 AM 00 % %Q"),
            (1_735_689_599, "2024-12-31 Tuesday 23:59:59 31 Dec 31 December 11 PM 24 % %Q"),
            (4_107_542_400, "2100-03-01 Monday 00:00:00 01 Mar 1 March 12 AM 00 % %Q"),
        ] {
            assert_eq!(format_time(format, seconds), expected);
        }
    }
}
