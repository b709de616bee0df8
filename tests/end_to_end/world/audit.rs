//! The end of a test: nothing is under way any more, nothing counts as a failure, and all services
//! stop.

use std::time::Duration;

use countersign_testbed::{Books, HEALED, Service, eventually};

use super::{GRACE, QUARANTINE, World};

impl World {
    /// Ends the world: waits until nothing is under way any more, looks for failures, and stops all
    /// services.
    pub(crate) async fn audit(self) {
        self.balances(HEALED).await;
        self.ends().await;
    }

    /// Waits until nothing is under way any more, and looks for failures.
    pub(crate) async fn balances(&self, deadline: Duration) {
        eventually(
            "every committed order is shipped once or parked with a reason",
            deadline,
            async || {
                let failures = self.failures().await;
                if failures.is_empty() { Ok(()) } else { Err(failures) }
            },
        )
        .await;
        self.are_at_rest(deadline, |queue| queue != QUARANTINE && !queue.ends_with(".dead")).await;
        // Every message that was under way has had its effect by now.
        assert_eq!(self.failures().await, [""; 0]);
    }

    /// Stops all services. Each ends in time, in good order and without having panicked before.
    pub(crate) async fn ends(self) {
        for service in [&self.orders, &self.logistics, &self.callback] {
            ends(service).await;
        }
    }

    async fn failures(&self) -> Vec<String> {
        let databases = &self.databases;
        let books = Books::read(&databases.orders, &databases.logistics, &databases.callback);
        let audit = books.await.expect("the books").audit();
        let mut failures = audit.failures();
        if audit.withdrawn > 0 {
            failures
                .push(format!("{} orders are withdrawn; no test withdraws any", audit.withdrawn));
        }
        failures
    }
}

/// Stops a service, if it is meant to run; it ends in time, in good order and without having panicked
/// before.
pub(crate) async fn ends(service: &Service) {
    if service.is_meant_to_run() {
        assert_eq!(service.ended(), None, "{} ended by itself", service.name());
        let status = service.terminate(GRACE).await.expect("an end in time");
        assert!(status.success(), "{} ended with {status}", service.name());
    }
    let log = service.log();
    let panic = log.lines().find(|line| line.contains("panicked at"));
    assert_eq!(panic, None, "{} panicked", service.name());
}
