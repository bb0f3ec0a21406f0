use super::{
    super::State,
    ledger::Seat,
    pump::{DRAIN, REFUSED, SILENCE},
    *,
};

fn letter() -> Letter {
    let name = ShortString::default();
    Letter { exchange: name.clone(), routing_key: name, properties: BasicProperties::default(), body: Bytes::new() }
}

fn seat(ledger: &Arc<Ledger>, index: usize) -> Seat {
    assert!(ledger.write(index));
    Seat { ledger: ledger.clone(), index }
}

#[tokio::test(start_paused = true)]
async fn what_the_pump_lets_go_of_keeps_nobody_waiting() {
    let ledger = Arc::new(Ledger::new(3));
    drop(seat(&ledger, 0));
    drop(Call { letters: [letter(), letter()].into(), next: 1, ledger: ledger.clone() });
    timeout_at(Instant::now() + DRAIN, ledger.settled()).await.unwrap();
    let sent = ledger.close(&blocked());
    assert!(matches!(sent[..], [Sent::Unknown(_), Sent::NotWritten(_), Sent::NotWritten(_)]), "{sent:?}");
}

/// A message that nobody confirms, and how long it takes until its caller is told so.
async fn unconfirmed(refused: Option<Instant>) -> Duration {
    let ledger = Arc::new(Ledger::new(1));
    let (_states, states) = watch::channel(State::Down(None));
    let (calls, inbox) = mpsc::channel(1);
    let (_closing, closing) = watch::channel(false);
    let mut pump = Pump::new(states, inbox, closing);
    pump.refused = refused;
    pump.flights.lose(seat(&ledger, 0));
    let began = Instant::now();
    let running = tokio::spawn(pump.run());
    timeout_at(began + SILENCE * 2, ledger.settled()).await.unwrap();
    let took = began.elapsed();
    assert!(matches!(ledger.close(&blocked())[..], [Sent::Unknown(_)]));
    drop(calls);
    running.await.unwrap();
    took
}

#[tokio::test(start_paused = true)]
async fn messages_that_nobody_confirms_do_not_fill_the_window_for_ever() {
    assert_eq!(unconfirmed(None).await.as_secs(), SILENCE.as_secs());
}

#[tokio::test(start_paused = true)]
async fn behind_a_refusal_a_message_that_nobody_confirms_holds_up_all_others_only_for_a_while() {
    assert_eq!(unconfirmed(Some(Instant::now())).await.as_secs(), REFUSED.as_secs());
}
