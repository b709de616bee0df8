//! Callers who place orders at a steady rate, and place a new one when they get no answer.

use std::time::Duration;

use anyhow::{Result, bail};
use futures_util::{StreamExt as _, stream};
use orders::grpc::PlaceOrderRequest;
use orders::grpc::orders_client::OrdersClient;
use tokio::sync::{Mutex, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Request;
use tonic::transport::Channel;

use crate::flow::{Flow, Gate};
use crate::service::Service;

/// How many callers place orders at a time: enough that a killed service leaves some in the midst
/// of their call.
const CALLERS: usize = 64;
/// After this long without an answer a caller gives up.
const PATIENCE: Duration = Duration::from_secs(5);
/// The pause after a refusal of a service that is up.
const PAUSE: Duration = Duration::from_millis(100);
/// After this long without a placed order the placer gives up: no order would ever be placed.
const STUCK_AFTER: Duration = Duration::from_secs(40);
/// How much lateness a caller makes up for: the timer's grain and busy moments.
const CATCH_UP: Duration = Duration::from_millis(20);
/// Goods to order.
const GOODS: [&str; 8] =
    ["teapot", "kite", "lamp", "bicycle", "cello", "globe", "compass", "telescope"];

/// Places orders.
#[derive(Debug)]
pub(crate) struct Placer<'a> {
    client: OrdersClient<Channel>,
    up: watch::Receiver<bool>,
    flow: &'a Flow,
    last_refusal: Mutex<String>,
}

impl<'a> Placer<'a> {
    pub(crate) fn new(orders: &Service, flow: &'a Flow) -> Result<Self> {
        Ok(Self {
            client: OrdersClient::new(orders.channel()?),
            up: orders.up(),
            flow,
            last_refusal: Mutex::default(),
        })
    }

    /// Places this many orders, `rate` per second, as the flow lets them through.
    pub(crate) async fn place_all(&self, orders: u64, rate: f64) -> Result<()> {
        let start = (Pace::new(rate, Instant::now()), self.flow.gate(), 0);
        let turns = stream::unfold(start, |(mut pace, mut gate, number)| async move {
            pace.wait(number, &mut gate).await;
            Some((number, (pace, gate, number + 1)))
        });
        let placing = turns
            .take(usize::try_from(orders)?)
            .for_each_concurrent(CALLERS, |number| self.place(number));
        tokio::select! {
            () = placing => Ok(()),
            () = self.stuck() => bail!(
                "no order was placed for {STUCK_AFTER:?}; the last refusal: {}",
                self.last_refusal.lock().await
            ),
        }
    }

    async fn place(&self, number: u64) {
        let name =
            format!("{} no. {number}", GOODS[usize::try_from(number).unwrap_or(0) % GOODS.len()]);
        let mut up = self.up.clone();
        loop {
            // The stage outlives its callers, so this does not fail.
            let _ = up.wait_for(|&up| up).await;
            let mut request = Request::new(PlaceOrderRequest { name: name.clone() });
            request.set_timeout(PATIENCE);
            let mut client = self.client.clone();
            let why = match timeout(PATIENCE, client.place_order(request)).await {
                Ok(Ok(_)) => return self.flow.accept(),
                Ok(Err(status)) => status.to_string(),
                Err(_) => format!("no answer within {PATIENCE:?}"),
            };
            *self.last_refusal.lock().await = why;
            self.flow.refuse();
            sleep(PAUSE).await;
        }
    }

    /// Returns when no order was placed for too long.
    async fn stuck(&self) {
        loop {
            let before = self.flow.accepted();
            if timeout(STUCK_AFTER, self.flow.reached(before + 1)).await.is_err() {
                return;
            }
        }
    }
}

/// The time of the next order.
#[derive(Clone, Copy, Debug)]
struct Pace {
    gap: Duration,
    next: Instant,
}

/// Whether an order may be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    Now,
    At(Instant),
    /// When the gate opens.
    Later,
}

impl Pace {
    fn new(rate: f64, now: Instant) -> Self {
        Self { gap: Duration::from_secs_f64(1.0 / rate), next: now }
    }

    fn turn(&mut self, number: u64, gate: Gate, now: Instant) -> Turn {
        if number >= gate.limit {
            return Turn::Later;
        }
        if self.next > now && !gate.rush {
            return Turn::At(self.next);
        }
        // The placer does not make up for orders that were held up.
        let earliest = now.checked_sub(CATCH_UP).unwrap_or(now);
        self.next = self.next.max(earliest) + self.gap;
        Turn::Now
    }

    /// Waits for this order's time.
    async fn wait(&mut self, number: u64, gate: &mut watch::Receiver<Gate>) {
        loop {
            let open = *gate.borrow_and_update();
            let at = match self.turn(number, open, Instant::now()) {
                Turn::Now => return,
                Turn::At(at) => Some(at),
                Turn::Later => None,
            };
            tokio::select! {
                () = sleep_until(at.unwrap_or_else(Instant::now)), if at.is_some() => {}
                // The flow outlives its callers, so this does not fail.
                _ = gate.changed() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN: Gate = Gate { limit: u64::MAX, rush: false };

    #[test]
    fn orders_pass_at_their_rate_and_what_was_held_up_is_not_made_up_for() {
        let began = Instant::now();
        let gap = Duration::from_millis(100);
        let mut pace = Pace::new(10.0, began);
        for number in 0..10_u32 {
            let due = began + gap * number;
            assert_eq!(pace.turn(number.into(), OPEN, due), Turn::Now);
            assert_eq!(pace.turn(u64::from(number) + 1, OPEN, due), Turn::At(due + gap));
        }
        let later = began + Duration::from_secs(60);
        assert_eq!(pace.turn(10, OPEN, later), Turn::Now);
        assert_eq!(pace.turn(11, OPEN, later), Turn::At(later - CATCH_UP + gap));
    }

    #[test]
    fn no_order_passes_a_shut_gate_and_a_rush_does_not_wait_for_its_turn() {
        let now = Instant::now();
        let mut pace = Pace::new(0.001, now);
        let gate = Gate { limit: 1, rush: false };
        assert_eq!(pace.turn(0, gate, now), Turn::Now);
        assert_eq!(pace.turn(1, gate, now), Turn::Later);
        let rush = Gate { limit: 100, rush: true };
        for number in 1..100 {
            assert_eq!(pace.turn(number, rush, now), Turn::Now);
        }
        assert_eq!(pace.turn(100, rush, now), Turn::Later);
    }
}
