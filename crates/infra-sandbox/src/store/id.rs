//! New ids: the time, for people and for sorting, and something random.

use std::time::{SystemTime, UNIX_EPOCH};

use forge_domain::{IdError, SessionId};

/// An id as `20261124-041530-k3f9`, the time in UTC.
pub(super) fn new(now: SystemTime, random: u32) -> Result<SessionId, IdError> {
    const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs());
    let (year, month, day) = date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let suffix: String =
        (0..4).map(|place| char::from(LETTERS[(random >> (place * 5) & 31) as usize])).collect();
    SessionId::parse(&format!(
        "{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}-{suffix}"
    ))
}

/// Year, month and day of a day since 1970, in the Gregorian calendar: by eras of 400 years, which are
/// all of one length, and years that begin in March, so that the leap day is the last.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097;
    let days = days + 719_468;
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pretty_assertions::assert_eq;

    use super::*;

    #[test]
    fn an_id_begins_with_its_time() {
        for (seconds, expected) in [
            (0, "19700101-000000-aaaa"),
            (951_782_400, "20000229-000000-aaaa"),
            (1_795_493_163, "20261124-040603-aaaa"),
            (4_102_444_799, "20991231-235959-aaaa"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(new(time, 0).unwrap().as_str(), expected);
        }
        assert_eq!(new(UNIX_EPOCH, u32::MAX).unwrap().as_str(), "19700101-000000-9999");
    }
}
