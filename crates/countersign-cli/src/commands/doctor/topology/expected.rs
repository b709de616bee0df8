//! The topology that the broker has to have.

use std::time::Duration;

use countersign_protocol::grpc::GetSettingsResponse;
use countersign_protocol::{Tier, Topology};

use super::actual::ActualTopology;

/// The topology that the callback service declares with these settings.
pub(crate) fn from_settings(settings: &GetSettingsResponse) -> Topology {
    let delays = settings.check_tiers_ms.iter().filter_map(|ms| u64::try_from(*ms).ok());
    let tiers: Vec<Tier> =
        delays.filter_map(|ms| Tier::new(Duration::from_millis(ms)).ok()).collect();
    Topology::callback(&tiers, u16::try_from(settings.confirm_shards).unwrap_or(1))
}

/// The same without the callback service's settings, as far as the keys of bindings tell: those of
/// the check exchange are tiers, those of the confirm exchange are numbers of shards.
pub(crate) fn from_keys(check_keys: &[String], confirm_keys: &[String]) -> Topology {
    let tiers: Vec<Tier> = check_keys.iter().filter_map(|key| key.parse().ok()).collect();
    let last_shard = confirm_keys.iter().filter_map(|key| key.parse::<u16>().ok()).max();
    Topology::callback(&tiers, last_shard.map_or(1, |last| last.saturating_add(1)))
}

/// The topology that a consumer declares for its queue. Its retry delays are read off the queues
/// that are there.
pub(crate) fn of_consumed(queue: &str, actual: &ActualTopology) -> Topology {
    let prefix = format!("{queue}.retry.");
    let delays = actual.queues.keys().filter_map(|name| name.strip_prefix(&prefix));
    let delays = delays.filter_map(|delay| humantime::parse_duration(delay).ok());
    let delays: Vec<Duration> = delays.filter(|delay| delay.as_millis() > 0).collect();
    Topology::consumed(queue, &delays)
}

#[cfg(test)]
mod tests {
    use countersign_protocol::topology;

    use super::super::actual::ActualQueue;
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|&text| text.to_owned()).collect()
    }

    #[test]
    fn keys_tell_what_settings_would() {
        let settings = GetSettingsResponse {
            check_tiers_ms: vec![5_000, 300_000],
            confirm_shards: 2,
            ..GetSettingsResponse::default()
        };
        let keys = from_keys(&texts(&["5s", "5m", "elsewhere"]), &texts(&["1", "0"]));
        assert_eq!(keys, from_settings(&settings));
    }

    #[test]
    fn the_retry_queues_of_a_consumer_tell_its_delays() {
        let delays = [Duration::from_millis(250), Duration::from_secs(60)];
        let mut actual = ActualTopology::default();
        for delay in delays {
            let name = topology::retry_queue("logistics.orders", delay);
            actual.queues.insert(name, ActualQueue::default());
        }
        actual.queues.insert("logistics.orders.retry.soon".to_owned(), ActualQueue::default());
        let expected = Topology::consumed("logistics.orders", &delays);
        assert_eq!(of_consumed("logistics.orders", &actual), expected);
    }
}
