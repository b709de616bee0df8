//! Retention: each party has to remember ids for longer than a message can be sent again.

use countersign_protocol::grpc::GetSettingsResponse;

use super::database::{Database, Owner};
use super::finding::{Finding, error};
use crate::terminal::clock::span;

/// The latest that a message is sent again by itself: its check waits, and then it is open until it
/// is parked. In milliseconds after it was made.
pub(crate) fn latest_resend_ms(settings: &GetSettingsResponse) -> i64 {
    let longest_check = settings.check_tiers_ms.iter().copied().max().unwrap_or(0);
    longest_check.saturating_add(settings.park_after_ms)
}

/// The settings and tables that remember too short a time.
pub(crate) fn check(settings: &GetSettingsResponse, databases: &[Database]) -> Vec<Finding> {
    let latest = latest_resend_ms(settings);
    let mut findings = Vec::new();
    if settings.retention_ms < latest {
        findings.push(error(
            "the callback service's settings",
            format!(
                "confirms are known for {}, and messages can be sent again for {} (COUNTERSIGN_PARK_AFTER and the longest of COUNTERSIGN_CHECK_TIERS)",
                words(settings.retention_ms),
                words(latest)
            ),
            "raise COUNTERSIGN_RETENTION of the callback service",
        ));
    }
    for database in databases {
        for part in &database.parts {
            for table in &part.tables {
                let Some(oldest) = table.oldest_ms() else { continue };
                let back = database.now_ms.saturating_sub(oldest);
                if back >= latest {
                    continue;
                }
                let (what, fix) = match part.of {
                    Owner::Callback => (
                        "confirms are known",
                        "raise COUNTERSIGN_RETENTION of the callback service",
                    ),
                    Owner::Upstream => (
                        "the upstream knows its messages",
                        "raise the retention in its ProducerSettings",
                    ),
                    Owner::Consumer => (
                        "the consumer knows what it has processed",
                        "raise the retention in its ConsumerSettings: older deliveries are refused as too old to know",
                    ),
                };
                findings.push(error(
                    format!("table {} in {}", table.name, database.name),
                    format!("{what} for {}, and messages can be sent again for {}", words(back), words(latest)),
                    format!("{fix}; or lower COUNTERSIGN_PARK_AFTER. A table's past is not made up: it takes that long to grow"),
                ));
            }
        }
    }
    findings
}

fn words(ms: i64) -> String {
    span(u64::try_from(ms).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::super::database::{Part, Table};
    use super::*;

    const DAY_MS: i64 = 24 * 60 * 60 * 1_000;

    fn settings(park_after_days: i64, retention_days: i64) -> GetSettingsResponse {
        GetSettingsResponse {
            check_tiers_ms: vec![5_000, 300_000],
            park_after_ms: park_after_days * DAY_MS,
            retention_ms: retention_days * DAY_MS,
            ..GetSettingsResponse::default()
        }
    }

    fn inbox(back_days: i64) -> Database {
        let table = Table {
            name: "countersign.inbox".to_owned(),
            days_ms: (-back_days..=2).map(|day| (20_000 + day) * DAY_MS).collect(),
            has_default: false,
        };
        let part = Part { of: Owner::Consumer, tables: vec![table], ..Part::default() };
        Database { now_ms: 20_000 * DAY_MS + DAY_MS / 2, parts: vec![part], ..Database::default() }
    }

    #[test]
    fn memories_have_to_last_longer_than_a_message_can_come_again() {
        assert_eq!(check(&settings(1, 30), &[inbox(30)]), []);
        assert_eq!(check(&settings(1, 1), &[]).len(), 1, "the check's delay comes on top");
        let found = check(&settings(7, 30), &[inbox(6)]);
        assert_eq!(found.len(), 1);
        assert!(
            found[0].finding.contains("6d 12h") && found[0].fix.contains("ConsumerSettings"),
            "{found:?}"
        );
        assert_eq!(check(&settings(6, 30), &[inbox(6)]), []);
    }
}
