//! Audit lines of policies, written where Antrea writes them and as it does.
//!
//! The datapath sends what rules that log have decided, to the session's owner alone; the agent
//! puts the time in front and appends it to one file, which is renamed when it has grown too large.
//! What is lost on the way, for want of room, is counted and said in the log of the agent.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use seine_datapath_api::v1;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tracing::warn;

use crate::datapath_session::SessionState;

/// How long to wait before what failed is tried again.
const RETRY: Duration = Duration::from_millis(500);

/// Where lines go, and how much of them is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditLog {
    /// The file.
    pub path: PathBuf,
    /// It is renamed before it grows beyond this.
    pub bytes_max: u64,
    /// Renamed files that are kept.
    pub backups_max: usize,
}

/// Writes what the datapath sends, as long as there is a session.
pub async fn follow(log: AuditLog, socket: PathBuf, mut state: watch::Receiver<SessionState>) {
    let mut file = AuditFile { log, open: None };
    loop {
        let in_force = |state: &SessionState| matches!(state, SessionState::InForce(_));
        let Ok(SessionState::InForce(hello)) =
            state.wait_for(in_force).await.map(|state| state.clone())
        else {
            return;
        };
        // It ends with the session; a new one follows.
        if let Err(reason) = session(&mut file, &socket, hello.session).await {
            tracing::debug!("audit records are not followed: {reason}");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn session(file: &mut AuditFile, socket: &Path, session: u64) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| error.to_string();
    let mut client = seine_datapath_api::connect(socket).await.map_err(|it| failed(&it))?;
    let request = v1::FollowAuditRequest { session };
    let parts = client.follow_audit(request).await.map_err(|it| failed(&it))?;
    let (mut parts, mut lost) = (parts.into_inner(), 0);
    while let Some(part) = parts.next().await {
        let part = part.map_err(|it| failed(&it))?;
        if part.lost > lost {
            warn!(lost = part.lost - lost, "decisions of policies went without their audit line");
            lost = part.lost;
        }
        if let Err(error) = file.write(&part.lines) {
            let (lines, path) = (part.lines.len(), file.log.path.display());
            warn!(lines, "audit lines are lost: cannot write `{path}`: {error}");
        }
    }
    Ok(())
}

/// The file, opened when the first line comes.
struct AuditFile {
    log: AuditLog,
    open: Option<(File, u64)>,
}

impl AuditFile {
    fn write(&mut self, lines: &[v1::AuditLine]) -> io::Result<()> {
        for line in lines {
            let text = format!("{} {}\n", time_of(line.unix_us), line.text);
            let (mut file, written) = self.room_for(text.len() as u64)?;
            file.write_all(text.as_bytes())?;
            self.open = Some((file, written + text.len() as u64));
        }
        Ok(())
    }

    /// The open file and its length, with room for so many bytes more.
    fn room_for(&mut self, bytes: u64) -> io::Result<(File, u64)> {
        let path = self.log.path.clone();
        // Somebody else may have moved it away, as logrotate does.
        let open = self.open.take().filter(|_| path.exists());
        let (file, written) = match open {
            Some(open) => open,
            None => append_to(&path)?,
        };
        if written == 0 || written + bytes <= self.log.bytes_max {
            return Ok((file, written));
        }
        self.rotate()?;
        append_to(&path)
    }

    /// Moves the file away under a name that says when, and removes the oldest of those.
    fn rotate(&self) -> io::Result<()> {
        let path = &self.log.path;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let extension = path.extension().unwrap_or_default().to_string_lossy().into_owned();
        let folder = path.parent().unwrap_or(Path::new("/"));
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = time_of(now.unwrap_or_default().as_micros() as u64);
        let when = now.replace('/', "-").replace(' ', "T").replace(':', "-");
        fs::rename(path, folder.join(format!("{stem}-{when}.{extension}")))?;
        let ours = |name: &str| {
            name.starts_with(&format!("{stem}-")) && name.ends_with(&format!(".{extension}"))
        };
        let mut old: Vec<PathBuf> = fs::read_dir(folder)?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|it| it.file_name().is_some_and(|name| ours(&name.to_string_lossy())))
            .collect();
        old.sort();
        let surplus = old.len().saturating_sub(self.log.backups_max);
        old.into_iter().take(surplus).try_for_each(fs::remove_file)
    }
}

fn append_to(path: &Path) -> io::Result<(File, u64)> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let file = OpenOptions::new().create(true).append(true).open(path)?;
    let written = file.metadata()?.len();
    Ok((file, written))
}

/// "2023/07/04 12:45:21.804416", in UTC.
fn time_of(unix_us: u64) -> String {
    let (seconds, micros) = (unix_us / 1_000_000, unix_us % 1_000_000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = date_of(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year}/{month:02}/{day:02} {hour:02}:{minute:02}:{second:02}.{micros:06}")
}

/// Year, month and day of a day since 1970, by the Gregorian calendar.
fn date_of(days: u64) -> (u64, u64, u64) {
    // Counted from 0000-03-01, so that a leap day ends its year, and in eras of 400 years.
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
    use super::*;

    fn line(unix_us: u64) -> v1::AuditLine {
        v1::AuditLine { unix_us, text: "IngressRule K8sNetworkPolicy:default/web".into() }
    }

    #[test]
    fn a_line_begins_with_its_time_as_antreas_does() {
        assert_eq!(time_of(0), "1970/01/01 00:00:00.000000");
        assert_eq!(time_of(951_782_400_000_001), "2000/02/29 00:00:00.000001");
        assert_eq!(time_of(1_688_474_721_804_416), "2023/07/04 12:45:21.804416");
        assert_eq!(time_of(1_709_251_199_999_999), "2024/02/29 23:59:59.999999");
        assert_eq!(time_of(1_735_689_599_000_000), "2024/12/31 23:59:59.000000");
    }

    #[test]
    fn a_full_file_makes_room_and_only_so_many_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("networkpolicy/np.log");
        let log = AuditLog { path: path.clone(), bytes_max: 200, backups_max: 2 };
        let mut file = AuditFile { log, open: None };
        for number in 0..20 {
            file.write(&[line(number)]).unwrap();
            // Names of renamed files have to differ.
            std::thread::sleep(Duration::from_micros(10));
        }
        assert!(fs::metadata(&path).unwrap().len() <= 200);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 3);
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            text.ends_with("1970/01/01 00:00:00.000019 IngressRule K8sNetworkPolicy:default/web\n")
        );
    }

    #[test]
    fn a_file_that_somebody_took_away_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("np.log");
        let log = AuditLog { path: path.clone(), bytes_max: 2000, backups_max: 2 };
        let mut file = AuditFile { log, open: None };
        file.write(&[line(1)]).unwrap();
        fs::remove_file(&path).unwrap();
        file.write(&[line(2)]).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 1);
    }
}
