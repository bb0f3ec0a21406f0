//! Durations, sizes and backoffs as people write them: read the same wherever a program of this workspace is told one, in a
//! file, a variable, or on a command line.

use std::time::Duration;

use queue_core::job::Backoff;

/// Ten years: what is longer is a mistake, and what is shorter can be added to any time.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// A duration with units: `500ms`, `2s`, `1m 30s`, `2h`. At most ten years, so that it can be added to any time.
///
/// # Errors
/// Says what a duration looks like.
pub fn duration(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text.trim()) {
        Ok(duration) if duration <= LONGEST => Ok(duration),
        Ok(_) => Err(format!("{text:?} is longer than ten years")),
        Err(_) => Err(format!("{text:?} is not a duration; write it with a unit, such as 500ms, 2s or 1m30s")),
    }
}

/// A size in bytes: `65536`, `64KiB`, `1MiB`, `2MB`.
///
/// # Errors
/// Says what a size looks like.
pub fn size(text: &str) -> Result<u64, String> {
    let size = text.trim().parse::<bytesize::ByteSize>().ok().filter(|_| !text.contains('-'));
    size.map(|size| size.as_u64())
        .ok_or_else(|| format!("{text:?} is not a size; write bytes, or a unit such as 64KiB or 1MiB"))
}

/// The wait between attempts: `none`, `fixed:DUR`, `exp:DUR..DUR` (first delay, doubled up to the longest) or `list:DUR,DUR,…`.
///
/// # Errors
/// Says what a backoff looks like.
pub fn backoff(text: &str) -> Result<Backoff, String> {
    let shape = || format!("{text:?} is not a backoff; write none, fixed:2s, exp:1s..30s or list:1s,10s,1m");
    match text.split_once(':') {
        None if text == "none" => Ok(Backoff::None),
        Some(("fixed", base)) => Ok(Backoff::Fixed { base: duration(base)? }),
        Some(("list", delays)) => {
            let delays = delays.split(',').map(duration);
            Ok(Backoff::Custom(delays.collect::<Result<_, _>>()?))
        }
        Some(("exp", range)) => {
            let (base, cap) = range.split_once("..").ok_or_else(shape)?;
            let (base, cap) = (duration(base)?, duration(cap)?);
            if base > cap {
                return Err(format!("{text:?} begins with its longest delay; write exp:SHORTEST..LONGEST"));
            }
            Ok(Backoff::Exponential { base, factor: 2.0, cap })
        }
        _ => Err(shape()),
    }
}
