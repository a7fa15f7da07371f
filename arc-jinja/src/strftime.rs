//! A moment in UTC, in the formats of Python's `strftime`.

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
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A moment that templates may ask for with `strftime_now`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    seconds: u64,
    microsecond: u32,
}

impl Moment {
    /// The present moment.
    #[must_use]
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { seconds: since.as_secs(), microsecond: since.subsec_micros() }
    }

    /// So many seconds after the begin of 1970.
    #[must_use]
    pub const fn from_unix_seconds(seconds: u64) -> Self {
        Self { seconds, microsecond: 0 }
    }

    /// The moment in a format of C's `strftime` with glibc's flags `-`, `_`, `0`, `^` and `#`. Directives
    /// that are not known stay as they are.
    #[must_use]
    pub fn format(self, format: &str) -> String {
        let mut text = String::new();
        let mut rest = format;
        while let Some(at) = rest.find('%') {
            text.push_str(&rest[..at]);
            let directive = &rest[at + 1..];
            let flag = directive.chars().next().filter(|flag| "-_0^#".contains(*flag));
            let after = &directive[flag.map_or(0, char::len_utf8)..];
            let Some(letter) = after.chars().next() else {
                text.push_str(&rest[at..]);
                return text;
            };
            match self.field(letter) {
                Some(field) => text.push_str(&field.with(flag)),
                None => {
                    text.push('%');
                    text.extend(flag);
                    text.push(letter);
                }
            }
            rest = &after[letter.len_utf8()..];
        }
        text + rest
    }

    fn field(self, letter: char) -> Option<Field> {
        let (days, second) = (self.seconds / 86_400, self.seconds % 86_400);
        let Date { year, month, day, day_of_year } = Date::of(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let weekday = (days + 4) % 7;
        let day_name = DAYS[weekday as usize];
        let month_name = MONTHS[(month - 1) as usize];
        let (iso_year, iso_week) = iso_week(year, day_of_year, weekday);
        let number = |value: u64, width: usize| Some(Field::Number { value, width, pad: '0' });
        let padded = |value: u64| Some(Field::Number { value, width: 2, pad: ' ' });
        let words = |text: &str| Some(Field::Words(text.to_owned()));
        let format = |format: &str| Some(Field::Words(self.format(format)));
        match letter {
            'Y' => number(year, 4),
            'G' => number(iso_year, 4),
            'C' => number(year / 100, 2),
            'y' => number(year % 100, 2),
            'g' => number(iso_year % 100, 2),
            'm' => number(month, 2),
            'd' => number(day, 2),
            'e' => padded(day),
            'j' => number(day_of_year + 1, 3),
            'H' => number(hour, 2),
            'k' => padded(hour),
            'I' => number((hour + 11) % 12 + 1, 2),
            'l' => padded((hour + 11) % 12 + 1),
            'M' => number(minute, 2),
            'S' => number(second, 2),
            'f' => number(self.microsecond.into(), 6),
            's' => number(self.seconds, 1),
            'u' => number((weekday + 6) % 7 + 1, 1),
            'w' => number(weekday, 1),
            // Weeks that begin on Sunday, on Monday, and those of ISO 8601.
            'U' => number((day_of_year + 7 - weekday) / 7, 2),
            'W' => number((day_of_year + 7 - (weekday + 6) % 7) / 7, 2),
            'V' => number(iso_week, 2),
            'B' => words(month_name),
            'b' | 'h' => words(&month_name[..3]),
            'A' => words(day_name),
            'a' => words(&day_name[..3]),
            'p' => words(if hour < 12 { "AM" } else { "PM" }),
            'P' => words(if hour < 12 { "am" } else { "pm" }),
            'D' | 'x' => format("%m/%d/%y"),
            'F' => format("%Y-%m-%d"),
            'T' | 'X' => format("%H:%M:%S"),
            'R' => format("%H:%M"),
            'r' => format("%I:%M:%S %p"),
            'c' => format("%a %b %e %H:%M:%S %Y"),
            // A moment without a time zone has none to write, in Python.
            'Z' | 'z' => words(""),
            'n' => words("\n"),
            't' => words("\t"),
            '%' => words("%"),
            _ => None,
        }
    }
}

enum Field {
    Number { value: u64, width: usize, pad: char },
    Words(String),
}

impl Field {
    fn with(self, flag: Option<char>) -> String {
        match self {
            Self::Number { value, width, pad } => {
                let pad = match flag {
                    Some('-') => return value.to_string(),
                    Some('_') => ' ',
                    Some('0') => '0',
                    _ => pad,
                };
                let digits = value.to_string();
                let missing = width.saturating_sub(digits.len());
                format!("{}{digits}", std::iter::repeat_n(pad, missing).collect::<String>())
            }
            Self::Words(text) => match flag {
                Some('^') => text.to_uppercase(),
                Some('#') if matches!(&*text, "AM" | "PM") => text.to_lowercase(),
                Some('#') => text.to_uppercase(),
                _ => text,
            },
        }
    }
}

/// Month and day from 1, day of the year from 0.
struct Date {
    year: u64,
    month: u64,
    day: u64,
    day_of_year: u64,
}

fn is_leap(year: u64) -> bool {
    year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400)
}

fn days_of(year: u64) -> u64 {
    365 + u64::from(is_leap(year))
}

impl Date {
    /// The date of a day since 1970 in the Gregorian calendar.
    fn of(days: u64) -> Self {
        // 400 years have 146,097 days.
        let mut year = 1970 + days / 146_097 * 400;
        let mut left = days % 146_097;
        while left >= days_of(year) {
            left -= days_of(year);
            year += 1;
        }
        let day_of_year = left;
        let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 1;
        for length in lengths {
            if left < length {
                break;
            }
            left -= length;
            month += 1;
        }
        Self { year, month, day: left + 1, day_of_year }
    }
}

/// Year and week of ISO 8601: weeks begin on Monday, and the first has the year's first Thursday.
fn iso_week(year: u64, day_of_year: u64, weekday: u64) -> (u64, u64) {
    let from_monday = (weekday + 6) % 7;
    // The day of the year, from 0, of the Thursday of this week; before or behind the year's days, the
    // week is of another year.
    let thursday = (day_of_year + 3).checked_sub(from_monday);
    match thursday {
        None => {
            let last = days_of(year - 1);
            (year - 1, (last + day_of_year + 3 - from_monday) / 7 + 1)
        }
        Some(thursday) if thursday >= days_of(year) => (year + 1, 1),
        Some(thursday) => (year, thursday / 7 + 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From GNU date: `date -u -d @SECONDS +…`; `%f` and the empty `%Z` from Python.
    #[test]
    fn dates_are_those_of_the_calendar() {
        let format = "%Y-%m-%d %A %H:%M:%S %d %b %-d %B %I %p %y %% %Q|%a %e %j %k %l %u %w %U %W %V %G %g %C %D \
                      %F %T %R %c %f%Z";
        for (seconds, expected) in [
            (
                0,
                "1970-01-01 Thursday 00:00:00 01 Jan 1 January 12 AM 70 % %Q|Thu  1 001  0 12 4 4 00 00 01 1970 70 \
                 19 01/01/70 1970-01-01 00:00:00 00:00 Thu Jan  1 00:00:00 1970 000000",
            ),
            (
                1_735_689_599,
                "2024-12-31 Tuesday 23:59:59 31 Dec 31 December 11 PM 24 % %Q|Tue 31 366 23 11 2 2 52 53 01 2025 25 \
                 20 12/31/24 2024-12-31 23:59:59 23:59 Tue Dec 31 23:59:59 2024 000000",
            ),
            (
                1_609_459_200,
                "2021-01-01 Friday 00:00:00 01 Jan 1 January 12 AM 21 % %Q|Fri  1 001  0 12 5 5 00 00 53 2020 20 \
                 20 01/01/21 2021-01-01 00:00:00 00:00 Fri Jan  1 00:00:00 2021 000000",
            ),
        ] {
            assert_eq!(Moment::from_unix_seconds(seconds).format(format), expected);
        }
    }

    #[test]
    fn flags_pad_and_capitalise() {
        let moment = Moment::from_unix_seconds(951_782_400);
        assert_eq!(moment.format("%_m %-m %0e %^b %#p %-"), " 2 2 29 FEB am %-");
    }
}
